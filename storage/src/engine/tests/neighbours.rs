//! What lies between merged segments.

use super::operations::{all_of, open, read_all};
use crate::Engine;
use crate::disk::SimulatedDisk;
use crate::ids::StreamId;
use crate::log::{Filter, Log, ReadRequest, StreamOptions};
use crate::record::{NewRecord, StorageKind};

const S: StreamId = StreamId(1);
/// Streams that share a segment with the first.
const OTHERS: [StreamId; 2] = [StreamId(2), StreamId(3)];
/// A stream whose bytes start checkpoints, and compress well.
const LOUD: StreamId = StreamId(4);

fn append(engine: &mut Engine, stream: StreamId, payload: &[u8]) -> u64 {
    let record =
        NewRecord { subject: "a", headers: b"", payload, time: 1, expires: None, message_id: None };
    engine.append(stream, &record).unwrap()
}

fn checkpoint(engine: &mut Engine) {
    let before = engine.info().checkpoints;
    append(engine, LOUD, &[0; 9_000]);
    engine.commit();
    while engine.info().checkpoints == before {
        engine.run_background();
        while engine.poll().unwrap().is_some() {}
    }
}

/// Bytes that do not compress.
fn noise() -> Vec<u8> {
    let mut x = 1_u32;
    let step = |_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..1_600).map(step).collect()
}

fn reaches_across(engine: &Engine, gone: u64) -> bool {
    let sealed = &engine.contents.streams[&S].sealed;
    sealed.iter().any(|range| range.first < gone && range.last > gone)
}

/// A segment of which nothing of a stream is left may lie between two that are merged. After a
/// restart the records around it can be read.
#[test]
fn a_merge_may_reach_across_what_is_gone() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    for stream in [S, LOUD].into_iter().chain(OTHERS) {
        engine.create_stream(stream, StreamOptions::default());
    }
    append(&mut engine, S, b"before");
    checkpoint(&mut engine);
    // A larger segment, which is not merged with small ones.
    let gone = append(&mut engine, S, b"between");
    for stream in OTHERS {
        append(&mut engine, stream, &noise());
    }
    checkpoint(&mut engine);
    let subject = engine.subject(S, "a").unwrap().id;
    let size = StorageKind::File.size(1, 0, b"between".len());
    assert!(engine.delete(S, gone, subject, size));
    let mut kept = vec![1];
    while !reaches_across(&engine, gone) {
        assert!(kept.len() < 100, "nothing is merged across the gap");
        kept.push(append(&mut engine, S, b"behind"));
        checkpoint(&mut engine);
    }
    kept.push(append(&mut engine, S, b"last"));
    checkpoint(&mut engine);
    checkpoint(&mut engine);
    drop(engine);
    let mut engine = open(&disk, 2);
    for (at, seq) in kept.iter().enumerate() {
        let request = ReadRequest { from: *seq, ..all_of(S, 100) };
        let records = read_all(&mut engine, request, &Filter::all());
        let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
        assert_eq!(seqs, kept[at..], "from {seq}");
    }
}
