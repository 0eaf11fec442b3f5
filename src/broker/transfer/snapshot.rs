//! Snapshots: a stream, as it was when the snapshot began, to whoever listens to a subject.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, Record, StreamId};

use crate::model::answer;
use crate::model::api::{ApiResponse, SnapshotOptions, StreamInfoOptions};
use crate::model::archive::{self, ArchivedConsumer};
use crate::model::error::ApiError;
use crate::model::s2;
use crate::model::stream::StreamState;
use crate::model::subject::is_publishable;
use crate::model::time::Timestamp;

use super::super::{Awaiting, Broker};
use super::{MAX_TRANSFERS, NAME_LENGTH, PATIENCE};

/// Bytes of a chunk, unless the client says otherwise.
const CHUNK: i64 = 128 << 10;
/// Fewest that it may ask for.
const MIN_CHUNK: usize = 1 << 10;
/// What it may say.
const CHUNKS: (i64, i64) = (1 << 10, 512 << 10);
/// Bytes that may be on their way, whatever the client says: more only adds memory.
const WINDOW: i64 = 2 << 20;
/// Records of one read.
const READ_RECORDS: usize = 1024;
/// Bytes of one read.
const READ_BYTES: usize = 256 << 10;
/// Reads of one turn, so that nobody else waits long.
const READS: usize = 8;

/// One that is under way.
#[derive(Debug)]
pub(in crate::broker) struct Snapshot {
    stream: StreamId,
    stream_name: String,
    /// Where it goes.
    subject: String,
    chunk: usize,
    window: usize,
    /// The next sequence to be read, and the last.
    next: (u64, u64),
    /// What is to be sent.
    packed: BytesMut,
    /// Chunks that were sent.
    sent: u64,
    /// Those of them that are not acknowledged, and their bytes.
    outstanding: BTreeMap<u64, usize>,
    is_reading: bool,
    /// Whether all is in `packed`.
    is_written: bool,
    /// When its client is taken for silent.
    until: Duration,
    began: Timestamp,
}

impl Snapshot {
    fn has_window(&self) -> bool {
        let bytes: usize = self.outstanding.values().sum();
        self.outstanding.is_empty() || bytes + self.chunk <= self.window
    }

    fn pack(&mut self, raw: &[u8]) {
        let mut packed = Vec::new();
        s2::put(raw, &mut packed);
        self.packed.extend_from_slice(&packed);
    }
}

impl<L: Log> Broker<L> {
    /// Begins a snapshot, which follows the answer.
    pub(in crate::broker) fn begin_snapshot(
        &mut self,
        stream: StreamId,
        options: &SnapshotOptions,
    ) -> Result<ApiResponse, ApiError> {
        if !is_publishable(&options.deliver_subject) {
            return Err(ApiError::snapshot_deliver_subject_invalid());
        }
        if self.transfers.snapshots.len() >= MAX_TRANSFERS {
            return Err(ApiError::insufficient_resources());
        }
        let info = self.stream_info(stream, &StreamInfoOptions::default())?;
        let (least, most) = CHUNKS;
        let chunk = if options.chunk_size <= 0 { CHUNK } else { options.chunk_size };
        let window =
            if options.window_size <= 0 { WINDOW } else { options.window_size.min(WINDOW) };
        let mut begun = Vec::new();
        s2::begin(&mut begun);
        let mut snapshot = Snapshot {
            stream,
            stream_name: info.config.name.clone(),
            subject: options.deliver_subject.clone(),
            chunk: usize::try_from(chunk.clamp(least, most)).unwrap_or(MIN_CHUNK),
            window: usize::try_from(window).unwrap_or(MIN_CHUNK),
            next: (info.state.first_seq, info.state.last_seq),
            packed: BytesMut::from(begun.as_slice()),
            sent: 0,
            outstanding: BTreeMap::new(),
            is_reading: false,
            is_written: false,
            until: self.now.monotonic + PATIENCE,
            began: Timestamp(self.now.wall),
        };
        let head = self.archive_head(stream, &info.state, !options.no_consumers);
        snapshot.pack(&head);
        self.advise_snapshot(&snapshot.stream_name, &info.state);
        let name = self.draw_name(NAME_LENGTH);
        // The answer goes first.
        self.wake_transfer(&name, Some(Duration::from_nanos(1)));
        self.transfers.snapshots.insert(name, snapshot);
        Ok(ApiResponse::Snapshot { config: Box::new(info.config), state: info.state })
    }

    /// What stands before the messages.
    fn archive_head(&self, id: StreamId, state: &StreamState, has_consumers: bool) -> Vec<u8> {
        let mut head = Vec::new();
        archive::begin(&mut head);
        let json = |value: Result<Vec<u8>, _>| value.unwrap_or_default();
        let now = self.now.wall;
        archive::put_file(archive::STATE, now, &json(serde_json::to_vec(state)), &mut head);
        let Some(stream) = self.catalog.get(id).filter(|_| has_consumers) else { return head };
        for (name, member) in stream.consumers.iter() {
            let (config, state) = (member.consumer.config().clone(), member.consumer.progress());
            let body = json(serde_json::to_vec(&ArchivedConsumer { config, state }));
            archive::put_file(&format!("{}{name}", archive::CONSUMERS), now, &body, &mut head);
        }
        head
    }

    /// A chunk has arrived: `$JS.SNAPSHOT.ACK.<stream>.<name>.<size>.<number>`.
    pub(in crate::broker) fn snapshot_acked(&mut self, subject: &str) {
        let mut tokens = subject.split('.').skip(4);
        let (Some(name), Some(number)) = (tokens.next(), tokens.nth(1)) else { return };
        let until = self.now.monotonic + PATIENCE;
        let found = self.transfers.snapshots.get_mut(name).zip(number.parse().ok());
        let Some((snapshot, number)) = found else { return };
        if snapshot.outstanding.remove(&number).is_some() {
            snapshot.until = until;
            self.go_on_with_snapshot(name);
        }
    }

