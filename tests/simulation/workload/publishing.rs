//! Publishing: numbered by a producer or with an id, one by one or many at once, and again.

use std::time::Duration;

use claudebus::model::batch::MessageBatch;
use claudebus::model::headers::{Block, names};
use claudebus::model::request::{ProducerId, Request};

use crate::book::{Id, Sent};
use crate::clients::{SESSIONS, Simulation};
use crate::world::Sabotage;

use super::LEAVES;

/// Producers that number their messages.
const PRODUCERS: u64 = 3;

/// How a message is known when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// By the counter of this producer.
    Producer(u64),
    /// By its message id.
    Id,
    /// Not at all.
    None,
}

impl Simulation {
    /// Makes up a message. It is not sent yet.
    pub fn compose(&mut self, stream: usize, name: Name, subject: String) -> Id {
        let id = self.book.next_id;
        self.book.next_id += 1;
        let mut payload = format!("{id}|").into_bytes();
        let padding =
            self.world.chance.below(if self.world.chance.clone().one_in(8) { 3000 } else { 300 });
        payload.extend((0..padding).map(|n| (id.wrapping_mul(31) + n / 7) as u8));
        let mut block = Block::default();
        let mut is_bare = true;
        let book = &self.book.streams[stream];
        if name == Name::Id {
            block.add(names::MESSAGE_ID, &format!("m{id}"));
            is_bare = false;
        }
        let ttl = (book.config.allow_msg_ttl && self.world.chance.one_in(4))
            .then(|| Duration::from_secs(5 + self.world.chance.below(60)));
        if let Some(ttl) = ttl {
            block.add(names::TTL, &format!("{}s", ttl.as_secs()));
            is_bare = false;
        }
        let is_rollup = book.config.allow_rollup_hdrs && self.world.chance.one_in(25);
        if is_rollup {
            block.add(names::ROLLUP, "sub");
            is_bare = false;
            self.book.streams[stream].rollups.push(id);
        }
        let priority =
            if self.world.chance.one_in(3) { self.world.chance.below(10) as u8 } else { 0 };
        if priority > 0 {
            block.add(names::PRIORITY, &priority.to_string());
            is_bare = false;
        }
        let sent = Sent {
            stream,
            epoch: self.book.streams[stream].epoch,
            subject,
            headers: if is_bare { Vec::new() } else { block.finish() },
            payload,
            wall: self.world.now().wall,
            ttl,
            number: if let Name::Producer(producer) = name {
                Some((producer.into(), id))
            } else {
                None
            },
            seq: None,
            is_acked: false,
            acked_in: 0,
            is_refused: false,
            sendings: 0,
            lacked_room: false,
            requeues: 0,
            is_rollup,
            priority,
            is_repeatable: name != Name::None,
            fired_by: None,
        };
        self.book.sent.insert(id, sent);
        id
    }

    pub(super) fn publish(&mut self) {
        let stream = self.draw_stream();
        if !self.book.streams[stream].exists {
            return;
        }
        let prefix = self.book.streams[stream].prefix;
        let leaf = *self.world.chance.pick(&LEAVES);
        let subject = format!("{prefix}.{leaf}");
        if self.world.chance.one_in(3) {
            let id = self.compose(stream, Name::Id, subject);
            self.send(id);
            return;
        }
        let producer = 1 + self.world.chance.below(PRODUCERS);
        let count = 1 + self.world.chance.below(5);
        let ids: Vec<Id> = (0..count)
            .map(|_| self.compose(stream, Name::Producer(producer), subject.clone()))
            .collect();
        self.send_batch(u128::from(producer), &ids);
        if self.world.sabotage == Sabotage::DoubledPublish && self.world.chance.one_in(20) {
            self.send_batch(99, &ids);
        }
    }

    /// Sends messages with counters that follow each other as one batch.
    pub(super) fn send_batch(&mut self, producer: u128, ids: &[Id]) {
        let mut buffer = Vec::new();
        let mut parts = Vec::new();
        for id in ids {
            self.note_sending(*id);
            let sent = &self.book.sent[id];
            parts.push((buffer.len(), sent.subject.len(), sent.headers.len(), sent.payload.len()));
            buffer.extend_from_slice(sent.subject.as_bytes());
            buffer.extend_from_slice(&sent.headers);
            buffer.extend_from_slice(&sent.payload);
            self.unanswered.insert((producer, *id), *id);
        }
        let mut batch = MessageBatch::new(buffer.into());
        for (start, subject, headers, payload) in parts {
            batch.push(start, (start, subject), 0, headers, payload).expect("the parts fit");
        }
        self.world.trace.say(format_args!("send {ids:?} of producer {producer}"));
        let producer = ProducerId(producer);
        self.world.handle(SESSIONS[0], Request::Publish { producer, first: ids[0], batch });
    }

    /// A client that is not sure sends again what was answered long ago.
    pub(super) fn resend_one(&mut self) {
        if self.book.next_id == 0 {
            return;
        }
        let id = self.world.chance.below(self.book.next_id);
        let sent = &self.book.sent[&id];
        let book = &self.book.streams[sent.stream];
        // Message ids of the stream with an age limit are forgotten soon.
        let is_known = sent.number.is_some() || book.config.max_age.is_zero();
        if sent.is_repeatable
            && sent.is_acked
            && is_known
            && sent.epoch == book.epoch
            && book.exists
        {
            self.send(id);
        }
    }
}
