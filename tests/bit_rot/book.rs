//! A data directory with everything in it, and the book of what was published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use claudebus::model::api::ApiRequest;
use claudebus::model::batch::MessageBatch;
use claudebus::model::consumer::{AckPolicy, ConsumerConfig};
use claudebus::model::stream::{BlockCompression, StreamConfig};
use claudebus_storage::disk::Disk;

use crate::bench::Bench;

/// The streams, in the order of their numbers from 1.
pub const STREAMS: [&str; 3] = ["ORDERS", "AUDIT", "RAW"];
/// Subjects of each stream.
pub const SUBJECTS: u64 = 7;

/// A message as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

/// What was acknowledged, by stream and sequence.
#[derive(Default)]
pub struct Book {
    pub messages: BTreeMap<&'static str, BTreeMap<u64, Message>>,
    pub deleted: BTreeMap<&'static str, BTreeSet<u64>>,
}

impl Book {
    /// The highest sequence that was acknowledged.
    pub fn last(&self, stream: &str) -> u64 {
        self.messages[stream].keys().next_back().copied().unwrap_or(0)
    }

    /// Sequences that must be there.
    pub fn live(&self, stream: &str) -> impl Iterator<Item = (&u64, &Message)> {
        self.messages[stream].iter().filter(|(seq, _)| !self.deleted[stream].contains(seq))
    }
}

/// A small generator (splitmix64), so that a seed names a run.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Fills a directory through a broker. It ends as after a crash, or cleanly.
pub fn fill(disk: Arc<dyn Disk>, seed: u64, index: bool, cleanly: bool) -> Book {
    let mut chance = Chance(seed);
    let mut book = Book::default();
    let mut bench = Bench::open(Arc::clone(&disk), seed, index).expect("a new directory opens");
    make_streams(&mut bench);
    for name in STREAMS {
        book.messages.insert(name, BTreeMap::new());
        book.deleted.insert(name, BTreeSet::new());
    }
    for round in 0..130 {
        let stream = STREAMS[chance.below(3) as usize];
        publish(&mut bench, &mut chance, &mut book, stream, round);
        if round % 9 == 8 {
            delete_one(&mut bench, &mut chance, &mut book);
        }
        if round % 20 == 19 {
            let got = bench.receive("ORDERS", "worker", 9);
            let last = got.deliveries.last().map_or(0, |delivery| delivery.record.seq);
            bench.ack("ORDERS", "worker", last.saturating_sub(2));
        }
    }
    if cleanly {
        bench.close();
        return book;
    }
    drop(bench);
    // A second life, too short for another checkpoint: its groups are in the journal alone.
    let mut bench = Bench::open_roomy(disk, seed + 1, index).expect("it opens again");
    for round in 130..170 {
        let stream = STREAMS[chance.below(3) as usize];
        publish(&mut bench, &mut chance, &mut book, stream, round);
    }
    book
}

fn make_streams(bench: &mut Bench) {
    for (name, block_compression) in STREAMS.into_iter().zip([
        BlockCompression::Lz4,
        BlockCompression::Zstd,
        BlockCompression::Off,
    ]) {
        let stream = StreamConfig {
            name: name.to_owned(),
            subjects: vec![format!("{}.>", name.to_lowercase())],
            allow_msg_ttl: true,
            block_compression,
            ..StreamConfig::default()
        };
        bench.api(ApiRequest::StreamCreate(Box::new(stream))).expect("a stream");
    }
    let worker = ConsumerConfig {
        durable_name: Some("worker".to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 1_000,
        ..ConsumerConfig::default()
    };
    bench.consumer("ORDERS", worker).expect("a consumer");
}

fn publish(
    bench: &mut Bench,
    chance: &mut Chance,
    book: &mut Book,
    stream: &'static str,
    round: u64,
) {
    let mut batch = Vec::new();
    for n in 0..1 + chance.below(7) {
        let subject = format!("{}.{}", stream.to_lowercase(), chance.below(SUBJECTS));
        let headers = match chance.below(4) {
            0 => format!("NATS/1.0\r\nNats-Msg-Id: {round}-{n}\r\n\r\n"),
            1 => "NATS/1.0\r\nNats-TTL: 1h\r\n\r\n".to_owned(),
            2 => format!("NATS/1.0\r\nRound: {round}\r\n\r\n"),
            _ => String::new(),
        };
        let size = [0, 20, 200, 1_500][chance.below(4) as usize];
        let payload = (0..size).map(|_| chance.next() as u8).collect();
        batch.push(Message { subject, headers: headers.into_bytes(), payload });
    }
    let answers = bench.publish(batch_of(&batch));
    for (message, seq) in batch.into_iter().zip(answers) {
        let seq = seq.expect("it is stored");
        assert!(book.messages.get_mut(stream).expect("known").insert(seq, message).is_none());
    }
}

/// Messages as a session would give them to the broker.
pub fn batch_of(messages: &[Message]) -> MessageBatch {
    let mut buffer = BytesMut::new();
    let mut starts = Vec::new();
    for message in messages {
        starts.push(buffer.len());
        buffer.extend_from_slice(message.subject.as_bytes());
        buffer.extend_from_slice(&message.headers);
        buffer.extend_from_slice(&message.payload);
    }
    let mut batch = MessageBatch::new(buffer.freeze());
    for (message, start) in messages.iter().zip(starts) {
        let subject = (start, message.subject.len());
        let (headers, payload) = (message.headers.len(), message.payload.len());
        batch.push(start, subject, 0, headers, payload).expect("it fits");
    }
    batch
}

fn delete_one(bench: &mut Bench, chance: &mut Chance, book: &mut Book) {
    let stream = STREAMS[chance.below(3) as usize];
    let last = book.last(stream);
    let seq = 1 + chance.below(last);
    let no_erase = chance.below(2) == 0;
    let request = ApiRequest::MessageDelete { stream: stream.to_owned(), seq, no_erase };
    if bench.api(request).is_ok() {
        book.deleted.get_mut(stream).expect("known").insert(seq);
    }
}
