//! Two copies of every file: whatever happens to one of them, nothing is lost and nothing is said to be,
//! and it is whole again afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::operations::{Chance, Run, options};
use crate::copies::{Pairing, Sealed, look, pair, unpair};
use crate::disk::{Disk, SimulatedDisk, TwinDisk};
use crate::engine::ScrubOptions;
use crate::log::Log;
use crate::manifest::{self, Manifest};
use crate::{Engine, EngineOptions};

struct Twins {
    one: SimulatedDisk,
    other: SimulatedDisk,
}

impl Twins {
    fn new() -> Self {
        Self { one: SimulatedDisk::new(), other: SimulatedDisk::new() }
    }

    fn side(&self, number: u64) -> &SimulatedDisk {
        if number == 0 { &self.one } else { &self.other }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(TwinDisk::new(Arc::new(self.one.clone()), Arc::new(self.other.clone())))
    }

    fn open(&self, seed: u64) -> Engine {
        Engine::open(options(seed), self.disk(), Arc::new(|| {})).unwrap()
    }

    /// What is wrong with files that the manifests list, on either side.
    fn wrong(&self) -> Vec<String> {
        let disk = self.disk();
        let mut wrong = Vec::new();
        for generation in Manifest::generations(disk.as_ref()).unwrap() {
            let manifest = Manifest::read(disk.as_ref(), generation).unwrap();
            let files = Sealed::listed(&manifest).chain([Sealed::Manifest(generation)]);
            for file in files {
                let found = look(disk.as_ref(), &file).into_iter().enumerate();
                wrong.extend(found.filter_map(|(n, found)| Some(format!("{n}: {}", found.err()?))));
            }
        }
        wrong
    }
}

/// Damages a file, or removes it. Returns what was done.
fn harm(side: &SimulatedDisk, chance: &mut Chance, only: &str) -> Option<String> {
    let counts = |path: &String| {
        let is_filler = path.contains("spare") || path.contains("ballast");
        !is_filler && !path.starts_with("lost+found") && path.contains(only)
    };
    let paths: Vec<String> = side.paths().into_iter().filter(counts).collect();
    let path = paths.get(chance.below(paths.len() as u64) as usize)?;
    let mut bytes = side.contents(path)?;
    if bytes.is_empty() {
        return None;
    }
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let at = chance.below(used as u64) as usize;
    let what = match chance.below(5) {
        0 | 1 => {
            bytes[at] ^= 1 << chance.below(8);
            format!("a bit of {path} at {at}")
        }
        2 => {
            let end = (at + chance.below(5_000) as usize).min(used);
            bytes[at..end].fill(0);
            format!("zeros in {path} from {at} to {end} of {used}")
        }
        3 => {
            bytes.truncate(at);
            format!("{path} ends at {at}")
        }
        _ => {
            side.remove(path).unwrap();
            side.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir)).unwrap();
            return Some(format!("{path} is gone"));
        }
    };
    side.damage(path, bytes);
    Some(what)
}

fn work(run: &mut Run, engine: &mut Engine, steps: u64) -> bool {
    for _ in 0..steps {
        run.step(engine);
        if run.draw.chance.one_in(5) {
            run.commit(engine);
            engine.run_background();
        }
        loop {
            match engine.poll() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return false,
            }
        }
    }
    true
}

/// Power goes at any moment, on each side at another one, and then one of the sides is damaged as well.
#[test]
fn damage_of_one_copy_after_a_crash_costs_nothing() {
    let mut repaired = 0;
    for seed in 0..60 {
        let twins = Twins::new();
        let mut run = Run::new(seed, false);
        let mut chance = Chance(seed ^ 0x5eed);
        let mut engine = twins.open(seed);
        for life in 1..5 {
            if chance.one_in(2) {
                twins.side(chance.below(2)).power_off_after(1 + chance.below(700));
            }
            let steps = 200 + chance.below(600);
            work(&mut run, &mut engine, steps);
            let durable = engine.durable().0;
            drop(engine);
            twins.one.crash(seed * 10 + life);
            twins.other.crash(seed * 11 + life + 1);
            let side = twins.side(chance.below(2));
            let what = if chance.one_in(4) { None } else { harm(side, &mut chance, "") };
            engine = twins.open(seed * 100 + life);
            let report = engine.recovery_report().clone();
            let place = format!("seed {seed} life {life}: {what:?}: {report:?}");
            assert!(report.damage.is_empty() && report.last_group >= durable, "{place}");
            // What was never acknowledged may be in doubt, as with one copy.
            assert!(!report.fell_back, "{place}");
            repaired += report.repaired;
            run.rewind(&mut engine);
            run.compare(&mut engine);
            // What no read met must be whole before the other copy is damaged in the same place.
            engine.scrub_now();
        }
    }
    assert!(repaired > 30, "{repaired}");
}

