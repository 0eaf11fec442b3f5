//! `claudebus stats`: what the server does, once or again and again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::args::Global;
use super::connect::connect;
use super::exit::Failure;
use super::output::{Output, readable_size, thousands};
use crate::client::{Client, StreamInfo};
use crate::config::text;

/// `claudebus stats`.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Again and again, with rates; every second unless told otherwise
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "1s", value_parser = text::positive_duration)]
    live: Option<Duration>,
}

/// What the server told at one moment.
struct Sample {
    at: Instant,
    server: Value,
    streams: Vec<StreamInfo>,
}

impl Sample {
    async fn take(client: &Client) -> Result<Self, Failure> {
        let mut server = client.server_info().await?;
        // What the server says of itself when it is connected to.
        if let (Some(welcome), Value::Object(facts)) = (client.welcome(), &mut server) {
            facts.insert("durability".to_owned(), Value::from(welcome.durability.clone()));
        }
        let streams = client.list_streams().await?;
        Ok(Self { at: Instant::now(), server, streams })
    }

    /// Messages a second that each stream took since `before`.
    fn rates(&self, before: Option<&Self>) -> BTreeMap<&str, f64> {
        let Some(before) = before else { return BTreeMap::new() };
        let seconds = (self.at - before.at).as_secs_f64().max(f64::EPSILON);
        let last = |streams: &[StreamInfo], name: &str| {
            let found = streams.iter().find(|info| info.config.name == name);
            found.map_or(0, |info| info.state.last_seq)
        };
        self.streams
            .iter()
            .map(|info| {
                let name = info.config.name.as_str();
                let stored = info.state.last_seq.saturating_sub(last(&before.streams, name));
                // Rounded to what a double holds exactly: nobody stores 2^53 messages a second.
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                let stored = stored as f64;
                (name, stored / seconds)
            })
            .collect()
    }
}

/// Runs `claudebus stats`.
pub(super) async fn run(
    stats: &Stats,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = connect(global).await?;
    let mut before: Option<Sample> = None;
    loop {
        let sample = Sample::take(&client).await?;
        print(&sample, before.as_ref(), stats.live.is_some(), output)?;
        output.flush()?;
        let Some(every) = stats.live else { return Ok(()) };
        before = Some(sample);
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn print(
    sample: &Sample,
    before: Option<&Sample>,
    live: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let rates = sample.rates(before);
    if output.is_json() {
        let stream = |info: &StreamInfo| {
            json!({
                "name": info.config.name,
                "state": info.state,
                "stored_per_second": rates.get(info.config.name.as_str()),
            })
        };
        let streams: Vec<_> = sample.streams.iter().map(stream).collect();
        return output.json(&json!({"server": sample.server, "streams": streams}));
    }
    if live && output.shows_progress() {
        // To the upper left, and everything below away: the picture stays where it is.
        output.bytes(b"\x1b[H\x1b[2J")?;
    }
    let mut facts = Vec::new();
    flatten("", &sample.server, &mut facts);
    output.pairs(facts.iter().map(|(key, value)| (key.as_str(), value.clone())))?;
    output.line("")?;
    let rate = |name: &str| rates.get(name).map(|rate| format!("{rate:.0}")).unwrap_or_default();
    output.table(
        ["Stream", "Messages", "Size", "Stored/s", "Consumers"],
        sample.streams.iter().map(|info| {
            [
                info.config.name.clone(),
                thousands(info.state.messages),
                readable_size(info.state.bytes),
                rate(&info.config.name),
                info.state.consumer_count.to_string(),
            ]
        }),
    )
}

/// Leaves of the server's answer, with dotted keys.
fn flatten(path: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&below, value, into);
            }
        }
        Value::Null => {}
        Value::String(text) => into.push((path.to_owned(), text.clone())),
        Value::Number(number) => {
            let text = number.as_u64().map_or_else(|| number.to_string(), thousands);
            into.push((path.to_owned(), text));
        }
        other => into.push((path.to_owned(), other.to_string())),
    }
}
