//! Limits of the server, each with a name, a default and a reason.

use std::time::Duration;

/// What the server bounds. Defaults by [`Limits::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message, headers included, in bytes. 1 MiB: NATS's default; larger bodies belong in
    /// an object store.
    pub max_payload: usize,
    /// Largest header block, in bytes. 64 KiB, as JetStream.
    pub max_headers: usize,
    /// Messages in one published batch. 4,096: enough to fill a group, small enough to be fair.
    pub max_batch_messages: usize,
    /// Streams. 10,000: each costs some kilobytes of memory.
    pub max_streams: usize,
    /// Consumers of one stream. 10,000, for the same reason.
    pub max_consumers: usize,
    /// Core subscriptions of one session. 100,000, as NATS allows by default at least.
    pub max_subscriptions: usize,
    /// Bytes waiting to be sent to one session before it is closed as too slow. 64 MiB over the
    /// wire, as NATS; deliveries stop long before, at `max_session_deliveries`.
    pub max_pending_bytes: usize,
    /// Bytes of deliveries handed to one session that it has not sent yet, as far as it has said so,
    /// which it does for each quarter of this. 1 MiB: more only adds memory, not speed.
    pub max_session_deliveries: usize,
    /// Longest wait of a pull request. 24 h: bounds how long a forgotten one is kept.
    pub max_pull_expires: Duration,
    /// Messages that one pull request may ask for, of consumers that say nothing themselves, who may not ask
    /// for more either. No limit (0): deliveries to a session are bounded by `max_session_deliveries`.
    pub max_request_batch: u64,
    /// Longest duplicate window. 24 h: ids live in memory.
    pub max_duplicate_window: Duration,
    /// Ranges of counters remembered for each producer, to answer resent messages with their
    /// sequence. 4,096: more than any window of ours can have in flight.
    pub max_producer_ranges: usize,
    /// Messages of one atomic batch. 1,000, as JetStream; all are checked before one is stored.
    pub max_atomic_messages: usize,
    /// Atomic batches of one stream that are not committed yet. 50, as JetStream.
    pub max_stream_batches: usize,
    /// The same of all streams. 1,000, as JetStream.
    pub max_batches: usize,
    /// Bytes of all of them. 64 MiB: they wait in memory.
    pub max_batch_bytes: usize,
    /// How long the next message of a batch may take. 10 s, as JetStream.
    pub batch_timeout: Duration,
    /// Schedules of one stream. 100,000: each costs about a kilobyte of memory.
    pub max_schedules: usize,
    /// Producers remembered. 100,000: the longest unused is forgotten past that.
    pub max_producers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload: 1 << 20,
            max_headers: 64 << 10,
            max_batch_messages: 4096,
            max_streams: 10_000,
            max_consumers: 10_000,
            max_subscriptions: 100_000,
            max_pending_bytes: 64 << 20,
            max_session_deliveries: 1 << 20,
            max_pull_expires: Duration::from_secs(24 * 3600),
            max_request_batch: 0,
            max_duplicate_window: Duration::from_secs(24 * 3600),
            max_producer_ranges: 4096,
            max_atomic_messages: 1000,
            max_stream_batches: 50,
            max_batches: 1000,
            max_batch_bytes: 64 << 20,
            batch_timeout: Duration::from_secs(10),
            max_schedules: 100_000,
            max_producers: 100_000,
        }
    }
}
