//! The same with two copies of every file: whatever happens to one of them, everything is delivered and
//! nothing is announced as lost, `verify` names the copy, and repairing leaves nothing to name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use claudebus_storage::copies::repair_all;
use claudebus_storage::disk::{Disk, SimulatedDisk, TwinDisk};
use claudebus_storage::verify::{Finding, verify};

use crate::book::{Book, Chance, fill};
use crate::judge::{Outcome, judge};
use crate::places::{Place, draw, must_be_named};
use crate::{Files, SMOKE, copy_of, files_of, number, seed, without_last_mark, without_leftovers};

/// Both copies of a directory, and the book of what is in it.
struct Twins {
    sides: [Files; 2],
    book: Book,
}

impl Twins {
    fn new() -> Self {
        let (one, other) = (SimulatedDisk::new(), SimulatedDisk::new());
        let disk = TwinDisk::new(Arc::new(one.clone()), Arc::new(other.clone()));
        let book = fill(Arc::new(disk), 5, false, false);
        Self { sides: [files_of(&one), files_of(&other)], book }
    }

    /// As if power had been lost before the mark that closes the last group.
    fn unmarked(&self) -> [Files; 2] {
        self.sides.each_ref().map(without_last_mark)
    }
}

/// A directory with one copy as `files` says and the other one changed by `harm`.
fn harmed(
    files: &[Files; 2],
    side: usize,
    harm: impl FnOnce(&SimulatedDisk),
) -> (Arc<dyn Disk>, [SimulatedDisk; 2]) {
    let sides = files.each_ref().map(copy_of);
    harm(&sides[side]);
    let [one, other] = sides.each_ref().map(|side| Arc::new(side.clone()));
    (Arc::new(TwinDisk::new(one, other)), sides)
}

fn findings(disk: &Arc<dyn Disk>) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    verify(disk, &mut |finding| findings.push(finding)).map_err(|error| error.to_string())?;
    Ok(findings)
}

/// Everything must be there, and after a repair nothing may be wrong.
fn try_one(disk: &Arc<dyn Disk>, book: &Book, must_name: bool) -> Result<Outcome, String> {
    let before = findings(disk)?;
    if let Some(other) = before.iter().find(|one| !matches!(one.harm.name(), "copy" | "nothing")) {
        return Err(format!("verify says that it costs something: {other:?}"));
    }
    let judged = catch_unwind(AssertUnwindSafe(|| judge(disk, book, must_name, false)));
    let outcome = judged.unwrap_or_else(|_| Err("it panicked".to_owned()))?;
    if outcome > Outcome::Harmless {
        return Err(format!("something is lost: {outcome:?}"));
    }
    repair_all(disk.as_ref()).map_err(|error| error.to_string())?;
    match findings(disk)?.first() {
        None => Ok(outcome),
        Some(left) => Err(format!("damage is left after a repair: {left:?}")),
    }
}

fn check(broken: &[String]) {
    for line in broken.iter().take(20) {
        let end = line.char_indices().nth(600).map_or(line.len(), |(at, _)| at);
        println!("{}", &line[..end]);
    }
    assert!(broken.is_empty(), "{} changes of one copy broke a promise", broken.len());
}

#[test]
fn a_flipped_bit_in_one_copy_costs_nothing() {
    let mut chance = Chance(seed());
    let count = number("BIT_ROT_COUNT").map_or(SMOKE, |count| count as usize) / 2;
    let twins = Twins::new();
    let unmarked = twins.unmarked();
    for files in [&twins.sides, &unmarked] {
        let (whole, _) = harmed(files, 0, |_| {});
        assert_eq!(try_one(&whole, &twins.book, false), Ok(Outcome::Unnoticed));
    }
    let listed = without_leftovers(&twins.sides[0]);
    let (mut broken, mut named) = (Vec::new(), 0);
    for place in draw(&listed, count, &mut chance) {
        let files = if chance.below(3) == 0 { &unmarked } else { &twins.sides };
        let side = chance.below(2) as usize;
        let Place { file, byte, bit } = &place;
        let mut bytes = files[side][file].clone();
        bytes[*byte] ^= 1 << bit;
        let (disk, _) = harmed(files, side, |side| side.damage(file, bytes));
        match try_one(&disk, &twins.book, must_be_named(&place)) {
            Ok(outcome) => named += usize::from(outcome == Outcome::Harmless),
            Err(why) => broken.push(format!("{place:?} of copy {}: {why}", side + 1)),
        }
    }
    check(&broken);
    assert!(named > count / 3, "{named} of {count}");
}

/// Each file in turn is gone, empty, cut, or zeros, in each of the copies.
#[test]
fn a_file_that_one_copy_lacks_costs_nothing() {
    let twins = Twins::new();
    let listed = without_leftovers(&twins.sides[0]);
    let mut broken = Vec::new();
    for side in 0..2 {
        for (file, bytes) in &listed {
            if file.contains("spare") || file.contains("ballast") || bytes.is_empty() {
                continue;
            }
            let (half, zeros) = (bytes[..bytes.len() / 2].to_vec(), vec![0; bytes.len()]);
            for (what, instead) in [
                ("gone", None),
                ("empty", Some(Vec::new())),
                ("cut", Some(half)),
                ("zeros", Some(zeros)),
            ] {
                let (disk, _) = harmed(&twins.sides, side, |side| match instead {
                    None => {
                        side.remove(file).unwrap();
                        side.sync_dir(file.rsplit_once('/').map_or("", |(dir, _)| dir)).unwrap();
                    }
                    Some(bytes) => side.damage(file, bytes),
                });
                if let Err(why) = try_one(&disk, &twins.book, false) {
                    broken.push(format!("{file} is {what} in copy {}: {why}", side + 1));
                }
            }
        }
    }
    check(&broken);
}

/// All files of one copy are gone.
#[test]
fn a_copy_that_is_gone_altogether_costs_nothing() {
    let twins = Twins::new();
    for side in 0..2 {
        let (disk, sides) = harmed(&twins.sides, side, |side| {
            for path in side.paths() {
                side.remove(&path).unwrap();
            }
            for dir in ["", "journal", "segments", "state", "ids", "manifest"] {
                side.sync_dir(dir).unwrap();
            }
        });
        let outcome = try_one(&disk, &twins.book, true);
        assert_eq!(outcome, Ok(Outcome::Harmless), "copy {}", side + 1);
        assert!(sides[side].paths().len() > 10);
    }
}
