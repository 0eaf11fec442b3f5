//! Random operations that can be applied to any log, and the comparison of two logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::SimulatedDisk;
use crate::engine::{Engine, EngineOptions, LoneWriter, Workers};
use crate::ids::{Fingerprint, StreamId, SubjectId};
use crate::log::{Compression, Filter, Log, LogEvent, ReadOutcome, ReadRequest, StreamOptions};
use crate::record::{NewRecord, Record, StorageKind};
use crate::{MemoryLog, Position};

/// A small generator (splitmix64), so that a seed names a run.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Create(StreamId, StreamOptions),
    Update(StreamId, StreamOptions),
    Drop(StreamId),
    Append {
        stream: StreamId,
        subject: String,
        payload: Vec<u8>,
        time: u64,
        expires: Option<u64>,
        id: Option<(Fingerprint, u64)>,
    },
    Skip(StreamId, u64),
    Delete {
        stream: StreamId,
        seq: u64,
        erase: bool,
        storage: StorageKind,
    },
    Clear(StreamId),
    Put(Vec<u8>, Vec<u8>),
    Note(Vec<u8>, Vec<u8>),
    Forget(Vec<u8>),
}

/// With an odd seed the owner writes lone groups.
pub(super) fn options(disk_seed: u64) -> EngineOptions {
    EngineOptions {
        tail_budget: 16 << 10,
        journal_file_size: 16 << 10,
        journal_limit: 64 << 10,
        workers: Workers::Inline,
        lone_writer: if disk_seed % 2 == 1 { LoneWriter::Owner } else { LoneWriter::Journal },
        seed: disk_seed,
        ..EngineOptions::default()
    }
}

pub(super) fn open(disk: &SimulatedDisk, seed: u64) -> Engine {
    Engine::open(options(seed), Arc::new(disk.clone()), Arc::new(|| {})).unwrap()
}

/// Draws operations. `model` is what the log holds now.
pub(super) struct Draw {
    pub(super) chance: Chance,
    next_stream: u64,
    pub(super) time: u64,
    pub(super) memory_streams: bool,
    kinds: BTreeMap<StreamId, StorageKind>,
}

impl Draw {
    pub(super) fn new(seed: u64, memory_streams: bool) -> Self {
        Self {
            chance: Chance(seed),
            next_stream: 1,
            time: 1_000,
            memory_streams,
            kinds: BTreeMap::new(),
        }
    }

    fn options(&mut self) -> StreamOptions {
        let memory = self.memory_streams && self.chance.one_in(4);
        StreamOptions {
            storage: if memory { StorageKind::Memory } else { StorageKind::File },
            compression: [Compression::Off, Compression::Lz4, Compression::Zstd]
                [self.chance.below(3) as usize],
        }
    }

    pub(super) fn operation(&mut self, model: &mut MemoryLog) -> Operation {
        let streams: Vec<StreamId> =
            (1..self.next_stream).map(StreamId).filter(|id| model.stream(*id).is_some()).collect();
        if streams.is_empty() || (streams.len() < 5 && self.chance.one_in(100)) {
            let id = StreamId(self.next_stream);
            self.next_stream += 1;
            let options = self.options();
            self.kinds.insert(id, options.storage);
            return Operation::Create(id, options);
        }
        let stream = streams[self.chance.below(streams.len() as u64) as usize];
        match self.chance.below(100) {
            0..=54 => self.append(stream, model),
            55..=79 => self.delete(stream, model),
            80 => Operation::Skip(
                stream,
                model.stream(stream).unwrap().last_seq + self.chance.below(9),
            ),
            81 if self.chance.one_in(4) => Operation::Clear(stream),
            82 if self.chance.one_in(6) => Operation::Drop(stream),
            83 => Operation::Update(stream, self.options()),
            84..=87 => Operation::Put(self.key(), self.bytes(60)),
            88 => Operation::Forget(self.key()),
            _ => Operation::Note(self.key(), self.bytes(20)),
        }
    }

    fn append(&mut self, stream: StreamId, model: &MemoryLog) -> Operation {
        self.time += self.chance.below(10);
        let time = self.time;
        let limit = if self.chance.one_in(50) { 9_000 } else { 300 };
        let soon = |chance: &mut Chance| time + 1 + chance.below(5_000);
        // As the broker does, an id that is still remembered is not used again.
        let print = Fingerprint(u128::from(self.chance.below(500)));
        let is_free = model.recall(stream, print, time).is_none();
        let id = is_free && self.chance.one_in(3);
        Operation::Append {
            stream,
            subject: format!("s.{}", self.chance.below(20)),
            payload: self.bytes(limit),
            time,
            expires: self.chance.one_in(5).then(|| soon(&mut self.chance)),
            id: id.then(|| (print, soon(&mut self.chance))),
        }
    }

