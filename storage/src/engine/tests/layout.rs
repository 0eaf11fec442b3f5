//! The layouts of `storage/README.md`, built by hand and decoded by the code.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::disk::{Disk, SimulatedDisk};
use crate::engine::{Engine, EngineOptions, Workers};
use crate::log::{Filter, Log};
use crate::{Fingerprint, StreamId};
use std::sync::Arc;

const SALT: u64 = 1;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn with_sum(mut bytes: Vec<u8>, seed: u64) -> Vec<u8> {
    let sum = xxh3_64_with_seed(&bytes, seed);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// A journal file of `groups`, each a number and its entries without frames.
fn journal(first: u64, groups: &[(u64, Vec<Vec<u8>>)]) -> Vec<u8> {
    let mut header = hex("43 42 4a 4f 55 52 4e 4c  01 00  00 00  00 10 00 00");
    for number in [1, SALT, 0, 0, first] {
        header.extend(u64::to_le_bytes(number));
    }
    header.resize(504, 0);
    let header = with_sum(header, 0);
    let mut out = vec![0; 4096];
    out[..512].copy_from_slice(&header);
    for (number, entries) in groups {
        let mut body = Vec::new();
        let mut digest = 0_u64;
        for (index, entry) in entries.iter().enumerate() {
            let mut framed = (entry.len() as u32).to_le_bytes().to_vec();
            framed.extend(entry);
            let seed = SALT ^ number.wrapping_mul(GOLDEN) ^ index as u64;
            digest =
                (digest.rotate_left(5) ^ xxh3_64_with_seed(&framed, seed)).wrapping_mul(GOLDEN);
            body.extend(with_sum(framed, seed));
        }
        let count = (entries.len() as u32).to_le_bytes();
        let mut head = [b"CBGR".as_slice(), &count, &number.to_le_bytes()].concat();
        head.extend((body.len() as u32).to_le_bytes());
        head.extend([0; 4]);
        out.extend(with_sum(head, SALT));
        out.extend(&body);
        out.resize(out.len().next_multiple_of(8), 0);
        let mut tail = [b"CBGT".as_slice(), &count, &number.to_le_bytes()].concat();
        tail.extend(digest.to_le_bytes());
        tail.extend((number - 1).to_le_bytes());
        out.extend(with_sum(tail, SALT));
    }
    out
}

fn place(disk: &SimulatedDisk, path: &str, bytes: &[u8]) {
    let dir = path.rsplit_once('/').unwrap().0;
    disk.create_dir(dir).unwrap();
    disk.create(path).unwrap().write_at(bytes, 0).unwrap();
}

fn open(disk: &SimulatedDisk) -> Engine {
    let options = EngineOptions { workers: Workers::Inline, ..EngineOptions::default() };
    Engine::open(options, Arc::new(disk.clone()), Arc::new(|| {})).unwrap()
}

fn create_stream() -> Vec<u8> {
    hex("01  09 00 00 00 00 00 00 00  00 01")
}

fn record() -> Vec<u8> {
    let mut entry =
        hex("04  09 00 00 00 00 00 00 00  01 00 00 00 00 00 00 00  05 00 00 00 00 00 00 00  03 \
         03 00  02 00 00 00  64 00 00 00 00 00 00 00 \
         07 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  c8 00 00 00 00 00 00 00");
    entry.extend(b"a.bhhbody");
    entry
}

#[test]
fn the_documented_group_looks_like_this() {
    let bytes = journal(7, &[(7, vec![hex("09  01 00  6b  76")])]);
    let group = &bytes[4096..];
    assert_eq!(
        group[..24],
        hex("43 42 47 52 01 00 00 00 07 00 00 00 00 00 00 00 11 00 00 00 00 00 00 00")
    );
    assert_eq!(group[32..41], hex("05 00 00 00 09 01 00 6b 76"));
    assert_eq!(group[56..72], hex("43 42 47 54 01 00 00 00 07 00 00 00 00 00 00 00"));
}

#[test]
fn a_journal_built_by_hand_is_replayed() {
    let disk = SimulatedDisk::new();
    let put = hex("09  01 00  6b  76");
    let note = hex("0a  01 00  6b  6e");
    let groups = [(1, vec![create_stream(), record()]), (2, vec![put, note])];
    place(&disk, "journal/0000000000000001.jnl", &journal(1, &groups));
    let mut engine = open(&disk);
    assert_eq!(engine.recovery_report().groups_replayed, 2);
    assert_eq!(engine.recovery_report().unknown_entries, 0);
    let stream = StreamId(9);
    let request = super::operations::all_of(stream, 10);
    let records = super::operations::read_all(&mut engine, request, &Filter::all());
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].subject(), records[0].headers()), ("a.b", &b"hh"[..]));
    assert_eq!((records[0].payload(), records[0].time), (&b"body"[..], 5));
    assert_eq!(engine.next_expiry(stream), Some((100, 1)));
    assert_eq!(engine.recall(stream, Fingerprint(7), 199), Some(1));
    let states = engine.states(b"");
    assert_eq!((states[0].1.base.as_slice(), states[0].1.notes.as_slice()), (&b"v"[..], &b"n"[..]));
}

