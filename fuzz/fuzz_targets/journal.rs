//! Journal recovery behind its checksums: whatever entries stand in groups that are whole, and however
//! the file ends, opening answers with a log or an error, and what was opened once opens alike again.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use claudebus_fuzz::options;
use claudebus_storage::Log;
use claudebus_storage::disk::Disk;
use claudebus_storage::disk::simulated::SimulatedDisk;
use claudebus_storage::engine::Engine;
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Where groups begin in a file, and where its header has the salt and the first group's number.
const FILE_HEADER: usize = 4096;
const SALT: usize = 24;
const FIRST_GROUP: usize = 48;

#[derive(Arbitrary, Debug)]
struct Journal<'a> {
    groups: Vec<Vec<Entry<'a>>>,
    /// What stands behind the last group.
    rest: &'a [u8],
    /// So many bytes of the end are missing.
    cut: u8,
}

/// An entry: some have the shape of one, so that what comes behind the shape is met, too.
#[derive(Arbitrary, Debug)]
enum Entry<'a> {
    Any(&'a [u8]),
    Created { stream: u8, options: [u8; 2] },
    Record { stream: u8, seq: u64, time: u64, flags: u8, lens: (u8, u8), rest: &'a [u8] },
    Of { kind: u8, stream: u8, numbers: [u64; 2], rest: &'a [u8] },
    Keyed { kind: u8, key: u8, rest: &'a [u8] },
}

impl Entry<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Any(bytes) => out.extend_from_slice(bytes),
            Self::Created { stream, options } => {
                out.push(1);
                out.extend(u64::from(stream % 4).to_le_bytes());
                out.extend(options.map(|option| option % 4));
            }
            Self::Record { stream, seq, time, flags, lens, rest } => {
                out.push(4);
                for number in [u64::from(stream % 4), *seq, *time] {
                    out.extend(number.to_le_bytes());
                }
                out.push(*flags);
                out.extend(u16::from(lens.0 % 8).to_le_bytes());
                out.extend(u32::from(lens.1 % 8).to_le_bytes());
                out.extend_from_slice(rest);
            }
            Self::Of { kind, stream, numbers, rest } => {
                out.push(kind % 16);
                out.extend(u64::from(stream % 4).to_le_bytes());
                numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
                out.extend_from_slice(rest);
            }
            Self::Keyed { kind, key, rest } => {
                out.extend([kind % 16, 2, 0, b'k', *key]);
                out.extend_from_slice(rest);
            }
        }
        if out.is_empty() {
            out.push(0);
        }
        out
    }
}

fn open(disk: &SimulatedDisk) -> Option<Engine> {
    Engine::open(options(), Arc::new(disk.clone()) as Arc<dyn Disk>, Arc::new(|| {})).ok()
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Appends what was hashed under `seed`.
fn seal(out: &mut Vec<u8>, from: usize, seed: u64) -> u64 {
    let sum = xxh3_64_with_seed(&out[from..], seed);
    out.extend(sum.to_le_bytes());
    sum
}

fn group(out: &mut Vec<u8>, salt: u64, number: u64, entries: &[Entry<'_>]) {
    let (mut body, mut digest) = (Vec::new(), 0_u64);
    for (index, entry) in entries.iter().enumerate() {
        let (start, bytes) = (body.len(), entry.bytes());
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(bytes);
        let seed = salt ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64;
        let sum = seal(&mut body, start, seed);
        digest = (digest.rotate_left(5) ^ sum).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    let start = out.len();
    out.extend(b"CBGR");
    out.extend((entries.len() as u32).to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend((body.len() as u32).to_le_bytes());
    out.extend([0; 4]);
    seal(out, start, salt);
    out.extend(&body);
    out.resize(out.len().next_multiple_of(8), 0);
    let start = out.len();
    out.extend(b"CBGT");
    out.extend((entries.len() as u32).to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend(digest.to_le_bytes());
    out.extend(number.saturating_sub(1).to_le_bytes());
    seal(out, start, salt);
}

fuzz_target!(|journal: Journal<'_>| {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk).expect("a new log");
    engine.put(b"key", b"value");
    engine.commit();
    engine.run_background();
    drop(engine);
    let is_journal = |path: &String| {
        path.starts_with("journal/") && disk.contents(path).is_some_and(|b| b.starts_with(b"CBJO"))
    };
    let path = disk.paths().into_iter().find(is_journal).expect("a log has a journal");
    let mut bytes = disk.contents(&path).expect("it is there");
    let (salt, first) = (number_at(&bytes, SALT), number_at(&bytes, FIRST_GROUP));
    bytes.truncate(FILE_HEADER);
    for (number, entries) in (first..).zip(journal.groups.iter().take(8)) {
        group(&mut bytes, salt, number, entries);
    }
    bytes.extend_from_slice(journal.rest);
    let kept = bytes.len().saturating_sub(usize::from(journal.cut)).max(FILE_HEADER);
    bytes.truncate(kept);
    disk.damage(&path, bytes);
    let Some(engine) = open(&disk) else { return };
    let last = engine.recovery_report().last_group;
    drop(engine);
    let again = open(&disk).expect("what was opened opens again");
    assert!(again.recovery_report().last_group >= last, "groups went between two starts");
});