/// Power goes while the first checkpoint of all is written, and then its manifest rots on the side that
/// has it: the other side, which has not, is right.
#[test]
fn a_first_manifest_that_one_copy_never_had_does_not_count() {
    let mut met = 0;
    for n in 1..400 {
        let twins = Twins::new();
        let mut run = Run::new(3, false);
        let mut engine = twins.open(n);
        let (rotten, whole) = (twins.side(n % 2), twins.side((n + 1) % 2));
        whole.power_off_after(n);
        work(&mut run, &mut engine, 600);
        let durable = engine.durable().0;
        drop(engine);
        twins.one.crash(n);
        twins.other.crash(n);
        let manifest = |side: &SimulatedDisk| side.contents(&manifest::path(1));
        let (Some(mut bytes), None) = (manifest(rotten), manifest(whole)) else { continue };
        let Some(last) = bytes.last_mut() else { continue };
        *last ^= 1;
        rotten.damage(&manifest::path(1), bytes);
        met += 1;
        let mut engine = twins.open(1_000 + n);
        let report = engine.recovery_report().clone();
        assert!(report.damage.is_empty() && report.last_group >= durable, "{n}: {report:?}");
        run.rewind(&mut engine);
        run.compare(&mut engine);
        assert!(work(&mut run, &mut engine, 600), "{n}");
    }
    assert!(met > 0, "it never happened");
}

/// Files are damaged while the log is open; reads bring the right bytes, and what they met is repaired.
#[test]
fn damage_met_online_is_answered_from_the_other_copy_and_repaired() {
    let mut repaired = 0;
    for seed in 0..40 {
        let twins = Twins::new();
        let mut run = Run::new(seed, false);
        let mut chance = Chance(seed ^ 0x5eed);
        let mut engine = twins.open(seed);
        work(&mut run, &mut engine, 900);
        run.commit(&mut engine);
        engine.run_background();
        for _ in 0..6 {
            let side = chance.below(2);
            let what = harm(twins.side(side), &mut chance, "segments/");
            run.compare(&mut engine);
            work(&mut run, &mut engine, 40);
            run.commit(&mut engine);
            run.compare(&mut engine);
            engine.scrub_now();
            assert_eq!(twins.wrong(), Vec::<String>::new(), "{seed}: {side} {what:?}");
        }
        repaired += engine.info().scrub.repaired;
        assert_eq!(engine.info().failed_reads, 0);
        assert_eq!(engine.info().failed_merges, 0);
    }
    assert!(repaired > 50, "{repaired}");
}

/// All kinds of sealed files, on either side; one pass makes them whole.
#[test]
fn scrubbing_finds_and_repairs_whatever_is_sealed() {
    for (seed, dir) in (0..40).zip(["segments/", "state/", "ids/", "manifest/"].iter().cycle()) {
        let twins = Twins::new();
        let mut run = Run::new(seed, false);
        let mut engine = twins.open(seed);
        work(&mut run, &mut engine, 1_200);
        engine.scrub_now();
        let before = engine.info().scrub;
        assert!(before.passes == 1 && before.damaged == 0 && before.bytes > 1_000, "{before:?}");
        assert!(before.last > 1_700_000_000);
        let mut chance = Chance(seed);
        let what = harm(twins.side(seed % 2), &mut chance, dir);
        let wrong = twins.wrong().len() as u64;
        engine.scrub_now();
        let after = engine.info().scrub;
        assert!(after.damaged >= wrong.min(1), "{what:?}: {after:?}");
        assert_eq!(after.damaged, after.repaired, "{what:?}");
        assert_eq!(twins.wrong(), Vec::<String>::new(), "{what:?}");
        run.commit(&mut engine);
        run.compare(&mut engine);
    }
}

/// Too many files are open at any moment of a pass: nothing that is listed goes, nothing else counts as
/// damage, and the pass is not done before all was read.
#[test]
fn scrubbing_without_handles_takes_nothing_away() {
    let twins = Twins::new();
    let mut run = Run::new(1, false);
    let mut engine = twins.open(1);
    work(&mut run, &mut engine, 1_200);
    let mut chance = Chance(9);
    for after in 0..60 {
        let what = harm(twins.side(after % 2), &mut chance, "segments/");
        let wrong = twins.wrong().len() as u64;
        let before = engine.info().scrub;
        for side in [&twins.one, &twins.other] {
            side.refuse_handles(after / 2, u64::MAX);
        }
        engine.scrub_now();
        for side in [&twins.one, &twins.other] {
            side.refuse_handles(0, 0);
        }
        let place = format!("{after}: {what:?}");
        let during = engine.info().scrub;
        let (found, passes) = (during.damaged - before.damaged, during.passes - before.passes);
        assert!(found <= wrong && (passes == 0 || found == wrong), "{place}: {during:?}");
        engine.scrub_now();
        assert_eq!(twins.wrong(), Vec::<String>::new(), "{place}");
    }
    run.commit(&mut engine);
    run.compare(&mut engine);
}

