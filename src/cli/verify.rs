//! `claudebus verify`: check a data directory that no server runs on.

use std::path::PathBuf;

use clap::Args;
use claudebus_storage::verify::{Finding, Harm, VerifiedStream};
use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::output::{Output, thousands};
use crate::server::{Verification, VerifyError, verify_directory};

/// `claudebus verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "The server must not run on the directory. Nothing is changed without --repair, and nothing is \
    ever deleted.\n\nExit code 0: all is whole. 65: something is damaged, and was named."
)]
pub(super) struct Verify {
    /// The data directory
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
    /// Make damaged and missing copies of files again where two are kept; copy other damaged parts to
    /// DIR/lost+found, and move there what a start does without
    #[arg(long)]
    repair: bool,
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        let failure = Self::new(Exit::Failed, &error);
        match error {
            VerifyError::Disk(claudebus_storage::RealDiskError::InUse { .. }) => {
                failure.hint("a directory is checked while no server runs on it")
            }
            VerifyError::NoData { .. } => Self { exit: Exit::NotFound, ..failure }
                .hint("`claudebus config show` tells where the server keeps its data"),
            _ => failure,
        }
    }
}

/// Checks the directory and tells what was found.
pub(super) fn run(args: &Verify, output: &mut Output) -> Result<(), Failure> {
    let checked = verify_directory(&args.directory, args.repair)?;
    if output.is_json() {
        output.json(&as_json(&checked))?;
    } else {
        show(&checked, output)?;
    }
    let count = checked.findings.len();
    if count == 0 {
        return Ok(());
    }
    let place = args.directory.display();
    let damaged = format_args!("{place} is damaged in {}", plural(count, "place"));
    Err(Failure::new(Exit::Damaged, damaged).hint(next_step(&checked, args.repair)))
}

/// What to do about what was found, or what was done about it.
fn next_step(checked: &Verification, repair: bool) -> String {
    let all = |harm| checked.findings.iter().all(|finding| finding.harm == harm);
    if all(Harm::Copies) {
        return "see that the directory of the copies can be reached, and start the server with `copies: 2`: it makes \
                the copies again where they are missing or out of date, which --repair does not"
            .to_owned();
    }
    let made = plural(checked.repaired as usize, "damaged or missing file");
    let step = match (repair, checked.set_aside.len()) {
        (false, _) if all(Harm::Copy) => {
            "--repair makes it whole from the other copy, and so does a running server".to_owned()
        }
        (false, _) => "--repair copies what is damaged to lost+found, with a note each".to_owned(),
        (true, 0) if checked.repaired > 0 => format!("{made} made again from the other copy"),
        (true, 0) => "lost+found holds all of it already".to_owned(),
        (true, set_aside) => {
            format!("{} set aside in lost+found, with a note each", plural(set_aside, "part"))
        }
    };
    if checked.findings.iter().any(|finding| finding.harm == Harm::Copies) {
        // A start would make the copies again from what is damaged.
        return format!(
            "before a server starts on it, see whether the directory of the copies can be reached again: what is damaged \
             here may be whole there; {step}"
        );
    }
    step
}

fn plural(count: usize, what: &str) -> String {
    let many = if count == 1 { "" } else { "s" };
    format!("{} {what}{many}", thousands(count as u64))
}

/// For people.
fn show(checked: &Verification, output: &mut Output) -> Result<(), Failure> {
    let verified = &checked.verified;
    output.talk(format_args!(
        "{}, {}, {}, {} of the journal",
        plural(verified.checkpoints as usize, "checkpoint"),
        plural(verified.files as usize, "file"),
        plural(verified.records as usize, "record"),
        plural(verified.groups as usize, "group"),
    ));
    if verified.is_torn {
        output.talk("the journal ends in a group that was never acknowledged, which is no damage");
    }
    output.table(
        ["Stream", "First", "Last", "Messages", "Readable"],
        verified.streams.iter().map(|stream| {
            [
                checked.name(stream.id),
                stream.first.to_string(),
                stream.last.to_string(),
                thousands(stream.messages),
                thousands(stream.readable),
            ]
        }),
    )?;
    if checked.findings.is_empty() {
        return output.line("all is whole");
    }
    output.line("")?;
    for finding in &checked.findings {
        output.line(format_args!("damaged: {}", place(finding)))?;
        let lost = finding.lost.map(|(stream, first, last)| {
            format!("sequences {first} to {last} of {}", checked.name(stream))
        });
        let groups = finding.groups.map(|(first, last)| format!("{first} to {last}"));
        output.pairs([
            ("      what", finding.what.clone()),
            ("lost", lost.unwrap_or_default()),
            ("groups", groups.unwrap_or_default()),
            ("means", finding.harm.meaning().to_owned()),
        ])?;
    }
    if checked.repaired > 0 {
        let made = plural(checked.repaired as usize, "file");
        output.line(format_args!("repaired: {made}"))?;
    }
    for part in &checked.set_aside {
        let how = if part.moved { "moved" } else { "copied" };
        output.line(format_args!("{how}: {} to {}", part.from, part.to))?;
    }
    Ok(())
}

/// The file, and where in it.
fn place(finding: &Finding) -> String {
    let file = match finding.copy {
        Some(copy) => format!("{}, copy {copy},", finding.file),
        None => finding.file.clone(),
    };
    match finding.bytes {
        Some((start, end)) if end > start => format!("{file} bytes {start} to {end}"),
        Some((start, _)) => format!("{file} from byte {start}"),
        None if finding.file == "." => "the directory".to_owned(),
        None => file.trim_end_matches(',').to_owned(),
    }
}

/// For programs.
fn as_json(checked: &Verification) -> Value {
    let verified = &checked.verified;
    let stream = |stream: &VerifiedStream| {
        json!({
            "id": stream.id.0,
            "name": checked.names.get(&stream.id),
            "first_seq": stream.first,
            "last_seq": stream.last,
            "messages": stream.messages,
            "readable": stream.readable,
        })
    };
    let finding = |finding: &Finding| {
        let lost = finding.lost.map(|(id, first, last)| {
            json!({"id": id.0, "stream": checked.names.get(&id), "first_seq": first, "last_seq": last})
        });
        json!({
            "file": finding.file,
            "copy": finding.copy,
            "start": finding.bytes.map(|(start, _)| start),
            "end": finding.bytes.map(|(_, end)| end),
            "what": finding.what,
            "lost": lost,
            "groups": finding.groups,
            "harm": finding.harm.name(),
            "meaning": finding.harm.meaning(),
        })
    };
    json!({
        "whole": checked.findings.is_empty(),
        "checkpoints": verified.checkpoints,
        "files": verified.files,
        "records": verified.records,
        "groups": verified.groups,
        "torn": verified.is_torn,
        "streams": verified.streams.iter().map(stream).collect::<Vec<_>>(),
        "findings": checked.findings.iter().map(finding).collect::<Vec<_>>(),
        "repaired": checked.repaired,
        "set_aside": checked.set_aside.iter().map(|part| {
            json!({"from": part.from, "to": part.to, "moved": part.moved})
        }).collect::<Vec<_>>(),
    })
}
