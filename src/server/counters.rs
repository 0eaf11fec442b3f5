//! Counters of the shell, for `/stats`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// What was counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    /// Connections of NATS clients that are open.
    pub(super) nats_connections: AtomicU64,
    pub(super) connections_total: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    pub(super) streams: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) turns: AtomicU64,
    pub(super) sessions_too_slow: AtomicU64,
    pub(super) protocol_errors: AtomicU64,
    pub(super) position: AtomicU64,
    pub(super) durable: AtomicU64,
    pub(super) pressure: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

pub(super) fn set(counter: &AtomicU64, value: u64) {
    counter.store(value, Ordering::Relaxed);
}

/// Counts one thing that exists as long as this value.
#[derive(Debug)]
pub(super) struct Gauge {
    counters: Arc<Counters>,
    of: fn(&Counters) -> &AtomicU64,
}

impl Gauge {
    pub(super) fn new(counters: &Arc<Counters>, of: fn(&Counters) -> &AtomicU64) -> Self {
        of(counters).fetch_add(1, Ordering::Relaxed);
        Self { counters: Arc::clone(counters), of }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    /// All of them, as JSON.
    pub(super) fn to_json(&self) -> Value {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let pressure = match get(&self.pressure) {
            0 => "normal",
            1 => "high",
            _ => "full",
        };
        json!({
            "connections": get(&self.connections),
            "nats_connections": get(&self.nats_connections),
            "connections_total": get(&self.connections_total),
            "connections_refused": get(&self.connections_refused),
            "streams": get(&self.streams),
            "bytes_in": get(&self.bytes_in),
            "bytes_out": get(&self.bytes_out),
            "requests": get(&self.requests),
            "events": get(&self.events),
            "turns": get(&self.turns),
            "sessions_too_slow": get(&self.sessions_too_slow),
            "protocol_errors": get(&self.protocol_errors),
            "journal_position": get(&self.position),
            "journal_durable": get(&self.durable),
            "storage_pressure": pressure,
        })
    }
}
