//! Kills the real broker with `kill -9`, again and again, while publishers and consumers work
//! through the real SDK, and judges what it holds afterwards by what it had acknowledged.
//!
//! ```text
//! cargo test --release --test crash                        10 rounds
//! CRASH_ROUNDS=100 cargo test --release --test crash       the full run
//! CRASH_SEED=7 cargo test --release --test crash           the same choices again
//! cargo test --release --test crash -- --sabotage          must report a loss
//! ```
//!
//! The judge is this process; the broker is another. It ends with 1 if any invariant is violated,
//! and, with `--sabotage`, if none is.

#![allow(clippy::expect_used, clippy::indexing_slicing)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr)]

#[path = "../lives/mod.rs"]
mod lives;
mod options;
#[path = "../process/mod.rs"]
mod process;
mod sabotage;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lives::payload::next;
use lives::{Machine, Moment, Outcome, Run};
use options::Options;
use process::Broker;

/// `kill -9` at a moment that nobody chose. The disk keeps what was written.
struct Killed {
    /// Whose newest journal file is wiped, to see that the judge notices.
    sabotaged: Option<PathBuf>,
}

impl Machine for Killed {
    fn kill(&mut self, broker: &mut Broker, when: Moment, random: &mut u64) -> io::Result<bool> {
        let longest = match when {
            Moment::Running => 20_000,
            Moment::Starting => 60_000,
        };
        let moment = Duration::from_micros(next(random) % longest);
        match when {
            Moment::Running => std::thread::sleep(moment),
            Moment::Starting => {
                broker.wait_ready(moment)?;
            }
        }
        broker.kill()
    }

    fn died(&mut self, _random: &mut u64) -> Outcome<()> {
        match &self.sabotaged {
            Some(data) => Ok(sabotage::wipe_newest_journal(data)?),
            None => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    // Test runners ask every test binary for its list of tests.
    if std::env::args().any(|argument| argument == "--list") {
        println!("crash: test");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash test: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Box<dyn std::error::Error>> {
    let options = Options::read()?;
    println!("crash test: {} rounds, seed {}", options.rounds, options.seed);
    let temporary = tempfile::tempdir()?;
    let dir = match &options.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            dir.into()
        }
        None => temporary.path().to_path_buf(),
    };
    let data = dir.join("data");
    let machine = Killed { sabotaged: options.sabotage.then(|| data.clone()) };
    let mut run = Run::new(options.plan(), machine, &data)?;
    let result = run.all();
    if let Err(error) = &result {
        run.oracle().violated(format_args!("the run could not go on: {error}"));
    }
    lives::table::print("crash test", &options.plan(), &run);
    let (violations, words) = run.oracle().violations();
    if violations > 0 {
        println!("\n{violations} violations, the first of them:");
        words.iter().for_each(|word| println!("  {word}"));
        println!("repeat with CRASH_SEED={}", options.seed);
        if !options.sabotage {
            let kept = temporary.keep();
            println!("data and the broker's log are kept in {}", dir.display());
            drop(kept);
        }
    }
    if options.sabotage {
        println!("sabotage {}", if violations > 0 { "was noticed" } else { "WENT UNNOTICED" });
        return Ok(violations > 0);
    }
    Ok(violations == 0 && run.kills.is_enough(options.rounds))
}
