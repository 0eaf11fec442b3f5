//! The table at the end of a run.

use std::time::Duration;

use super::kills::Kind;
use super::oracle::get;
use super::rounds::{Machine, Plan, Run};

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what:<48} | {value:>14} |");
}

/// Prints what was done and what came of it.
pub fn print<M: Machine>(title: &str, plan: &Plan, run: &Run<M>) {
    let counters = &run.oracle().counters;
    println!("\n| {:<48} | {:>14} |", title, "");
    println!("|{:-<50}|{:-<16}|", "", "");
    row("rounds", plan.rounds);
    row("kills", run.kills.total());
    for kind in Kind::ALL {
        let count = run.kills.counts.get(kind).copied().unwrap_or(0);
        row(&format!("  {}", kind.name()), count);
    }
    for (point, count) in &run.kills.points {
        row(&format!("    at {point}"), count);
    }
    row("  named places not reached", run.kills.missed);
    row("acknowledged publishes", get(&counters.acks));
    row("  answered as duplicates", get(&counters.duplicates));
    row("refused, stream full", get(&counters.refused));
    row("deliveries", get(&counters.deliveries));
    row("  redeliveries", get(&counters.redeliveries));
    row("confirmed acknowledgements", get(&counters.confirmed));
    row("  refused, delivery forgotten in a crash", get(&counters.forgotten));
    row("dead letters", get(&counters.dead));
    row("messages deleted, purged", get(&counters.deleted) + get(&counters.purged));
    row("streams deleted", get(&counters.streams_deleted));
    row("ranges left out for doubt", get(&counters.left_out));
    row("messages read back and compared", get(&counters.read_back));
    let mut first = run.first_acks.clone();
    first.sort_unstable();
    let millis = |at: Option<&Duration>| format!("{} ms", at.map_or(0, Duration::as_millis));
    row("first ack after a start, median", millis(first.get(first.len() / 2)));
    row("first ack after a start, longest", millis(first.last()));
    let settled = Duration::from_micros(get(&counters.settled_micros));
    row("limits in force after all was answered, longest", millis(Some(&settled)));
    row("violations", run.oracle().violations().0);
    row("seed", plan.seed);
}
