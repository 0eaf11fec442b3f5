//! Direct gets of several messages (ADR-31): the next ones of a subject in a row, or the last ones of many
//! subjects. Each goes to the reply subject as it is read, with how many follow; a status ends them.
//!
//! What is asked for was checked by the session. Single messages are the API's part.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, Record, StreamId};

use crate::model::answer;
use crate::model::api::DirectOptions;
use crate::model::error::ApiError;
use crate::model::request::Token;

use super::reading::one;
use super::{Awaiting, Broker};

/// Messages in answer to one request for the last ones of many subjects. 1,024, as nats-server.
const MOST_RESULTS: usize = 1024;
/// Bytes of one answer, whatever the client asks for. 4 MiB: others wait for some hundredths of a second at
/// most, and the status at the end says how many messages follow.
const MOST_BYTES: u64 = 4 << 20;
/// Records of one read.
const READ_RECORDS: usize = 1024;
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Direct {
    stream: StreamId,
    name: String,
    no_headers: bool,
    work: Work,
    /// Messages that follow.
    pending: u64,
    /// The sequence of the last message that was sent.
    last: u64,
    messages_left: u64,
    bytes_left: u64,
    /// What is being read.
    read: Option<(ReadRequest, Filter)>,
}

/// What is still to be done.
#[derive(Debug)]
enum Work {
    /// The first message of at least this time is looked for.
    Seek { since: u64, to: u64, filter: Filter },
    /// What there is from `start` on is counted; below `cursor` it is.
    Count { start: u64, cursor: u64, to: u64, filter: Filter },
    /// Messages are sent, from `cursor` on.
    Row { cursor: u64, to: u64, filter: Filter },
    /// What the last message of each subject is up to a sequence and before a time, is looked for.
    Search {
        cursor: u64,
        from: u64,
        up_to: u64,
        until: u64,
        filter: Filter,
        latest: BTreeMap<String, u64>,
    },
    /// These messages are sent; the answer says up to where the stream was looked at.
    Listed { seqs: VecDeque<u64>, up_to: u64 },
}

/// What to do to send these messages. A status if there are too many or none.
fn listed(mut seqs: Vec<u64>, from: u64, up_to: u64) -> Result<Work, Bytes> {
    if seqs.len() > MOST_RESULTS {
        return Err(answer::status(413, "Too Many Results"));
    }
    if seqs.is_empty() {
        return Err(answer::status(404, "No Results"));
    }
    seqs.retain(|seq| *seq >= from);
    seqs.sort_unstable();
    Ok(Work::Listed { seqs: seqs.into(), up_to })
}

impl<L: Log> Broker<L> {
    /// Begins to answer a request for several messages.
    pub(super) fn get_messages(
        &mut self,
        token: Token,
        name: &str,
        options: &DirectOptions,
    ) -> Result<(), ApiError> {
        let stream = self.find_direct(name)?;
        let (id, name) = (stream.id, stream.config.name.clone());
        let work = if options.multi_last.is_empty() {
            self.row_of(id, options)
        } else {
            match self.last_ones(id, options) {
                Ok(work) => work,
                Err(status) => {
                    self.tell_asker(token, status, Bytes::new());
                    self.done_asking(token);
                    return Ok(());
                }
            }
        };
        let pending = match &work {
            Work::Listed { seqs, .. } => (seqs.len() as u64).saturating_sub(1),
            _ => 0,
        };
        let direct = Direct {
            stream: id,
            name,
            no_headers: options.no_hdr,
            work,
            pending,
            last: 0,
            messages_left: if options.batch == 0 { u64::MAX } else { options.batch },
            bytes_left: match options.max_bytes {
                0 => MOST_BYTES,
                asked => asked.min(MOST_BYTES),
            },
            read: None,
        };
        self.directs.insert(token, direct);
        self.go_on_directly(token);
        Ok(())
    }