    fn delete(&mut self, stream: StreamId, model: &MemoryLog) -> Operation {
        let summary = model.stream(stream).unwrap();
        let span = summary.last_seq + 1 - summary.first_seq;
        // Mostly from the front, as consumers do.
        let ahead = if self.chance.one_in(3) { span } else { span.min(4) };
        let seq = summary.first_seq + self.chance.below(ahead);
        let storage = self.kinds[&stream];
        Operation::Delete { stream, seq, erase: self.chance.one_in(20), storage }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key/{}", self.chance.below(12)).into_bytes()
    }

    fn bytes(&mut self, limit: u64) -> Vec<u8> {
        let len = self.chance.below(limit);
        let byte = self.chance.next() as u8;
        (0..len).map(|n| byte.wrapping_add(n as u8)).collect()
    }
}

/// Applies an operation. What to delete is looked up in `model`, which knows every record; the
/// model itself needs no looking up.
pub(super) fn apply(log: &mut dyn Log, operation: &Operation, model: Option<&MemoryLog>) {
    match operation {
        Operation::Create(id, options) => log.create_stream(*id, *options),
        Operation::Update(id, options) => log.update_stream(*id, *options),
        Operation::Drop(id) => log.drop_stream(*id),
        Operation::Append { stream, subject, payload, time, expires, id } => {
            let record = NewRecord {
                subject,
                headers: b"",
                payload,
                time: *time,
                expires: *expires,
                message_id: *id,
            };
            log.append(*stream, &record).unwrap();
        }
        Operation::Skip(id, last) => log.skip(*id, *last),
        Operation::Delete { stream, seq, erase, storage } => {
            let Some(model) = model else {
                log.delete(*stream, *seq, SubjectId { slot: 0, generation: 0 }, 0);
                return;
            };
            let found = model.records(*stream).find(|record| record.seq == *seq).cloned();
            let Some(record) = found else {
                assert!(!log.contains(*stream, *seq));
                return;
            };
            let subject = log.subject(*stream, record.subject()).unwrap().id;
            let size = record.size(*storage);
            if *erase {
                log.erase(*stream, *seq, subject, size);
            } else {
                log.delete(*stream, *seq, subject, size);
            }
        }
        Operation::Clear(id) => {
            log.clear(*id);
        }
        Operation::Put(key, base) => log.put(key, base),
        Operation::Note(key, note) => {
            log.note(key, note);
        }
        Operation::Forget(key) => log.forget(key),
    }
}

/// Waits for the answer to a read by running the engine's work.
fn wait_for(engine: &mut Engine, id: crate::ReadId, out: &mut Vec<Record>) -> u64 {
    for _ in 0..1_000 {
        while let Some(event) = engine.poll().unwrap() {
            if let LogEvent::Read(answered, batch) = event
                && answered == id
            {
                let batch = batch.unwrap();
                out.extend(batch.records);
                return batch.next;
            }
        }
        engine.run_background();
    }
    panic!("read {id:?} was never answered");
}

/// Reads everything a request asks for, however many answers it takes.
pub(super) fn read_all(
    engine: &mut Engine,
    mut request: ReadRequest,
    filter: &Filter,
) -> Vec<Record> {
    let mut records = Vec::new();
    while request.from <= request.to {
        let next = match engine.read(&request, filter, &mut records) {
            ReadOutcome::Ready { next } => next,
            ReadOutcome::Waiting(id) => wait_for(engine, id, &mut records),
        };
        assert!(next > request.from, "reads go on: {next} after {request:?}");
        request.from = next;
    }
    records
}

pub(super) fn all_of(stream: StreamId, to: u64) -> ReadRequest {
    ReadRequest { stream, from: 1, to, since: 0, max_records: 37, max_bytes: 5_000 }
}

