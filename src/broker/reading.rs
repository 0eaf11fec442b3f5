//! Reads for consumers that need the disk, and their answers.

use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::record::StorageKind;
use claudebus_storage::{Log, ReadId, Record, StreamId, SubjectId};

use crate::model::event::Gap;

use super::consumer::{DeadReason, Meta};
use super::member::Member;
use super::{Awaiting, Broker, Deadline};

/// How long a consumer whose read failed waits, unless something happens before.
const READ_AGAIN: Duration = Duration::from_secs(1);

impl<L: Log> Broker<L> {
    /// Reads what a consumer wants; if that needs the disk, the consumer waits.
    pub(super) fn read_for(&mut self, name: &Arc<str>, member: &mut Member, read: &ReadRequest) {
        let mut found = Vec::new();
        match self.log.read(read, &member.filter, &mut found) {
            ReadOutcome::Ready { next } => {
                member.consumer.read_memory();
                member.consumer.feed(found, next);
            }
            ReadOutcome::Waiting(id) => {
                member.consumer.reading(id);
                self.reads.insert(id, Awaiting::Records(read.stream, Arc::clone(name)));
            }
        }
    }

    /// Reads several records of which it is known that a consumer wants them.
    pub(super) fn gather_for(
        &mut self,
        stream: StreamId,
        name: &Arc<str>,
        member: &mut Member,
        (seqs, bytes): (&[u64], usize),
    ) {
        let mut found = Vec::with_capacity(seqs.len());
        let looked_at = self.log.read_known(stream, seqs, bytes, &mut found);
        match (looked_at.checked_sub(1).and_then(|last| seqs.get(last)), seqs.first()) {
            (Some(last), _) => {
                member.consumer.read_memory();
                member.consumer.feed(found, last + 1);
            }
            (None, Some(first)) => self.read_for(name, member, &one(stream, *first)),
            (None, None) => {}
        }
    }

    /// The record of a redelivery: `None` while it is being read, `Some(None)` if it is gone.
    pub(super) fn find_again(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        member: &mut Member,
        seq: u64,
    ) -> Option<Option<Record>> {
        if let Some(record) = member.consumer.held_record(seq) {
            return Some(self.log.contains(id, seq).then(|| record.clone()));
        }
        if let Some((found, record)) = member.reread.take()
            && found == seq
        {
            return Some(record);
        }
        if !self.log.contains(id, seq) {
            return Some(None);
        }
        if member.rereading == Some(seq) {
            return None;
        }
        let mut records = Vec::new();
        match self.log.read(&one(id, seq), &Filter::all(), &mut records) {
            ReadOutcome::Ready { .. } => Some(records.pop()),
            ReadOutcome::Waiting(read) => {
                member.rereading = Some(seq);
                self.reads.insert(read, Awaiting::Redelivery(id, Arc::clone(name), seq));
                None
            }
        }
    }

    /// Records that a consumer waited for.
    pub(super) fn feed(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        read: ReadId,
        result: Result<ReadBatch, ReadError>,
    ) {
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        if !member.consumer.finish_reading(read) {
            return;
        }
        match result {
            Ok(batch) => member.consumer.feed(batch.records, batch.next),
            Err(_) if member.consumer.puts_off_failure() => {}
            Err(ReadError::Damaged { first, last, ref file, offset, .. }) => {
                let (from, to) = member.consumer.passes(first, last);
                let why = format!("sequences {from} to {to} are damaged in {file}");
                let stream = member.consumer.path().stream.clone();
                let file = file.clone();
                let gap = Gap { stream, first: from, last: to, file, offset, is_certain: true };
                member.consumer.damaged(last, why.clone());
                // Reading goes on behind the damage; what was passed over is told in other ways.
                let _ = member.consumer.take_damage();
                member.damage = Some(why.clone());
                self.catalog.add_gap(id, name, gap);
                self.bury_damage(id, name, from, &why);
                self.recount(id, name);
            }
            Err(error) => {
                self.read_again_later(id, name, &error);
                return;
            }
        }
        self.stir(id, name);
    }

    /// The disk could not be read just now: this loses no message. It is tried again after a while,
    /// and with the next pull or message.
    fn read_again_later(&mut self, id: StreamId, name: &Arc<str>, error: &ReadError) {
        tracing::error!(consumer = %name, %error, "a consumer's read failed; it is tried again");
        let now = self.now;
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        let retry = now.monotonic + READ_AGAIN;
        let due = member.consumer.poll_timeout(now).map_or(retry, |due| due.min(retry));
        self.schedule.set(Deadline::Consumer(id, Arc::clone(name)), Some(due));
    }

    /// The record of a redelivery was read.
    pub(super) fn redelivery_read(
        &mut self,
        id: StreamId,
        name: &Arc<str>,
        seq: u64,
        result: Result<ReadBatch, ReadError>,
    ) {
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        if member.rereading != Some(seq) {
            return;
        }
        member.rereading = None;
        match result {
            Ok(mut batch) => member.reread = Some((seq, batch.records.pop())),
            Err(error @ ReadError::Io { .. }) => {
                self.read_again_later(id, name, &error);
                return;
            }
            Err(error) => {
                if let ReadError::Damaged { file, offset, .. } = &error {
                    let (stream, file) = (member.consumer.path().stream.clone(), file.clone());
                    let (first, last, offset) = (seq, seq, *offset);
                    let gap = Gap { stream, first, last, file, offset, is_certain: true };
                    self.catalog.add_gap(id, name, gap);
                }
                let why = self.explain(id, &error);
                tracing::error!(consumer = %name, seq, "a message to be delivered again cannot be read: {why}");
                let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name))
                else {
                    return;
                };
                if member.consumer.is_held(seq) {
                    // It was never delivered: it is passed over, as other damage is.
                    member.consumer.lost(seq);
                    self.bury_damage(id, name, seq, &why);
                } else {
                    member.consumer.give_up(seq, DeadReason::Unreadable(why));
                }
                self.mourning.insert((id, Arc::clone(name)));
            }
        }
        self.stir(id, name);
    }
}

/// A read of one record.
pub(super) fn one(stream: StreamId, seq: u64) -> ReadRequest {
    ReadRequest { stream, from: seq, to: seq, since: 0, max_records: 1, max_bytes: usize::MAX }
}

/// What deleting a record will need; the subject's number is looked up once for a row of records
/// of the same subject.
pub(super) fn meta_of<L: Log>(
    log: &L,
    stream: StreamId,
    record: &Record,
    storage: StorageKind,
    memo: &mut Option<(Record, SubjectId)>,
) -> Option<Meta> {
    let size = record.size(storage);
    if let Some((known, subject)) = memo
        && known.subject() == record.subject()
    {
        return Some(Meta { subject: *subject, size });
    }
    let subject = log.subject(stream, record.subject())?.id;
    *memo = Some((record.clone(), subject));
    Some(Meta { subject, size })
}