    fn row_of(&self, id: StreamId, options: &DirectOptions) -> Work {
        let held = self.log.stream(id).unwrap_or_default();
        let filter = Filter::any_of(options.next_by_subj.as_deref());
        let to = held.last_seq;
        match options.start_time {
            Some(time) => Work::Seek { since: time.0, to, filter },
            None => {
                let start = options.seq.max(held.first_seq);
                Work::Count { start, cursor: start, to, filter }
            }
        }
    }

    /// The last message of each subject, up to a sequence or a time. A status if there are too many or
    /// none.
    fn last_ones(&self, id: StreamId, options: &DirectOptions) -> Result<Work, Bytes> {
        let held = self.log.stream(id).unwrap_or_default();
        let up_to = if options.up_to_seq == 0 { held.last_seq } else { options.up_to_seq };
        let filter = Filter::any_of(options.multi_last.iter().map(String::as_str));
        let mut seqs = Vec::new();
        let mut is_known = options.up_to_time.is_none();
        self.log.subjects(id, &filter, &mut |_, subject| {
            is_known &= subject.last_is_exact && subject.last <= up_to;
            seqs.push(subject.last);
        });
        if !is_known {
            let until = options.up_to_time.map_or(u64::MAX, |time| time.0);
            let (cursor, from, latest) = (held.first_seq, options.seq, BTreeMap::new());
            return Ok(Work::Search { cursor, from, up_to, until, filter, latest });
        }
        listed(seqs, options.seq, up_to)
    }

    /// Reads on until the disk is needed or all is answered.
    fn go_on_directly(&mut self, token: Token) {
        while let Some(direct) = self.directs.get(&token) {
            let Some((read, filter)) = direct.next_read() else {
                return self.end_directly(token);
            };
            let mut records = Vec::new();
            match self.log.read(&read, &filter, &mut records) {
                ReadOutcome::Ready { next } => self.take_directly(token, &read, &records, next),
                ReadOutcome::Waiting(id) => {
                    self.reads.insert(id, Awaiting::Direct(token));
                    if let Some(direct) = self.directs.get_mut(&token) {
                        direct.read = Some((read, filter));
                    }
                    return;
                }
            }
        }
    }

    /// A read was answered.
    pub(super) fn direct_read(&mut self, token: Token, result: Result<ReadBatch, ReadError>) {
        let Some(direct) = self.directs.get_mut(&token) else { return };
        let Some((read, _)) = direct.read.take() else { return };
        match result {
            Ok(batch) => {
                self.take_directly(token, &read, &batch.records, batch.next);
                self.go_on_directly(token);
            }
            Err(error) => {
                let why = match &error {
                    ReadError::Damaged { stream, .. } => self.explain(*stream, &error),
                    error => error.to_string(),
                };
                self.directs.remove(&token);
                self.answered(token, &Err(ApiError::damaged(why)));
            }
        }
    }

    /// Counts or sends what was read.
    fn take_directly(&mut self, token: Token, read: &ReadRequest, records: &[Record], next: u64) {
        let Some(direct) = self.directs.get_mut(&token) else { return };
        match &mut direct.work {
            Work::Seek { since: _, to, filter } => {
                let start = records.first().map_or(next, |record| record.seq);
                if start > read.to || !records.is_empty() {
                    let (to, filter) = (*to, filter.clone());
                    direct.work = Work::Count { start, cursor: start, to, filter };
                }
                return;
            }
            Work::Count { start, cursor, to, filter } => {
                direct.pending += records.len() as u64;
                *cursor = next;
                if next > *to {
                    direct.work = Work::Row { cursor: *start, to: *to, filter: filter.clone() };
                }
                return;
            }
            Work::Search { .. } => return self.search_directly(token, records, next),
            Work::Row { cursor, .. } => *cursor = next,
            Work::Listed { seqs, .. } => _ = seqs.pop_front(),
        }
        for record in records {
            let Some(direct) = self.directs.get_mut(&token) else { return };
            if direct.messages_left == 0 || direct.bytes_left == 0 {
                return;
            }
            let (headers, payload) = direct.message(record);
            self.tell_asker(token, headers, payload);
        }
    }

