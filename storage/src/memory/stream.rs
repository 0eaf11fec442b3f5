//! One stream of a [`MemoryLog`](super::MemoryLog): records and subjects in ordered maps.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::SubjectId;
use crate::log::{Filter, ReadRequest, StreamOptions, StreamSummary, SubjectSummary};
use crate::record::{NewRecord, Record};

#[derive(Clone, Debug)]
pub(super) struct Stream {
    options: StreamOptions,
    records: BTreeMap<u64, Record>,
    subjects: BTreeMap<String, Subject>,
    /// The text of each slot's present user, and its generation.
    slots: Vec<(u32, Option<String>)>,
    expiries: BTreeSet<(u64, u64)>,
    bytes: u64,
    last_seq: u64,
    last_time: u64,
}

#[derive(Clone, Debug)]
struct Subject {
    id: SubjectId,
    seqs: BTreeSet<u64>,
}

impl Subject {
    fn summary(&self) -> SubjectSummary {
        SubjectSummary {
            id: self.id,
            count: self.seqs.len() as u64,
            first: self.seqs.first().copied().unwrap_or_default(),
            last: self.seqs.last().copied().unwrap_or_default(),
            last_is_exact: true,
        }
    }
}

impl Stream {
    pub(super) fn new(options: StreamOptions) -> Self {
        Self {
            options,
            records: BTreeMap::new(),
            subjects: BTreeMap::new(),
            slots: Vec::new(),
            expiries: BTreeSet::new(),
            bytes: 0,
            last_seq: 0,
            last_time: 0,
        }
    }

    pub(super) fn update(&mut self, options: StreamOptions) {
        self.options.compression = options.compression;
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    pub(super) fn summary(&self) -> StreamSummary {
        StreamSummary {
            messages: self.records.len() as u64,
            bytes: self.bytes,
            first_seq: self.records.keys().next().copied().unwrap_or(self.last_seq + 1),
            last_seq: self.last_seq,
            last_time: self.last_time,
            subjects: self.subjects.len() as u64,
        }
    }

    pub(super) fn append(&mut self, new: &NewRecord<'_>) -> u64 {
        self.last_seq += 1;
        self.last_time = self.last_time.max(new.time);
        let seq = self.last_seq;
        let record = Record::copy_of(seq, new);
        self.bytes += record.size(self.options.storage);
        if let Some(expires) = new.expires {
            self.expiries.insert((expires, seq));
        }
        if !self.subjects.contains_key(new.subject) {
            let id = self.take_slot(new.subject);
            let subject = Subject { id, seqs: BTreeSet::new() };
            self.subjects.insert(new.subject.to_owned(), subject);
        }
        if let Some(subject) = self.subjects.get_mut(new.subject) {
            subject.seqs.insert(seq);
        }
        self.records.insert(seq, record);
        seq
    }

    fn take_slot(&mut self, text: &str) -> SubjectId {
        let free = self.slots.iter().position(|(_, user)| user.is_none());
        let slot = free.unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() - 1
        });
        let mut generation = 0;
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.0 += 1;
            entry.1 = Some(text.to_owned());
            generation = entry.0;
        }
        SubjectId { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation }
    }

    pub(super) fn skip(&mut self, last: u64) {
        self.last_seq = self.last_seq.max(last);
    }

    pub(super) fn delete(&mut self, seq: u64) -> bool {
        let Some(record) = self.records.remove(&seq) else {
            return false;
        };
        self.bytes -= record.size(self.options.storage);
        if let Some(expires) = record.expires {
            self.expiries.remove(&(expires, seq));
        }
        let Some(subject) = self.subjects.get_mut(record.subject()) else {
            return true;
        };
        subject.seqs.remove(&seq);
        if subject.seqs.is_empty() {
            let slot = subject.id.slot as usize;
            self.subjects.remove(record.subject());
            if let Some(entry) = self.slots.get_mut(slot) {
                entry.1 = None;
            }
        }
        true
    }

    pub(super) fn clear(&mut self) -> u64 {
        let seqs: Vec<u64> = self.records.keys().copied().collect();
        for seq in &seqs {
            self.delete(*seq);
        }
        seqs.len() as u64
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.records.contains_key(&seq)
    }

    pub(super) fn subject(&self, text: &str) -> Option<SubjectSummary> {
        self.subjects.get(text).map(Subject::summary)
    }

    pub(super) fn subject_text(&self, id: SubjectId) -> Option<&str> {
        let (generation, text) = self.slots.get(id.slot as usize)?;
        text.as_deref().filter(|_| *generation == id.generation)
    }

    pub(super) fn subjects(&self, filter: &Filter, visit: &mut dyn FnMut(&str, SubjectSummary)) {
        for (text, subject) in &self.subjects {
            if filter.matches(text) {
                visit(text, subject.summary());
            }
        }
    }

    /// Adds what is wanted to `records`; returns the first sequence that was not examined.
    pub(super) fn read(
        &self,
        request: &ReadRequest,
        filter: &Filter,
        records: &mut Vec<Record>,
    ) -> u64 {
        let (mut taken, mut bytes) = (0, 0);
        if request.from > request.to {
            return request.from;
        }
        for (seq, record) in self.records.range(request.from..=request.to) {
            if record.time < request.since || !filter.matches(record.subject()) {
                continue;
            }
            if taken == request.max_records || (taken > 0 && bytes >= request.max_bytes) {
                return *seq;
            }
            taken += 1;
            bytes += record.data().len();
            records.push(record.clone());
        }
        request.to.saturating_add(1)
    }

    pub(super) fn count(&self, filter: &Filter, from: u64, to: u64) -> u64 {
        if from > to {
            return 0;
        }
        let wanted = self.records.range(from..=to);
        wanted.filter(|(_, record)| filter.matches(record.subject())).count() as u64
    }

    pub(super) fn next_expiry(&self) -> Option<(u64, u64)> {
        self.expiries.first().copied()
    }
}