/// With one copy there is nothing to repair from; the damage is told and nothing is changed.
#[test]
fn scrubbing_a_single_copy_tells_and_changes_nothing() {
    let disk = SimulatedDisk::new();
    let mut run = Run::new(3, false);
    let mut engine = super::operations::open(&disk, 3);
    work(&mut run, &mut engine, 1_200);
    engine.scrub_now();
    assert_eq!(engine.info().scrub.damaged, 0);
    let below: Arc<dyn Disk> = Arc::new(disk.clone());
    let generation = Manifest::generations(below.as_ref()).unwrap()[0];
    let listed = Manifest::read(below.as_ref(), generation).unwrap().segments[0];
    let mut bytes = disk.contents(&listed.id.path()).unwrap();
    bytes[150] ^= 1;
    disk.damage(&listed.id.path(), bytes.clone());
    engine.scrub_now();
    let found = engine.info().scrub;
    assert_eq!((found.damaged, found.repaired), (1, 0));
    assert_eq!(disk.contents(&listed.id.path()), Some(bytes));
}

/// One copy becomes two and one again, and what was not kept for a while is not believed.
#[test]
fn copies_are_made_kept_given_up_and_made_anew() {
    let twins = Twins::new();
    let mut run = Run::new(5, false);
    let places = ("here", "there");
    let (one, other): (Arc<dyn Disk>, Arc<dyn Disk>) =
        (Arc::new(twins.one.clone()), Arc::new(twins.other.clone()));
    let both = |seed| {
        let paired = pair(Arc::clone(&one), Arc::clone(&other), places, seed);
        let (disk, done) = paired.unwrap();
        let engine = Engine::open(options(seed), Arc::new(disk), Arc::new(|| {})).unwrap();
        (engine, done)
    };
    let mut engine = super::operations::open(&twins.one, 1);
    work(&mut run, &mut engine, 700);
    run.commit(&mut engine);
    engine.close().unwrap();
    let (mut engine, done) = both(2);
    assert!(matches!(done, Pairing::Made(files) if files > 3), "{done:?}");
    assert_eq!(twins.wrong(), Vec::<String>::new());
    run.compare(&mut engine);
    work(&mut run, &mut engine, 300);
    run.commit(&mut engine);
    engine.close().unwrap();
    let (engine, done) = both(3);
    assert_eq!(done, Pairing::Known);
    drop(engine);
    // One copy for a while.
    assert_eq!(unpair(&twins.one).unwrap(), Some("there".to_owned()));
    assert_eq!(unpair(&twins.one).unwrap(), None);
    let mut engine = super::operations::open(&twins.one, 4);
    work(&mut run, &mut engine, 700);
    run.commit(&mut engine);
    engine.close().unwrap();
    let (mut engine, done) = both(5);
    assert!(matches!(done, Pairing::Made(_)), "{done:?}");
    run.compare(&mut engine);
    engine.close().unwrap();
    // Either directory is lost as a whole.
    for lost in [&twins.other, &twins.one] {
        for path in lost.paths() {
            lost.remove(&path).unwrap();
        }
        let (mut engine, done) = both(6);
        match done {
            Pairing::Made(files) => assert!(std::ptr::eq(lost, &twins.other) && files > 3),
            Pairing::Restored(files) => assert!(std::ptr::eq(lost, &twins.one) && files > 3),
            Pairing::Known => panic!("a lost directory was not noticed"),
        }
        run.compare(&mut engine);
        engine.close().unwrap();
        assert_eq!(twins.wrong(), Vec::<String>::new());
    }
    // A mark that is damaged or missing is no reason to refuse.
    for (side, is_gone) in [(0, false), (0, true), (1, false), (1, true)] {
        let side = twins.side(side);
        if is_gone {
            side.remove("COPIES").unwrap();
        } else {
            let mut mark = side.contents("COPIES").unwrap();
            mark[30] ^= 1;
            side.damage("COPIES", mark);
        }
        let (mut engine, _) = both(7);
        run.compare(&mut engine);
        engine.close().unwrap();
        let (_, done) = both(8);
        assert_eq!(done, Pairing::Known);
    }
}

