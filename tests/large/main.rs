//! How soon a broker with much data is back after `kill -9`, and how much memory it takes.
//!
//! ```text
//! LARGE=1 cargo test --release --test large        stores 10 GB; needs 30 GB of disk and minutes
//! ```
//!
//! Smaller runs: `LARGE_MESSAGES`, `LARGE_BYTES`, `LARGE_RUNS`, `LARGE_IDLE_SECONDS`,
//! `LARGE_BACKLOG`. Without `LARGE=1` it only says so.

#![allow(clippy::expect_used, clippy::indexing_slicing)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr)]

mod load;
mod memory;
mod options;
#[path = "../process/mod.rs"]
mod process;
mod restart;

use std::error::Error;
use std::process::ExitCode;

use options::Options;

/// One line of the table: what, how it came out, and the limit.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// What came out.
    pub value: f64,
    /// What it may be at most; none for information.
    pub limit: Option<f64>,
    /// Of both.
    pub unit: &'static str,
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("large: test");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("large test: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let Some(options) = Options::read()? else {
        println!("large: not asked for; run it with LARGE=1 cargo test --release --test large");
        return Ok(true);
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    std::fs::create_dir_all(&options.dir)?;
    let mut rows = Vec::new();
    for part in [memory::empty, memory::slow_reader, restart::restarts] {
        let dir = tempfile::tempdir_in(&options.dir)?;
        rows.extend(part(&options, &runtime, dir.path())?);
    }
    println!("\n| {:<46} | {:>10} | {:>10} |", "large test", "measured", "limit");
    println!("|{:-<48}|{:-<12}|{:-<12}|", "", "", "");
    let mut passed = true;
    for Row { what, value, limit, unit } in rows {
        let shown = limit.map_or_else(String::new, |limit| format!("{limit} {unit}"));
        println!("| {what:<46} | {value:>7.2} {unit:<2} | {shown:>10} |");
        passed &= limit.is_none_or(|limit| value <= limit);
    }
    println!("{}", if passed { "all within their limits" } else { "LIMITS EXCEEDED" });
    Ok(passed)
}