    /// Looks through what was read for the last messages of subjects.
    fn search_directly(&mut self, token: Token, records: &[Record], next: u64) {
        let Some(direct) = self.directs.get_mut(&token) else { return };
        let Work::Search { cursor, from, up_to, until, latest, .. } = &mut direct.work else {
            return;
        };
        for record in records {
            if record.time >= *until {
                *up_to = record.seq - 1;
                break;
            }
            latest.insert(record.subject().to_owned(), record.seq);
        }
        *cursor = next;
        if *cursor <= *up_to && latest.len() <= MOST_RESULTS {
            return;
        }
        let seqs = std::mem::take(latest).into_values().collect();
        match listed(seqs, *from, *up_to) {
            Ok(work) => {
                if let Work::Listed { seqs, .. } = &work {
                    direct.pending = (seqs.len() as u64).saturating_sub(1);
                }
                direct.work = work;
            }
            Err(status) => {
                self.directs.remove(&token);
                self.tell_asker(token, status, Bytes::new());
                self.done_asking(token);
            }
        }
    }

    fn end_directly(&mut self, token: Token) {
        let Some(direct) = self.directs.remove(&token) else { return };
        let Direct { pending, last, work, .. } = direct;
        if last == 0 && !matches!(work, Work::Listed { .. }) {
            return self.answered(token, &Err(ApiError::message_not_found()));
        }
        let mut status = format!(
            "NATS/1.0 204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n"
        );
        if let Work::Listed { up_to, .. } = work {
            status += &format!("Nats-UpTo-Sequence: {up_to}\r\n");
        }
        status += "\r\n";
        self.tell_asker(token, status.into(), Bytes::new());
        self.done_asking(token);
    }
}

impl Direct {
    /// What is to be read next; nothing when all is answered.
    fn next_read(&self) -> Option<(ReadRequest, Filter)> {
        if self.messages_left == 0 || self.bytes_left == 0 {
            return None;
        }
        let (from, to, since, filter) = match &self.work {
            Work::Seek { since, to, filter } => (1, *to, *since, filter.clone()),
            Work::Count { cursor, to, filter, .. }
            | Work::Row { cursor, to, filter }
            | Work::Search { cursor, up_to: to, filter, .. } => (*cursor, *to, 0, filter.clone()),
            Work::Listed { seqs, .. } => {
                return Some((one(self.stream, *seqs.front()?), Filter::all()));
            }
        };
        let left = usize::try_from(self.messages_left).unwrap_or(usize::MAX);
        let max_records = match &self.work {
            Work::Seek { .. } => 1,
            Work::Row { .. } => left.min(READ_RECORDS),
            _ => READ_RECORDS,
        };
        let stream = self.stream;
        let read = ReadRequest { stream, from, to, since, max_records, max_bytes: READ_BYTES };
        (from <= to).then_some((read, filter))
    }

    /// One message of the answer.
    fn message(&mut self, record: &Record) -> (Bytes, Bytes) {
        let is_first = self.last == 0;
        let is_row = matches!(self.work, Work::Row { .. });
        // A row counts what follows the message; of listed ones the first is counted out already.
        if is_row || !is_first {
            self.pending = self.pending.saturating_sub(1);
        }
        let pending = self.pending;
        let headers = if self.no_headers {
            Bytes::new()
        } else {
            let mut block = answer::direct_headers(&self.name, record);
            block.add("Nats-Num-Pending", &pending.to_string());
            block.add("Nats-Last-Sequence", &self.last.to_string());
            block.finish().into()
        };
        self.last = record.seq;
        self.messages_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(record.data().len() as u64);
        (headers, record.payload_bytes())
    }
}
