//! Cuts the power of the machine that the real broker runs on, again and again, and judges what it
//! holds afterwards by what it had acknowledged.
//!
//! ```text
//! cargo test --release --test power_loss                                       8 rounds
//! POWER_LOSS_ROUNDS=100 cargo test --release --test power_loss -- --nocapture  the full run
//! POWER_LOSS_SEED=7 cargo test --release --test power_loss                     the same choices again
//! ```
//!
//! The broker's files are on a file system of this process. The power fails at a change of the
//! disk that the seed chooses, or at a named place in the broker; what was not synced is lost, kept
//! or torn. Applications and judge are the crash test's.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr)]

mod disk;
mod file_system;
#[path = "../lives/mod.rs"]
mod lives;
mod machine;
#[path = "../process/mod.rs"]
mod process;

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use file_system::Honesty;
use lives::{Plan, Run, table};
use machine::PowerLoss;

/// Rounds if nothing else is asked for: each kind of named place has its turn.
const ROUNDS: u64 = 8;
/// Acknowledged messages of a round, about.
const ACKS: u64 = 6_000;
/// Every so many rounds everything is read back.
const FULL_EVERY: u64 = 5;
/// One run at a time: each needs the machine for itself to get anywhere.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: give a whole number")))
}

fn seed() -> u64 {
    number("POWER_LOSS_SEED")
        .unwrap_or_else(|| RandomState::new().hash_one("claudebus power loss test"))
}

fn plan(rounds: u64, arguments: &[&str]) -> Plan {
    Plan {
        rounds,
        seed: seed(),
        acks: number("POWER_LOSS_ACKS").unwrap_or(ACKS),
        full_every: FULL_EVERY,
        stop_when_violated: true,
        may_leave_out: true,
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
    }
}

/// Runs it. Returns the number of violations, or nothing, with a word about it, where no file system
/// can be mounted.
fn run(plan: &Plan, honesty: Honesty) -> Option<(u64, Run<PowerLoss>)> {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let machine = match PowerLoss::new(honesty, plan.seed, &data) {
        Ok(machine) => machine,
        Err(error) => {
            // Past the test runner, which shows nothing of tests that pass.
            let word = format!(
                "SKIPPED: no power was cut, for this user cannot mount a FUSE file system ({error})\n"
            );
            std::io::stderr().write_all(word.as_bytes()).unwrap();
            return None;
        }
    };
    println!("power loss test: {} rounds, seed {}", plan.rounds, plan.seed);
    let mut run = Run::new(plan.clone(), machine, &data).unwrap();
    if let Err(error) = run.all() {
        run.oracle().violated(format_args!("the run could not go on: {error}"));
    }
    table::print("power loss test", plan, &run);
    let (violations, words) = run.oracle().violations();
    if violations > 0 {
        println!("\n{violations} violations, the first of them:");
        words.iter().for_each(|word| println!("  {word}"));
    }
    print_losses(run.machine());
    if violations > 0 && honesty == Honesty::Honest && plan.arguments.is_empty() {
        keep(&run, dir.path());
    }
    Some((violations, run))
}

fn print_losses(machine: &PowerLoss) {
    println!("losses of power: {}, {} of them at a change", machine.losses(), machine.within);
    for (survival, count) in &machine.survivals {
        println!("  {}: {count}", survival.name());
    }
    println!("changes and syncs of the disk: {}", machine.changes());
}

/// Keeps what a failed run left, for people to look at.
fn keep(run: &Run<PowerLoss>, dir: &Path) {
    let kept = tempfile::Builder::new().prefix("power-loss-").tempdir().unwrap().keep();
    run.machine().keep(&kept).unwrap();
    std::fs::copy(dir.join("data.log"), kept.join("data.log")).unwrap();
    println!("what the last two losses of power left, and the log, are kept in {}", kept.display());
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let rounds = number("POWER_LOSS_ROUNDS").unwrap_or(ROUNDS).max(1);
    let plan = plan(rounds, &[]);
    let seed = plan.seed;
    let Some((violations, run)) = run(&plan, Honesty::Honest) else { return };
    assert_eq!(violations, 0, "repeat with POWER_LOSS_SEED={seed}");
    assert!(run.kills.is_enough(rounds), "each kind of kill must have had its turn");
}

/// The same with a broker that acknowledges before it syncs: it must be caught.
#[test]
fn a_broker_that_does_not_wait_for_the_disk_is_caught() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = plan(10, &["--durability", "os"]);
    let Some((violations, _)) = run(&plan, Honesty::Honest) else { return };
    assert!(violations > 0, "acknowledged messages must have been lost");
}

/// The same with a disk that lies about syncs: it must be caught.
#[test]
fn a_disk_that_lies_is_caught() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((violations, _)) = run(&plan(10, &[]), Honesty::Lying) else { return };
    assert!(violations > 0, "acknowledged messages must have been lost");
}
