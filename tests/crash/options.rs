//! How long, how hard, and with which seed the crash test runs; from the environment.

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

use crate::lives::Plan;

/// Every so many rounds everything is read back, not only samples.
const FULL_EVERY: u64 = 25;

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds: `CRASH_ROUNDS`. Each kills the broker at least twice.
    pub rounds: u64,
    /// Seed of payloads, choices and times: `CRASH_SEED`; drawn anew if not given.
    pub seed: u64,
    /// Acknowledged messages of a round, about: `CRASH_ACKS`.
    pub acks: u64,
    /// Wipe the newest journal file before a restart, to see that the oracle notices:
    /// `CRASH_SABOTAGE=1` or `--sabotage`.
    pub sabotage: bool,
    /// Where data lies: `CRASH_DIR`; a temporary directory if not given.
    pub dir: Option<String>,
}

fn number<T: FromStr>(name: &str) -> Result<Option<T>, String> {
    match std::env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("{name}={text}: give a whole number")),
        },
    }
}

impl Options {
    /// Reads them.
    pub fn read() -> Result<Self, String> {
        let seed = number("CRASH_SEED")?;
        let flag = std::env::args().any(|argument| argument == "--sabotage");
        let sabotage = flag || number::<u8>("CRASH_SABOTAGE")?.is_some_and(|n| n > 0);
        Ok(Self {
            rounds: number("CRASH_ROUNDS")?.unwrap_or(if sabotage { 2 } else { 10 }).max(1),
            seed: seed.unwrap_or_else(|| RandomState::new().hash_one("claudebus crash test")),
            acks: number("CRASH_ACKS")?.unwrap_or(21_000),
            sabotage,
            dir: std::env::var("CRASH_DIR").ok(),
        })
    }

    /// What of this a run is about.
    pub fn plan(&self) -> Plan {
        Plan {
            rounds: self.rounds,
            seed: self.seed,
            acks: self.acks,
            full_every: FULL_EVERY,
            stop_when_violated: false,
            may_leave_out: false,
            arguments: Vec::new(),
        }
    }
}
