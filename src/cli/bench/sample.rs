//! What one round of one side measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use crate::cli::exit::{Exit, Failure};

/// Longest latency that is told apart: a minute.
const LONGEST: u64 = 60_000_000_000;

/// One round of one side.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) elapsed: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Latency>,
    /// Messages of each client.
    #[serde(skip)]
    pub(super) per_client: Vec<u64>,
}

/// Latencies of single messages, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Sample {
    pub(super) fn new(per_client: Vec<u64>, size: usize, elapsed: Duration) -> Self {
        let messages = per_client.iter().sum();
        Self { messages, bytes: messages * size as u64, elapsed, latency: None, per_client }
    }

    /// Of messages that were published one at a time.
    pub(super) fn of_latencies(
        clients: Vec<(u64, Latencies)>,
        size: usize,
        elapsed: Duration,
    ) -> Result<Self, Failure> {
        let (per_client, all): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
        let latency = Some(Latencies::merge(all)?);
        Ok(Self { latency, ..Self::new(per_client, size, elapsed) })
    }

    /// Messages a second.
    pub(super) fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Payload, in mebibytes a second.
    pub(super) fn mebibytes(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// For people who watch.
    pub(super) fn summary(&self) -> String {
        match self.latency {
            Some(latency) => format!("p50 {}, p99 {}", micros(latency.p50), micros(latency.p99)),
            None => format!("{:.0} messages/s, {:.1} MiB/s", self.rate(), self.mebibytes()),
        }
    }
}

/// What each client came to, in the clients' order, once all of them are done: clients are tasks that
/// end with their number.
pub(super) async fn gather<T, E>(
    mut clients: JoinSet<Result<(usize, T), E>>,
) -> Result<Vec<T>, Failure>
where
    T: 'static,
    E: 'static,
    Failure: From<E>,
{
    let mut all = Vec::with_capacity(clients.len());
    while let Some(done) = clients.join_next().await {
        all.push(done.map_err(defect)??);
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, came_to)| came_to).collect())
}

/// A task that panicked.
pub(super) fn defect(error: JoinError) -> Failure {
    Failure::new(Exit::Defect, error)
}

/// Nanoseconds as microseconds.
pub(super) fn micros(nanos: u64) -> String {
    format!("{:.1} us", nanos as f64 / 1000.0)
}

/// Collects the latencies of one client.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Result<Self, Failure> {
        Histogram::new_with_bounds(1, LONGEST, 3)
            .map(Self)
            .map_err(|error| Failure::new(Exit::Defect, error))
    }

    pub(super) fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST);
        self.0.saturating_record(nanos);
    }

    /// The latencies of all clients.
    pub(super) fn merge(all: Vec<Self>) -> Result<Latency, Failure> {
        let mut merged = Self::new()?;
        for latencies in all {
            merged.0.add(latencies.0).map_err(|error| Failure::new(Exit::Defect, error))?;
        }
        let at = |quantile| merged.0.value_at_quantile(quantile);
        Ok(Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: merged.0.max() })
    }
}

/// The middle of some numbers, or the mean of the two in the middle. Zero of none.
pub(super) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let at = |index: usize| numbers.get(index).copied().unwrap_or(0.0);
    if numbers.len().is_multiple_of(2) && middle > 0 {
        f64::midpoint(at(middle - 1), at(middle))
    } else {
        at(middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0]), 3.0);
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[tokio::test]
    async fn what_clients_came_to_is_in_their_order() {
        let mut clients: JoinSet<Result<_, Failure>> = JoinSet::new();
        let (done, other_is_done) = tokio::sync::oneshot::channel::<()>();
        clients.spawn(async move {
            let _ = other_is_done.await;
            Ok((0, "first"))
        });
        clients.spawn(async move {
            drop(done);
            Ok((1, "second"))
        });
        assert_eq!(gather(clients).await.expect("no failure"), ["first", "second"]);
        let mut clients = JoinSet::new();
        clients.spawn(async { Err::<(usize, ()), _>(Failure::new(Exit::TimedOut, "late")) });
        assert_eq!(gather(clients).await.expect_err("a failure").exit, Exit::TimedOut);
    }

    #[test]
    fn latencies_of_all_clients_count() {
        let mut one = Latencies::new().expect("bounds are in order");
        let mut other = Latencies::new().expect("bounds are in order");
        (1..=99).for_each(|_| one.add(Duration::from_micros(10)));
        other.add(Duration::from_millis(5));
        let merged = Latencies::merge(vec![one, other]).expect("same bounds");
        assert!(merged.p50.abs_diff(10_000) < 20 && merged.p99.abs_diff(10_000) < 20);
        assert!(merged.max.abs_diff(5_000_000) < 5_000);
    }
}
