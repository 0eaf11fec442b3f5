//! What is printed at the end: medians, spread, durability, and the ratio of the sides.

use serde_json::{Value, json};

use super::sample::{Sample, median, micros};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// The rounds of one side with one size.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) side: String,
    /// What was measured, where one kind measures several things.
    pub(super) measure: &'static str,
    pub(super) durability: String,
    pub(super) size: u32,
    pub(super) samples: Vec<Sample>,
}

/// All that was measured.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) kind: &'static str,
    pub(super) rounds: u16,
    pub(super) clients: u16,
    pub(super) verified: bool,
    pub(super) groups: Vec<Group>,
}

impl Group {
    fn rate(&self) -> f64 {
        median(self.samples.iter().map(Sample::rate))
    }

    fn mebibytes(&self) -> f64 {
        median(self.samples.iter().map(Sample::mebibytes))
    }

    /// Slowest and fastest round, in messages a second.
    fn spread(&self) -> (f64, f64) {
        let rates = || self.samples.iter().map(Sample::rate);
        (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max))
    }

    /// Medians of the rounds' p50 and p99, in nanoseconds.
    fn latency(&self) -> Option<(u64, u64)> {
        let all: Vec<_> = self.samples.iter().filter_map(|sample| sample.latency).collect();
        (!all.is_empty()).then(|| {
            (
                median(all.iter().map(|latency| latency.p50 as f64)) as u64,
                median(all.iter().map(|latency| latency.p99 as f64)) as u64,
            )
        })
    }

    /// How many times better than `peer`: higher rates, or lower latencies.
    fn ratio(&self, peer: &Self) -> f64 {
        match (self.latency(), peer.latency()) {
            (Some((ours, _)), Some((theirs, _))) => theirs as f64 / (ours.max(1)) as f64,
            _ => self.rate() / peer.rate().max(1e-9),
        }
    }
}

impl Report {
    /// The same of the other side.
    fn peer(&self, group: &Group) -> Option<&Group> {
        let same = |other: &Group| (other.size, other.measure) == (group.size, group.measure);
        self.groups.iter().find(|other| same(other) && other.side != group.side)
    }

    /// Whether the group is of the side that was asked about, which stands first.
    fn is_ours(&self, group: &Group) -> bool {
        self.groups.first().is_some_and(|first| first.side == group.side)
    }

    fn ratio(&self, group: &Group) -> Option<f64> {
        let peer = self.peer(group).filter(|_| self.is_ours(group))?;
        Some(group.ratio(peer))
    }

    /// Prints it for people or for programs.
    pub(super) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&self.json());
        }
        output.table(
            [
                "Size",
                "Side",
                "Measure",
                "Median",
                "Payload",
                "Lowest - highest",
                "Ratio",
                "Durability",
            ],
            self.groups.iter().map(|group| self.row(group)),
        )?;
        output.talk(format_args!(
            "{}, {} clients, medians of {} rounds{}",
            self.kind,
            self.clients,
            self.rounds,
            if self.verified { ", read back and compared" } else { "" }
        ));
        Ok(())
    }

    fn row(&self, group: &Group) -> [String; 8] {
        let (lowest, highest) = group.spread();
        let (middle, spread) = match group.latency() {
            Some((p50, p99)) => (format!("p50 {}", micros(p50)), format!("p99 {}", micros(p99))),
            None => (format!("{:.0}/s", group.rate()), format!("{lowest:.0} - {highest:.0}/s")),
        };
        [
            group.size.to_string(),
            group.side.clone(),
            group.measure.to_owned(),
            middle,
            format!("{:.1} MiB/s", group.mebibytes()),
            spread,
            self.ratio(group).map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
            group.durability.clone(),
        ]
    }

    fn json(&self) -> Value {
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|group| {
                let latency = group.latency().map(|(p50, p99)| json!({"p50": p50, "p99": p99}));
                json!({
                    "side": group.side,
                    "measure": group.measure,
                    "durability": group.durability,
                    "size": group.size,
                    "median_rate": group.rate(),
                    "median_mebibytes": group.mebibytes(),
                    "median_latency_ns": latency,
                    "ratio": self.ratio(group),
                    "samples": group.samples,
                })
            })
            .collect();
        json!({
            "bench": self.kind,
            "rounds": self.rounds,
            "clients": self.clients,
            "verified": self.verified,
            "results": groups,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample::Latency;
    use super::*;

    fn group(side: &str, rates: &[u64]) -> Group {
        let sample = |rate: &u64| Sample::new(vec![*rate], 128, Duration::from_secs(1));
        Group {
            side: side.into(),
            measure: "publish",
            durability: "disk".into(),
            size: 128,
            samples: rates.iter().map(sample).collect(),
        }
    }

    fn report(groups: Vec<Group>) -> Report {
        Report { kind: "publish", rounds: 3, clients: 1, verified: false, groups }
    }

    #[test]
    fn the_ratio_is_of_medians_and_stands_with_ours() {
        let report = report(vec![group("ours", &[90, 100, 500]), group("theirs", &[50, 10, 60])]);
        assert_eq!(report.ratio(&report.groups[0]), Some(2.0));
        assert_eq!(report.ratio(&report.groups[1]), None);
        let json = report.json();
        assert_eq!(json["results"][0]["ratio"], 2.0);
        assert_eq!(json["results"][0]["samples"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn a_lower_latency_is_the_better_one() {
        let with = |side, p50| {
            let mut group = group(side, &[1]);
            group.samples[0].latency = Some(Latency { p50, p99: p50, p999: p50, max: p50 });
            group
        };
        let report = report(vec![with("ours", 100), with("theirs", 250)]);
        assert_eq!(report.ratio(&report.groups[0]), Some(2.5));
    }
}
