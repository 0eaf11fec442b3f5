//! Bit rot: one bit of a data directory flips, anywhere, and nothing is silently wrong.
//!
//! `BIT_ROT_COUNT` says how many bits flip one after the other, each in a fresh copy (300 by default);
//! `BIT_ROT_SEED` repeats a run, whose seed is printed. Some minutes for 5,000 and more:
//!
//! ```sh
//! BIT_ROT_COUNT=6000 cargo test --release --test bit_rot
//! BIT_ROT_COUNT=24000 cargo test --release --test bit_rot a_flipped_bit_is_never   each byte of headers and footers
//! BIT_ROT_PEER=nats BIT_ROT_COUNT=200 cargo test --release --test bit_rot peer -- --nocapture
//! ```

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    unreachable_pub,
    clippy::print_stdout,
    reason = "tests stop at the first surprise"
)]

mod bench;
mod book;
mod copies;
mod judge;
#[cfg(feature = "cli")]
mod nats;
mod places;
#[cfg(feature = "cli")]
mod program;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use claudebus_storage::disk::{Disk, RealDisk, SimulatedDisk};
use claudebus_storage::verify::verify;

use book::{Book, Chance, fill};
use judge::{Outcome, judge};
use places::{Place, draw, must_be_named};

/// Flips in the default `cargo test`.
const SMOKE: usize = 300;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// The seed of this run, printed so that it can be repeated.
fn seed() -> u64 {
    let seed = number("BIT_ROT_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("BIT_ROT_SEED={seed}");
    seed
}

type Files = BTreeMap<String, Vec<u8>>;

fn files_of(disk: &SimulatedDisk) -> Files {
    disk.paths().into_iter().map(|path| (path.clone(), disk.contents(&path).unwrap())).collect()
}

fn copy_of(files: &Files) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    for (path, bytes) in files {
        if let Some((dir, _)) = path.rsplit_once('/') {
            disk.create_dir(dir).unwrap();
        }
        disk.create(path).unwrap().write_at(bytes, 0).unwrap();
    }
    disk
}

/// The same directory, as if power had been lost before the mark that closes the last group.
fn without_last_mark(files: &Files) -> Files {
    let mut files = files.clone();
    let journal = files.iter_mut().rfind(|(path, _)| path.starts_with("journal/0"));
    let (_, bytes) = journal.expect("a journal file");
    let last = bytes.windows(4).rposition(|word| word == b"CBGR").expect("a mark");
    bytes[last..].fill(0);
    files
}

/// Files that a checkpoint lists, and all others that are no segments: a merge may have been cut short.
fn without_leftovers(files: &Files) -> Files {
    let mut listed = files.clone();
    listed.retain(|path, bytes| {
        if !path.starts_with("segments/") {
            return true;
        }
        let disk = copy_of(files);
        disk.damage(path, vec![0; bytes.len()]);
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let mut findings = 0;
        verify(&disk, &mut |_| findings += 1).unwrap();
        findings > 0
    });
    listed
}

fn flip(files: &Files, place: &Place) -> SimulatedDisk {
    let disk = copy_of(files);
    let mut bytes = files[&place.file].clone();
    bytes[place.byte] ^= 1 << place.bit;
    disk.damage(&place.file, bytes);
    disk
}

fn try_place(files: &Files, place: &Place, book: &Book) -> Result<Outcome, String> {
    let disk: Arc<dyn Disk> = Arc::new(flip(files, place));
    let judged = catch_unwind(AssertUnwindSafe(|| judge(&disk, book, must_be_named(place), false)));
    judged.unwrap_or_else(|_| Err("it panicked".to_owned()))
}

#[test]
fn a_flipped_bit_is_never_silently_wrong() {
    let seed = seed();
    let count = number("BIT_ROT_COUNT").map_or(SMOKE, |count| count as usize);
    let disk = SimulatedDisk::new();
    let book = fill(Arc::new(disk.clone()), 5, false, false);
    let marked = files_of(&disk);
    let unmarked = without_last_mark(&marked);
    for files in [&marked, &unmarked] {
        let whole: Arc<dyn Disk> = Arc::new(copy_of(files));
        assert_eq!(
            judge(&whole, &book, false, false),
            Ok(Outcome::Unnoticed),
            "nothing is damaged"
        );
    }
    let kinds: std::collections::BTreeSet<_> =
        marked.keys().filter_map(|path| path.split_once('/').map(|(dir, _)| dir)).collect();
    assert!(
        ["journal", "segments", "state", "ids", "manifest"].iter().all(|k| kinds.contains(k)),
        "{kinds:?}"
    );
    let listed = without_leftovers(&marked);
    let mut chance = Chance(seed);
    let mut outcomes: BTreeMap<(String, Outcome), usize> = BTreeMap::new();
    let mut broken = Vec::new();
    for place in draw(&listed, count, &mut chance) {
        let files = if chance.below(3) == 0 { &unmarked } else { &marked };
        match try_place(files, &place, &book) {
            Ok(outcome) => {
                let kind = place.file.split('/').next().unwrap_or_default().to_owned();
                *outcomes.entry((kind, outcome)).or_default() += 1;
            }
            Err(why) => {
                let variant = if std::ptr::eq(files, &marked) { "marked" } else { "unmarked" };
                broken.push(format!("{place:?} ({variant}): {why}"));
            }
        }
    }
    for ((kind, outcome), count) in &outcomes {
        println!("{kind:>10} {outcome:?}: {count}");
    }
    for line in broken.iter().take(20) {
        let end = line.char_indices().nth(600).map_or(line.len(), |(at, _)| at);
        println!("{}", &line[..end]);
    }
    assert!(broken.is_empty(), "{} of {count} flips broke a promise, seed {seed}", broken.len());
}

/// sled's files may lie as they like: they are compared with their mark, and built again.
#[test]
fn a_flip_in_the_index_costs_only_a_rebuild() {
    let mut chance = Chance(seed());
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    let book = fill(Arc::new(RealDisk::open(&base).unwrap()), 5, true, true);
    let files = real_files(&base.join("index"));
    assert!(files.iter().any(|path| path.contains("sled")), "{files:?}");
    let count = number("BIT_ROT_COUNT").map_or(12, |count| (count as usize / 50).clamp(12, 200));
    for n in 0..count {
        let copy = home.path().join(format!("copy-{n}"));
        copy_tree(&base, &copy);
        let file = &files[chance.below(files.len() as u64) as usize];
        let path = copy.join("index").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let byte = chance.below(bytes.len() as u64) as usize;
        bytes[byte] ^= 1 << chance.below(8);
        std::fs::write(&path, bytes).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&copy).unwrap());
        let outcome = judge(&disk, &book, true, true);
        assert_eq!(outcome, Ok(Outcome::Harmless), "{file} byte {byte}");
        drop(disk);
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

/// Paths of all files below a directory.
fn real_files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap();
                found.push(name.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