/// A state file with one block.
fn state(number: u64, entries: &[(u8, Vec<u8>, Vec<u8>)]) -> (Vec<u8>, u64) {
    let mut out = [b"CBSTATE\0".as_slice(), &hex("01 00 00 00 00 00 00 00")].concat();
    out.extend(number.to_le_bytes());
    out.resize(56, 0);
    let mut out = with_sum(out, 0);
    let mut block = Vec::new();
    for (action, key, value) in entries {
        block.push(*action);
        block.extend((key.len() as u32).to_le_bytes());
        block.extend((value.len() as u32).to_le_bytes());
        block.extend(key);
        block.extend(value);
    }
    let sum = xxh3_64_with_seed(&block, number.rotate_left(40) ^ 64);
    let digest = sum.wrapping_mul(GOLDEN);
    out.extend((block.len() as u32).to_le_bytes());
    out.extend(sum.to_le_bytes());
    out.extend(block);
    let mut trailer = b"CBSE\0\0\0\0".to_vec();
    trailer.extend((entries.len() as u64).to_le_bytes());
    trailer.extend(digest.to_le_bytes());
    trailer.extend((out.len() as u64 + 40).to_le_bytes());
    out.extend(with_sum(trailer, number));
    (out, digest)
}

#[test]
fn a_checkpoint_built_by_hand_is_loaded() {
    let disk = SimulatedDisk::new();
    let stream = [&[1][..], &9_u64.to_be_bytes()].concat();
    let mut value = vec![0, 1];
    // Epoch, messages, bytes, first and last sequence, last time: an empty stream that had 4.
    for number in [2_u64, 0, 0, 5, 4, 77] {
        value.extend(number.to_le_bytes());
    }
    let keyed = [&[4][..], b"k"].concat();
    let entries = [(1, stream, value), (1, keyed, b"\x04\0\0\0basenotes".to_vec())];
    let (bytes, digest) = state(1, &entries);
    place(&disk, "state/0000000000000001.st", &bytes);
    let mut ids = [b"CBMSGIDS".as_slice(), &hex("01 00 00 00 00 00 00 00")].concat();
    ids.extend(2_u64.to_le_bytes());
    ids.resize(64, 0);
    ids.extend(9_u64.to_le_bytes());
    ids.extend(7_u128.to_le_bytes());
    ids.extend(3_u64.to_le_bytes());
    ids.extend(100_u64.to_le_bytes());
    let ids_digest = xxh3_64(&ids);
    let ids = with_sum(ids, 0);
    place(&disk, "ids/0000000000000002.ids", &ids);
    let mut manifest = [b"CBMANIFE".as_slice(), &hex("01 00 00 00")].concat();
    manifest.resize(64, 0);
    for number in [6_u64, 50, 1, 0] {
        manifest.extend(number.to_le_bytes());
    }
    for count in [1_u32, 1, 0, 0] {
        manifest.extend(count.to_le_bytes());
    }
    for number in [1, bytes.len() as u64, digest, 2, ids.len() as u64, ids_digest, 100] {
        manifest.extend(number.to_le_bytes());
    }
    place(&disk, "manifest/0000000000000006", &with_sum(manifest, 0));
    let put = hex("0a  01 00  6b  2b");
    place(
        &disk,
        "journal/0000000000000001.jnl",
        &journal(50, &[(50, vec![put.clone()]), (51, vec![put])]),
    );
    let engine = open(&disk);
    let report = engine.recovery_report();
    assert_eq!((report.generation, report.groups_replayed, report.last_group), (6, 1, 51));
    let summary = engine.stream(StreamId(9)).unwrap();
    assert_eq!(
        (summary.messages, summary.first_seq, summary.last_seq, summary.last_time),
        (0, 5, 4, 77)
    );
    assert_eq!(engine.recall(StreamId(9), Fingerprint(7), 99), Some(3));
    let states = engine.states(b"");
    assert_eq!(states[0].1.base, b"base");
    assert_eq!(states[0].1.notes, b"notes+", "group 50 is in the checkpoint, 51 is not");
}
