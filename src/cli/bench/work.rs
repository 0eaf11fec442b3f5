//! What is to be done, the same for both sides: how much, with which bytes, and what must come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use xxhash_rust::xxh3::Xxh3;

use super::payload::{Content, Payloads};
use crate::cli::exit::{Exit, Failure};

/// The stream that is made, filled, and deleted again.
pub(super) const STREAM: &str = "CLAUDEBUS_BENCH";

/// What the stream captures.
pub(super) const SUBJECTS: &str = "claudebus-bench.>";

/// Work for all clients of one side.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Bytes of each payload.
    pub(super) size: usize,
    pub(super) content: Content,
    /// Messages of all clients together.
    pub(super) count: u64,
    /// Work for so long instead.
    pub(super) duration: Option<Duration>,
    pub(super) clients: usize,
    pub(super) seed: u64,
    /// Messages in flight, where the client library does not decide.
    pub(super) window: usize,
}

impl Work {
    /// The part of one client.
    pub(super) fn share(&self, client: usize) -> Share {
        let clients = self.clients as u64;
        let count = self.count / clients + u64::from((client as u64) < self.count % clients);
        Share {
            subject: subject(client),
            payloads: self.payloads(client),
            count,
            duration: self.duration,
            done: 0,
            began: Instant::now(),
        }
    }

    fn payloads(&self, client: usize) -> Payloads {
        Payloads::new(self.content, self.size, self.seed.wrapping_add(client as u64))
    }

    /// What all clients together receive, of `stored` messages; the time begins to run.
    pub(super) fn intake(&self, stored: u64) -> Arc<Intake> {
        let end = self.duration.map(|duration| Instant::now() + duration);
        Arc::new(Intake { received: AtomicU64::new(0), stored, end, enough: Notify::new() })
    }

    /// Compares what came back with what was published.
    pub(super) fn check(
        &self,
        side: &str,
        published: &[u64],
        digests: &Digests,
    ) -> Result<(), Failure> {
        for (client, count) in published.iter().enumerate() {
            let payloads = self.payloads(client);
            let mut expected = Xxh3::new();
            (0..*count).for_each(|number| expected.update(&payloads.get(number)));
            let seen = digests.of(client);
            if seen != (*count, expected.digest()) {
                return Err(Failure::new(
                    Exit::Failed,
                    format_args!(
                        "{side} gave back {} messages of {count} of client {client}, or others \
                         than were published",
                        seen.0
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn subject(client: usize) -> String {
    format!("claudebus-bench.client.{client}")
}

/// What one client publishes.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) subject: String,
    payloads: Payloads,
    count: u64,
    duration: Option<Duration>,
    done: u64,
    began: Instant,
}

impl Share {
    /// Begins now.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// Messages so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// The next payload, until there is enough.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let enough = match self.duration {
            // The clock is asked now and then only: asking costs as much as publishing.
            Some(duration) => self.done.is_multiple_of(64) && self.began.elapsed() >= duration,
            None => self.done >= self.count,
        };
        if enough {
            return None;
        }
        let payload = self.payloads.get(self.done);
        self.done += 1;
        Some(payload)
    }
}

/// What was received, until that is enough: everything, or what came in the time.
#[derive(Debug)]
pub(super) struct Intake {
    received: AtomicU64,
    stored: u64,
    end: Option<Instant>,
    enough: Notify,
}

impl Intake {
    /// One more was received. Returns whether another is wanted.
    pub(super) fn add(&self) -> bool {
        let received = self.received.fetch_add(1, Ordering::Relaxed) + 1;
        // The clock is asked now and then only: asking costs as much as receiving.
        let in_time = || self.end.is_none_or(|end| Instant::now() < end);
        let wanted = received < self.stored && (!received.is_multiple_of(64) || in_time());
        if !wanted {
            self.enough.notify_one();
        }
        wanted
    }

    /// Messages so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until it is enough.
    pub(super) async fn enough(&self) {
        self.enough.notified().await;
    }
}

/// How many messages of each client came back, and a digest of them in order.
#[derive(Default)]
pub(super) struct Digests(std::collections::BTreeMap<usize, (u64, Xxh3)>);

impl Digests {
    pub(super) fn add(&mut self, subject: &str, payload: &[u8]) {
        let client = subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let (count, digest) = self.0.entry(client.unwrap_or(usize::MAX)).or_default();
        *count += 1;
        digest.update(payload);
    }

    fn of(&self, client: usize) -> (u64, u64) {
        match self.0.get(&client) {
            Some((count, digest)) => (*count, digest.digest()),
            None => (0, Xxh3::new().digest()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(count: u64, clients: usize) -> Work {
        let content = Content::Random;
        Work { size: 100, content, count, duration: None, clients, seed: 7, window: 10 }
    }

    fn publish(work: &Work) -> (Vec<u64>, Vec<(String, Bytes)>) {
        let mut all = Vec::new();
        let counts = (0..work.clients)
            .map(|client| {
                let mut share = work.share(client);
                while let Some(payload) = share.next() {
                    all.push((share.subject.clone(), payload));
                }
                share.done()
            })
            .collect();
        (counts, all)
    }

    #[test]
    fn shares_add_up_and_come_back() {
        let work = work(11, 3);
        let (counts, messages) = publish(&work);
        assert_eq!(counts, [4, 4, 3]);
        let mut digests = Digests::default();
        messages.iter().for_each(|(subject, payload)| digests.add(subject, payload));
        assert!(work.check("x", &counts, &digests).is_ok());
    }

    #[test]
    fn a_changed_missing_or_swapped_message_is_found() {
        let work = work(5, 1);
        let (counts, messages) = publish(&work);
        let check = |messages: &[(String, Bytes)]| {
            let mut digests = Digests::default();
            messages.iter().for_each(|(subject, payload)| digests.add(subject, payload));
            work.check("x", &counts, &digests).is_ok()
        };
        assert!(!check(&messages[1..]));
        let mut swapped = messages.clone();
        swapped.swap(0, 1);
        assert!(!check(&swapped));
        let mut changed = messages.clone();
        changed[2].1 = Bytes::from(vec![0; 100]);
        assert!(!check(&changed));
        assert!(check(&messages));
    }

    #[test]
    fn an_intake_ends_with_the_last_message_or_the_time() {
        let all = work(3, 1).intake(3);
        assert_eq!([all.add(), all.add(), all.add()], [true, true, false]);
        let timed = Work { duration: Some(Duration::ZERO), ..work(3, 1) }.intake(1000);
        let more = (0..1000).take_while(|_| timed.add()).count() as u64;
        assert_eq!((more, timed.received()), (63, 64), "the clock is looked at each 64 messages");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(publish(&work(3, 2)).1, publish(&work(3, 2)).1);
        let other = Work { seed: 8, ..work(3, 2) };
        assert_ne!(publish(&work(3, 2)).1, publish(&other).1);
    }
}