/// Both logs answer the same to everything.
pub(super) fn compare(engine: &mut Engine, model: &mut MemoryLog, streams: u64, now: u64) {
    assert_eq!(engine.states(b""), model.states(b""));
    for id in (1..=streams).map(StreamId) {
        assert_eq!(engine.stream(id), model.stream(id), "{id}");
        let Some(summary) = model.stream(id) else { continue };
        assert_eq!(engine.next_expiry(id), model.next_expiry(id), "{id}");
        compare_subjects(engine, model, id);
        let filters = [Filter::all(), Filter::any_of(["s.3", "s.1*", "s.7"])];
        for filter in &filters {
            let found = read_all(engine, all_of(id, summary.last_seq + 5), filter);
            let wanted: Vec<Record> =
                model.records(id).filter(|r| filter.matches(r.subject())).cloned().collect();
            assert_eq!(seqs(&found), seqs(&wanted), "{id}");
            assert_eq!(found, wanted, "{id}");
            for from in [1, summary.first_seq, summary.first_seq + 3] {
                let to = summary.last_seq.saturating_sub(2);
                if let Some(count) = engine.count(id, filter, from, to) {
                    assert_eq!(Some(count), model.count(id, filter, from, to), "{id} {from}..{to}");
                }
            }
        }
        compare_known(engine, model, id, summary.last_seq);
        for seq in 1..=summary.last_seq + 1 {
            assert_eq!(engine.contains(id, seq), model.contains(id, seq), "{id} {seq}");
        }
        for print in 0..500_u128 {
            let print = Fingerprint(print);
            assert_eq!(
                engine.recall(id, print, now),
                model.recall(id, print, now),
                "{id} {print:?}"
            );
        }
    }
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

/// A few records.
const KNOWN_BYTES: usize = 500;

/// What is known to be wanted is found as far as it is in memory, and nothing else.
fn compare_known(engine: &mut Engine, model: &MemoryLog, id: StreamId, last: u64) {
    let mut rest: Vec<u64> = (1..=last + 1).step_by(3).collect();
    while !rest.is_empty() {
        let mut found = Vec::new();
        let looked_at = engine.read_known(id, &rest, KNOWN_BYTES, &mut found);
        let wanted = model.records(id).filter(|r| rest[..looked_at].contains(&r.seq));
        assert_eq!(found, wanted.cloned().collect::<Vec<_>>(), "{id}");
        let bytes: usize = found.iter().rev().skip(1).map(|record| record.data().len()).sum();
        assert!(bytes < KNOWN_BYTES, "{bytes}");
        // The next one is not in memory, if it was not the bytes.
        rest.drain(..looked_at.max(1));
    }
}

fn compare_subjects(engine: &Engine, model: &MemoryLog, id: StreamId) {
    let mut wanted = BTreeMap::new();
    model.subjects(id, &Filter::all(), &mut |text, summary| {
        wanted.insert(text.to_owned(), summary);
    });
    let mut count = 0;
    engine.subjects(id, &Filter::all(), &mut |text, found| {
        count += 1;
        let exact = wanted[text];
        assert_eq!(found.count, exact.count, "{id} {text}");
        assert!(found.first <= exact.first, "{id} {text}: {found:?} {exact:?}");
        if found.last_is_exact {
            assert_eq!(found.last, exact.last, "{id} {text}");
        } else {
            assert!(found.last > exact.last, "{id} {text}: {found:?} {exact:?}");
        }
        assert_eq!(engine.subject(id, text), Some(found));
        assert_eq!(engine.subject_text(id, found.id), Some(text));
    });
    assert_eq!(count, wanted.len());
}

/// A run on a simulated disk, with what is needed to say what must be there after a crash.
pub(super) struct Run {
    pub(super) draw: Draw,
    pub(super) model: MemoryLog,
    /// Every operation that was applied, with its group; those of the open group have none yet.
    history: Vec<(u64, Operation)>,
    open: Vec<Operation>,
    last: Position,
}

impl Run {
    pub(super) fn new(seed: u64, memory_streams: bool) -> Self {
        Self {
            draw: Draw::new(seed, memory_streams),
            model: MemoryLog::new(),
            history: Vec::new(),
            open: Vec::new(),
            last: Position(0),
        }
    }

    /// Applies one random operation to both logs.
    pub(super) fn step(&mut self, engine: &mut Engine) {
        let operation = self.draw.operation(&mut self.model);
        apply(engine, &operation, Some(&self.model));
        apply(&mut self.model, &operation, None);
        self.open.push(operation);
    }

    pub(super) fn commit(&mut self, engine: &mut Engine) {
        self.last = engine.commit();
        engine.release(self.draw.chance.one_in(2));
        let group = self.last.0;
        self.history.extend(self.open.drain(..).map(|operation| (group, operation)));
    }

    /// After a crash: the model is what the groups up to the last one found made, without the
    /// sequences that may have been in later ones, which the engine's owner leaves out.
    pub(super) fn rewind(&mut self, engine: &mut Engine) {
        let report = engine.recovery_report().clone();
        self.open.clear();
        self.history.retain(|(group, _)| *group <= report.last_group);
        self.model = MemoryLog::new();
        for (_, operation) in &self.history {
            apply(&mut self.model, operation, None);
        }
        for lost in &report.losses.ranges {
            assert!(!lost.is_certain, "a crash leaves nothing behind what it tore: {lost:?}");
            let operation = Operation::Skip(lost.stream, lost.last);
            apply(&mut self.model, &operation, None);
            apply(engine, &operation, None);
            self.open.push(operation);
        }
    }

    pub(super) fn compare(&mut self, engine: &mut Engine) {
        let now = self.draw.time;
        compare(engine, &mut self.model, 40, now);
    }
}
