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

mod book;
mod deliveries;
mod kills;
mod options;
mod oracle;
mod payload;
#[path = "../process/mod.rs"]
mod process;
mod rounds;
mod sabotage;
mod scenario;
mod table;
mod verify;
mod work;

use std::process::ExitCode;

use options::Options;
use rounds::Run;

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
    let mut run = Run::new(options.clone(), &dir)?;
    let result = run.all();
    if let Err(error) = &result {
        run.oracle().violated(format_args!("the run could not go on: {error}"));
    }
    table::print(&options, &run);
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
