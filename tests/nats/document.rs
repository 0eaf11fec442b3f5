//! Writes `docs/nats-compatibility.md` from the rows and from what is said about those that differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::explained::{Explained, Open};
use crate::row::Row;

const START: &str = "\
# Compatibility with NATS

*Written by `cargo test --test nats`; change `tests/nats/`, then run
`NATS_COMPATIBILITY=overwrite cargo test --test nats document`.*

`claudebus serve --nats ADDRESS` speaks the protocol of NATS and of JetStream, so that clients of NATS work
unchanged. Below is what is compared: each exchange is sent, byte for byte, to a real nats-server and to
claudebus in the same run, and the answers must be the same but for times and identifiers. Tier 1 is what nearly
all users of JetStream touch, tier 2 what some do, tier 3 what few do.
";

/// What one area has.
#[derive(Default)]
struct Counts {
    tiers: [usize; 3],
    refusals: usize,
    differ: usize,
}

/// The whole document.
pub(crate) fn write(
    rows: &[Row],
    explained: &Explained,
    open: &Open,
    unsupported: &Explained,
) -> String {
    let mut areas: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut total = Counts::default();
    for row in rows {
        let is_open = open.has(&row.name);
        let differs = usize::from(is_open || explained.reason(&row.name).is_some());
        for counts in [areas.entry(&row.area).or_default(), &mut total] {
            counts.tiers[usize::from(row.tier) - 1] += 1;
            counts.refusals += usize::from(row.is_refusal);
            counts.differ += differs;
        }
    }
    let mut text = START.to_owned();
    text.push_str("\n## What is compared\n\n");
    text.push_str(
        "| area | tier 1 | tier 2 | tier 3 | of them wrong requests | answered otherwise |\n",
    );
    text.push_str("|---|---|---|---|---|---|\n");
    for (area, counts) in areas.into_iter().chain([("together", total)]) {
        let Counts { tiers: [one, two, three], refusals, differ } = counts;
        writeln!(text, "| {area} | {one} | {two} | {three} | {refusals} | {differ} |").unwrap();
    }
    text.push_str("\n## What is answered otherwise\n\n");
    if explained.0.is_empty() {
        text.push_str("Nothing that is compared.\n");
    } else {
        table(&mut text, ["exchange", "why"], explained);
    }
    text.push_str("\n## What is still to be mended\n\n");
    let names: Vec<&Row> = rows.iter().filter(|row| open.has(&row.name)).collect();
    if names.is_empty() {
        text.push_str("Nothing that is compared.\n");
    }
    for row in names {
        writeln!(text, "- {} (tier {})", row.name, row.tier).unwrap();
    }
    text.push_str("\n## What is not supported\n\n");
    table(&mut text, ["feature", "what happens"], unsupported);
    text
}

fn table(text: &mut String, [first, second]: [&str; 2], lines: &Explained) {
    writeln!(text, "| {first} | {second} |\n|---|---|").unwrap();
    for (name, reason) in &lines.0 {
        writeln!(text, "| {name} | {reason} |").unwrap();
    }
}
