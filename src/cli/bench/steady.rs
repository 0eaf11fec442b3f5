//! A steady stream of messages, published, delivered and acknowledged at the same time: how long
//! each takes, also while everything stored is read again.
//!
//! Latencies count from the moment a message was due, so that a publisher that is held up does not
//! hide it. What the timer is late is not counted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::sample::{Latencies, Sample, defect};
use super::work::Work;
use crate::cli::exit::{Exit, Failure};

/// The consumer of the messages that are measured.
pub(super) const LIVE: &str = "bench-live";
/// The consumer that reads again what is stored.
pub(super) const REPLAY: &str = "bench-replay";
/// How long the last acknowledgement or delivery may take.
const SETTLE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    /// Messages a second.
    pub(super) rate: u32,
    /// Whether everything stored is read again all the while.
    pub(super) replay: bool,
}

/// One round of one side.
pub(super) struct SteadySample {
    /// From due to acknowledged.
    pub(super) published: Sample,
    /// From due to delivered.
    pub(super) delivered: Sample,
    /// What was read again, if anything.
    pub(super) replayed: Option<Sample>,
}

/// A payload that tells when it was due.
fn stamped(began: Instant, due: Instant, size: usize) -> Bytes {
    let nanos = due.saturating_duration_since(began).as_nanos() as u64;
    let mut payload = BytesMut::with_capacity(size.max(8));
    payload.put_u64_le(nanos);
    payload.resize(size.max(8), b'.');
    payload.freeze()
}

fn due_of(began: Instant, payload: &[u8]) -> Option<Instant> {
    let nanos = u64::from_le_bytes(*payload.first_chunk::<8>()?);
    Some(began + Duration::from_nanos(nanos))
}

/// Tells when messages are due.
struct Pace {
    began: Instant,
    rate: u32,
    count: u64,
    sent: u64,
    woken: Instant,
}

impl Pace {
    fn new(work: &Work, rate: u32, began: Instant) -> Self {
        let count = match work.duration {
            Some(duration) => (duration.as_secs_f64() * f64::from(rate)) as u64,
            None => work.count,
        };
        Self { began, rate, count: count.max(1), sent: 0, woken: began }
    }

    /// Waits for the next message; the moment it was due, or at which the timer told.
    async fn next(&mut self) -> Option<Instant> {
        if self.sent == self.count {
            return None;
        }
        let due = self.began + Duration::from_secs_f64(self.sent as f64 / f64::from(self.rate));
        self.sent += 1;
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
            self.woken = Instant::now();
        }
        Some(due.max(self.woken))
    }
}

/// Publishes at the pace. `publish` hands a payload over and returns what resolves with its
/// acknowledgement.
pub(super) async fn publish<P, F, A>(
    work: &Work,
    steady: Steady,
    began: Instant,
    mut publish: P,
) -> Result<Sample, Failure>
where
    P: FnMut(Bytes) -> F,
    F: Future<Output = Result<A, Failure>>,
    A: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (sent, mut in_flight) = mpsc::unbounded_channel::<(Instant, A)>();
    // Acknowledgements come in order.
    let collector = tokio::spawn(async move {
        let mut latencies = Latencies::new()?;
        while let Some((due, ack)) = in_flight.recv().await {
            ack.await?;
            latencies.add(due.elapsed());
        }
        Ok::<_, Failure>(latencies)
    });
    let mut pace = Pace::new(work, steady.rate, began);
    while let Some(due) = pace.next().await {
        let ack = publish(stamped(began, due, work.size)).await?;
        if sent.send((due, ack)).is_err() {
            break;
        }
    }
    drop(sent);
    let latencies = collector.await.map_err(defect)??;
    let mut sample = Sample::new(vec![pace.sent], work.size, began.elapsed());
    sample.latency = Some(Latencies::merge(vec![latencies])?);
    Ok(sample)
}

/// Receives so many messages. `next` acknowledges a message and returns its payload.
pub(super) async fn receive(
    work: &Work,
    steady: Steady,
    began: Instant,
    mut next: impl AsyncFnMut() -> Result<Bytes, Failure>,
) -> Result<Sample, Failure> {
    let count = Pace::new(work, steady.rate, began).count;
    let mut latencies = Latencies::new()?;
    for _ in 0..count {
        let payload = tokio::time::timeout(SETTLE, next())
            .await
            .map_err(|_| Failure::new(Exit::TimedOut, "messages did not arrive"))??;
        let due = due_of(began, &payload)
            .ok_or_else(|| Failure::new(Exit::Failed, "a message came back that was not sent"))?;
        latencies.add(due.elapsed());
    }
    let mut sample = Sample::new(vec![count], work.size, began.elapsed());
    sample.latency = Some(Latencies::merge(vec![latencies])?);
    Ok(sample)
}

/// Counts what is read again, for as long as it is not dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Replayed(Arc<AtomicU64>);

impl Replayed {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sample(&self, work: &Work, began: Instant) -> Sample {
        Sample::new(vec![self.0.load(Ordering::Relaxed)], work.size, began.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::Content;
    use super::*;

    #[test]
    fn payloads_tell_when_they_were_due() {
        let began = Instant::now();
        let due = began + Duration::from_millis(1234);
        for size in [1, 8, 100] {
            let payload = stamped(began, due, size);
            assert_eq!((payload.len(), due_of(began, &payload)), (size.max(8), Some(due)));
        }
        assert_eq!(due_of(began, b"short"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_kept_and_a_stall_is_counted() {
        let content = Content::Random;
        let duration = Some(Duration::from_secs(1));
        let work = Work { size: 8, content, count: 0, duration, clients: 1, seed: 1, window: 1 };
        let began = Instant::now();
        let mut pace = Pace::new(&work, 10, began);
        assert_eq!(pace.count, 10);
        assert_eq!(pace.next().await, Some(began));
        // Time has passed beyond what was due: it counts from then.
        pace.began -= Duration::from_secs(5);
        pace.woken = pace.began;
        assert_eq!(pace.next().await, Some(pace.began + Duration::from_millis(100)));
        let mut rest = 0;
        while pace.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, 8);
    }
}
