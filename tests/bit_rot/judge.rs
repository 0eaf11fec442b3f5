//! One bit flips, and the directory is opened: what is delivered must be what was published, what is
//! missing must be announced, and `verify` must have named the flip where it matters.

use std::collections::BTreeSet;
use std::sync::Arc;

use claudebus::model::event::Gap;
use claudebus_storage::disk::Disk;
use claudebus_storage::verify::{Finding, verify};

use crate::bench::{Bench, Received, everything};
use crate::book::{Book, Message, STREAMS, batch_of};

/// What a flip came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything is there, and nothing is said.
    Unnoticed,
    /// Everything is there, and `verify` says what is damaged.
    Harmless,
    /// Something is lost and announced.
    Announced,
    /// The directory cannot be used, and why is said.
    Refused,
}

/// Judges a damaged directory. `must_name` says that `verify` has to name the flip even if nothing comes
/// of it.
///
/// # Errors
/// What was promised and not kept.
pub fn judge(
    disk: &Arc<dyn Disk>,
    book: &Book,
    must_name: bool,
    index: bool,
) -> Result<Outcome, String> {
    let mut findings = Vec::new();
    verify(disk, &mut |finding| findings.push(finding)).map_err(|error| error.to_string())?;
    let outcome = open_and_read(disk, book, index)?;
    let is_named = !findings.is_empty();
    match outcome {
        Outcome::Unnoticed if is_named => Ok(Outcome::Harmless),
        Outcome::Unnoticed if must_name => Err("verify does not name it".to_owned()),
        Outcome::Unnoticed => Ok(Outcome::Unnoticed),
        _ if !is_named => Err(format!("verify does not name it, and it is {outcome:?}")),
        Outcome::Refused if !says_start(&findings) => {
            Err(format!("verify does not say that no start is possible: {findings:?}"))
        }
        outcome => Ok(outcome),
    }
}

fn says_start(findings: &[Finding]) -> bool {
    // The broker's own refusal is found one layer above.
    findings.iter().any(|finding| finding.harm.name() == "start" || finding.harm.name() == "groups")
}

fn open_and_read(disk: &Arc<dyn Disk>, book: &Book, index: bool) -> Result<Outcome, String> {
    let mut bench = match Bench::open(Arc::clone(disk), 77, index) {
        Ok(bench) => bench,
        Err(refusal) => {
            let why = refusal.to_string();
            return if why.len() > 20 {
                Ok(Outcome::Refused)
            } else {
                Err(format!("refused: {why}"))
            };
        }
    };
    let is_reported = !bench.report().damage.is_empty() || bench.report().in_doubt.is_some();
    let mut outcome = Outcome::Unnoticed;
    for stream in STREAMS {
        if let Err(error) = bench.consumer(stream, everything("judge", None)) {
            // The stream's own configuration was lost.
            if !is_reported {
                return Err(format!("{stream} cannot be read: {error:?}"));
            }
            outcome = Outcome::Announced;
            continue;
        }
        let all = bench.receive(stream, "judge", 1_000_000);
        outcome = outcome.max(compare(book, stream, &all, None, is_reported)?);
        let subject = format!("{}.3", stream.to_lowercase());
        bench.consumer(stream, everything("one", Some(&subject))).map_err(|e| format!("{e:?}"))?;
        let some = bench.receive(stream, "one", 1_000_000);
        outcome = outcome.max(compare(book, stream, &some, Some(&subject), is_reported)?);
        goes_on(&mut bench, book, stream)?;
    }
    Ok(outcome)
}

/// Compares what came with the book.
fn compare(
    book: &Book,
    stream: &str,
    received: &Received,
    subject: Option<&str>,
    is_reported: bool,
) -> Result<Outcome, String> {
    let published = &book.messages[stream];
    let mut seen = BTreeSet::new();
    for delivery in &received.deliveries {
        let record = &delivery.record;
        let seq = record.seq;
        let real = Message {
            subject: record.subject().to_owned(),
            headers: record.headers().to_vec(),
            payload: record.payload().to_vec(),
        };
        let Some(expected) = published.get(&seq) else {
            return Err(format!("{stream} {seq} was never published: {real:?}"));
        };
        if *expected != real {
            return Err(format!("{stream} {seq} is {real:?} and was {expected:?}"));
        }
        // Where the note of a deletion is lost, what was deleted may come back.
        if book.deleted[stream].contains(&seq) && !is_reported {
            return Err(format!("{stream} {seq} was deleted and is back"));
        }
        if !seen.insert(seq) {
            return Err(format!("{stream} {seq} came twice"));
        }
    }
    let told = |seq: u64| received.gaps.iter().any(|gap| (gap.first..=gap.last).contains(&seq));
    let mut missing = 0;
    for (seq, message) in book.live(stream) {
        let is_wanted = subject.is_none_or(|subject| message.subject == subject);
        if is_wanted && !seen.contains(seq) {
            missing += 1;
            if !told(*seq) {
                return Err(format!(
                    "{stream} {seq} is missing and not announced; gaps {:?}, seen {seen:?}",
                    received.gaps
                ));
            }
        }
    }
    received.gaps.iter().try_for_each(|gap| is_sensible(gap, stream))?;
    let is_quiet = missing == 0 && received.gaps.is_empty();
    Ok(if is_quiet { Outcome::Unnoticed } else { Outcome::Announced })
}

fn is_sensible(gap: &Gap, stream: &str) -> Result<(), String> {
    if gap.stream == stream && gap.first <= gap.last && !gap.file.is_empty() {
        return Ok(());
    }
    Err(format!("a gap makes no sense: {gap:?}"))
}

/// No sequence that was acknowledged may be given out again.
fn goes_on(bench: &mut Bench, book: &Book, stream: &str) -> Result<(), String> {
    let message = Message {
        subject: format!("{}.new", stream.to_lowercase()),
        headers: Vec::new(),
        payload: b"new".to_vec(),
    };
    match bench.publish(batch_of(&[message])).pop() {
        Some(Ok(seq)) if seq > book.last(stream) => Ok(()),
        Some(Ok(seq)) => {
            Err(format!("{stream} gave out {seq} again, {} was acknowledged", book.last(stream)))
        }
        other => Err(format!("{stream} takes no new message: {other:?}")),
    }
}
