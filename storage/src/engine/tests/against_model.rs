//! The engine and the naive log answer the same, whatever happens.

use super::operations::{Run, open};
use crate::disk::SimulatedDisk;
use crate::log::Log;
use crate::{Engine, EngineStats};

/// Runs for which a longer search was worth it are named by their seed.
fn runs() -> u64 {
    std::env::var("CLAUDEBUS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

/// That the runs went through everything that can go wrong.
#[derive(Default)]
struct Seen {
    checkpoints: u64,
    merges: u64,
    recycled: u64,
    rotations: u64,
    base_rewrites: u64,
    segments_removed: u64,
    reads: u64,
}

impl Seen {
    fn add(&mut self, stats: &EngineStats) {
        self.checkpoints += stats.checkpoints;
        self.merges += stats.merges;
        self.recycled += stats.recycled;
        self.rotations += stats.rotations;
        self.base_rewrites += stats.base_rewrites;
        self.segments_removed += stats.segments_removed;
        self.reads += stats.reads;
    }

    fn assert_everything_happened(&self) {
        let Self {
            checkpoints,
            merges,
            recycled,
            rotations,
            base_rewrites,
            segments_removed,
            reads,
        } = self;
        let all =
            [checkpoints, merges, recycled, rotations, base_rewrites, segments_removed, reads];
        assert!(all.iter().all(|count| **count > 0), "{all:?}");
    }
}

/// Every segment file on the disk is one that the engine will remove when its time comes.
fn assert_nothing_is_forgotten(engine: &mut Engine, disk: &SimulatedDisk) {
    for _ in 0..5 {
        engine.run_background();
        while engine.poll().unwrap().is_some() {}
    }
    let segments = &engine.contents.segments;
    let known = segments.held.len() + segments.retired.len();
    let found = disk.paths().iter().filter(|path| path.starts_with("segments/")).count();
    assert_eq!(found, known, "{:?}", disk.paths());
}

#[test]
fn the_engine_is_the_model() {
    let mut seen = Seen::default();
    for seed in 0..runs() {
        let disk = SimulatedDisk::new();
        let mut engine = open(&disk, seed);
        let mut run = Run::new(seed, true);
        for _ in 0..1_500 {
            run.step(&mut engine);
            if run.draw.chance.one_in(6) {
                run.commit(&mut engine);
            }
            if run.draw.chance.one_in(10) {
                engine.run_background();
                while engine.poll().unwrap().is_some() {}
            }
            if run.draw.chance.one_in(300) {
                run.compare(&mut engine);
            }
        }
        run.commit(&mut engine);
        engine.run_background();
        run.compare(&mut engine);
        seen.add(&engine.info());
    }
    seen.assert_everything_happened();
}

#[test]
fn a_restart_changes_nothing() {
    let mut seen = Seen::default();
    for seed in 0..runs() {
        let disk = SimulatedDisk::new();
        let mut engine = open(&disk, seed);
        let mut run = Run::new(seed, false);
        for round in 0..5 {
            for _ in 0..400 {
                run.step(&mut engine);
                if run.draw.chance.one_in(5) {
                    run.commit(&mut engine);
                    engine.run_background();
                    while engine.poll().unwrap().is_some() {}
                }
            }
            run.commit(&mut engine);
            seen.add(&engine.info());
            engine.close().unwrap();
            engine = open(&disk, seed * 100 + round);
            assert!(engine.recovery_report().damage.is_empty());
            assert!(engine.recovery_report().was_clean);
            assert_eq!(engine.recovery_report().groups_replayed, 0);
            run.compare(&mut engine);
        }
        assert_nothing_is_forgotten(&mut engine, &disk);
    }
    seen.assert_everything_happened();
}

/// Power is lost at a random change of the disk, again and again. What was durable is there, and the
/// whole is what a prefix of the groups made.
#[test]
fn a_crash_loses_nothing_durable() {
    let mut seen = Seen::default();
    for seed in 0..runs() * 4 {
        let disk = SimulatedDisk::new();
        let mut run = Run::new(seed, false);
        let mut engine = open(&disk, seed);
        for life in 1..6 {
            disk.power_off_after(1 + run.draw.chance.below(250));
            while engine.poll().is_ok() {
                run.step(&mut engine);
                if run.draw.chance.one_in(4) {
                    run.commit(&mut engine);
                }
                if run.draw.chance.one_in(6) {
                    engine.run_background();
                }
            }
            let durable = engine.durable().0;
            seen.add(&engine.info());
            drop(engine);
            disk.crash(run.draw.chance.next());
            // Recovery itself may be interrupted.
            if run.draw.chance.one_in(3) {
                disk.power_off_after(1 + run.draw.chance.below(8));
                let options = super::operations::options(seed * 1_000 + life * 2);
                let opened = crate::Engine::open(
                    options,
                    std::sync::Arc::new(disk.clone()),
                    std::sync::Arc::new(|| {}),
                );
                drop(opened);
                disk.crash(run.draw.chance.next());
            }
            engine = open(&disk, seed * 1_000 + life * 2 + 1);
            let report = engine.recovery_report().clone();
            assert!(report.damage.is_empty(), "seed {seed} life {life}: {report:?}");
            assert!(report.last_group >= durable, "seed {seed} life {life}: {report:?} {durable}");
            run.rewind(&mut engine);
            run.compare(&mut engine);
        }
        assert_nothing_is_forgotten(&mut engine, &disk);
    }
    seen.assert_everything_happened();
}