    pub(super) fn snapshot_timeout(&mut self, name: &str) {
        let now = self.now.monotonic;
        match self.transfers.snapshots.get(name) {
            Some(snapshot) if snapshot.until <= now => {
                self.end_snapshot(name, "408 No Flow Response");
            }
            Some(_) => self.go_on_with_snapshot(name),
            None => {}
        }
    }

    /// Sends what may be sent, and reads what is missing.
    fn go_on_with_snapshot(&mut self, name: &str) {
        for _ in 0..READS {
            self.send_chunks(name);
            let Some(snapshot) = self.transfers.snapshots.get_mut(name) else { return };
            let waits = snapshot.is_reading || snapshot.packed.len() >= snapshot.chunk;
            if waits || snapshot.is_written {
                let left = snapshot.until.saturating_sub(self.now.monotonic);
                return self.wake_transfer(name, Some(left));
            }
            let (from, to) = snapshot.next;
            if from > to || to == 0 {
                let mut raw = Vec::new();
                archive::end(&mut raw);
                snapshot.pack(&raw);
                snapshot.is_written = true;
                continue;
            }
            let stream = snapshot.stream;
            let (max_records, max_bytes) = (READ_RECORDS, READ_BYTES);
            let read = ReadRequest { stream, from, to, since: 0, max_records, max_bytes };
            let mut records = Vec::new();
            match self.log.read(&read, &Filter::all(), &mut records) {
                ReadOutcome::Ready { next } => self.take_snapshot(name, &records, next),
                ReadOutcome::Waiting(id) => {
                    snapshot.is_reading = true;
                    self.reads.insert(id, Awaiting::Snapshot(name.to_owned()));
                }
            }
        }
        self.wake_transfer(name, Some(Duration::from_nanos(1)));
    }

    /// A read was answered.
    pub(in crate::broker) fn snapshot_read(
        &mut self,
        name: &str,
        result: Result<ReadBatch, ReadError>,
    ) {
        let Some(snapshot) = self.transfers.snapshots.get_mut(name) else { return };
        snapshot.is_reading = false;
        match result {
            Ok(batch) => {
                self.take_snapshot(name, &batch.records, batch.next);
                self.go_on_with_snapshot(name);
            }
            Err(error) => {
                tracing::warn!(stream = %snapshot.stream_name, %error, "a snapshot ends before its time");
                self.end_snapshot(name, "500 a part of the stream cannot be read");
            }
        }
    }

    fn take_snapshot(&mut self, name: &str, records: &[Record], next: u64) {
        let Some(snapshot) = self.transfers.snapshots.get_mut(name) else { return };
        let mut raw = Vec::new();
        for record in records {
            let (headers, body) = (record.headers(), record.payload());
            archive::put(record.subject(), record.time, record.seq, headers, body, &mut raw);
        }
        snapshot.pack(&raw);
        snapshot.next.0 = next;
    }

    /// Sends chunks, as many as may be on their way. When all is sent, the snapshot is over.
    fn send_chunks(&mut self, name: &str) {
        while let Some(snapshot) = self.transfers.snapshots.get_mut(name) {
            let route = self.router.find(&snapshot.subject);
            if route.has_no_subscriptions() {
                // Nobody is there to be told.
                return self.forget_snapshot(name);
            }
            let is_whole = snapshot.packed.len() >= snapshot.chunk;
            if !(is_whole || snapshot.is_written) || !snapshot.has_window() {
                return;
            }
            let size = snapshot.chunk.min(snapshot.packed.len());
            let payload = Bytes::copy_from_slice(&snapshot.packed.split_to(size));
            let (subject, is_last) = (snapshot.subject.clone(), snapshot.packed.is_empty());
            let is_last = is_last && snapshot.is_written;
            let mut reply = String::new();
            if !is_last {
                snapshot.sent += 1;
                snapshot.outstanding.insert(snapshot.sent, size);
                let Snapshot { stream_name, sent, chunk, .. } = snapshot;
                reply = format!("$JS.SNAPSHOT.ACK.{stream_name}.{name}.{chunk}.{sent}");
            }
            self.tell_listeners(subject.into(), reply.into(), Bytes::new(), payload);
            if is_last {
                return self.end_snapshot(name, "204");
            }
        }
    }

    /// Tells that nothing more comes, and why.
    fn end_snapshot(&mut self, name: &str, status: &str) {
        let Some(snapshot) = self.transfers.snapshots.get(name) else { return };
        let (code, text) = status.split_once(' ').unwrap_or((status, ""));
        let headers = answer::status(code.parse().unwrap_or(500), text);
        let (subject, began) = (snapshot.subject.clone(), snapshot.began);
        let stream = snapshot.stream_name.clone();
        self.forget_snapshot(name);
        self.answer_subject(subject.into(), headers, Bytes::new());
        self.advise_snapshot_end(&stream, began);
    }

    /// The stream is about to be deleted: what was not sent cannot be.
    pub(in crate::broker) fn end_snapshots_of(&mut self, id: StreamId) {
        let of_it = self.transfers.snapshots.iter().filter(|(_, snapshot)| snapshot.stream == id);
        let names: Vec<String> = of_it.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.end_snapshot(&name, "500 the stream was deleted");
        }
    }

    fn forget_snapshot(&mut self, name: &str) {
        self.transfers.snapshots.remove(name);
        self.wake_transfer(name, None);
    }
}