/// Another log's directory is not taken for copies, and stays as it is.
#[test]
fn a_foreign_directory_is_refused() {
    let twins = Twins::new();
    for side in [&twins.one, &twins.other] {
        super::operations::open(side, 1).close().unwrap();
    }
    let before = twins.other.counts().changes();
    let (one, other) = (Arc::new(twins.one.clone()), Arc::new(twins.other.clone()));
    let refused = pair(one, other, ("here", "there"), 1).err().unwrap();
    assert!(refused.to_string().starts_with("there holds files that are not copies"), "{refused}");
    assert_eq!(twins.other.counts().changes(), before);
}

/// A data directory without a log never takes the place of files that may be all that is left of one.
#[test]
fn an_empty_directory_wipes_no_copies() {
    let places = ("here", "there");
    let pair = |twins: &Twins| {
        let (one, other) = (Arc::new(twins.one.clone()), Arc::new(twins.other.clone()));
        pair(one, other, places, 1)
    };
    let fill = |side: &SimulatedDisk| {
        let mut engine = super::operations::open(side, 1);
        work(&mut Run::new(5, false), &mut engine, 700);
        engine.close().unwrap();
    };
    let wipe = |side: &SimulatedDisk, kept: &str| {
        for path in side.paths().into_iter().filter(|path| path != kept) {
            side.remove(&path).unwrap();
        }
    };
    let refused = |twins: &Twins| {
        let before = twins.other.paths();
        let refused = pair(twins).err().expect("it is not done").to_string();
        assert!(refused.contains("holds no log"), "{refused}");
        assert_eq!(twins.other.paths(), before);
        assert!(before.len() > 3);
    };
    // They were not kept for a while.
    let twins = Twins::new();
    fill(&twins.one);
    pair(&twins).unwrap();
    unpair(&twins.one).unwrap();
    wipe(&twins.one, "COPIES");
    refused(&twins);
    // They are not complete, and nothing in the first directory says whose they are.
    let twins = Twins::new();
    fill(&twins.one);
    twins.other.power_off_after(60);
    assert!(pair(&twins).is_err());
    twins.other.crash(1);
    wipe(&twins.one, "");
    refused(&twins);
}

/// With threads, at its own pace: everything is read, once in an interval; a pass that was broken off goes
/// on where it was; and closing does not wait for it.
#[test]
fn the_background_scrubs_by_itself() {
    let twins = Twins::new();
    let mut engine = twins.open(1);
    work(&mut Run::new(1, false), &mut engine, 1_200);
    engine.scrub_now();
    let whole = engine.info().scrub.bytes;
    engine.close().unwrap();
    twins.one.remove("SCRUB").unwrap();
    twins.other.remove("SCRUB").unwrap();
    let started = |rate| {
        let (interval, delay) = (Duration::from_secs(3600), Duration::ZERO);
        let scrub = Some(ScrubOptions { interval, rate, delay });
        let threads = EngineOptions { workers: crate::Workers::Threads, scrub, ..options(1) };
        Engine::open(threads, twins.disk(), Arc::new(|| {})).unwrap()
    };
    let wait = |engine: &Engine| {
        let end = Instant::now() + Duration::from_secs(60);
        while engine.info().scrub.passes == 0 && Instant::now() < end {
            std::thread::yield_now();
        }
        engine.info().scrub
    };
    let engine = started(1 << 30);
    let first = wait(&engine);
    engine.close().unwrap();
    // What closing the log wrote is read, and what it replaced is not.
    assert!(first.passes == 1 && first.bytes > whole / 2, "{first:?}, {whole} in all");

    // A clock that was wrong is not believed.
    let text = |last: u64, next: &str| format!("claudebus scrub 1\nlast {last}\nnext {next}\n");
    let note = |text: String| {
        for side in [&twins.one, &twins.other] {
            side.damage("SCRUB", text.clone().into_bytes());
        }
    };
    note(text(u64::MAX, ""));
    let engine = started(1 << 30);
    assert_eq!(wait(&engine).passes, 1);
    engine.close().unwrap();

    // Only the state files are left.
    note(text(first.last, "state"));
    let engine = started(1 << 30);
    let rest = wait(&engine);
    engine.close().unwrap();
    assert!(rest.passes == 1 && rest.bytes < first.bytes / 2, "{rest:?} of {first:?}");

    // At a byte a second it would take an hour.
    note(text(0, ""));
    let began = Instant::now();
    started(1).close().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
}
