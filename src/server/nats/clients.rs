//! The connections of NATS clients that are open: how many there may be, and what each has done.
//!
//! A connection writes its own numbers, without a lock; the list is locked when one begins or ends, and
//! while it is shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::super::connection::Shared;
use super::super::counters::{Gauge, add};
use crate::model::request::SessionId;
use crate::model::time::Now;
use crate::session::nats::Traffic;
use crate::wire::nats::Connect;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Way {
    Tcp,
    WebSocket,
}

/// One open connection.
#[derive(Debug)]
pub(in crate::server) struct Client {
    pub(in crate::server) id: SessionId,
    pub(in crate::server) address: SocketAddr,
    pub(in crate::server) way: Way,
    pub(in crate::server) opened: Now,
    who: Mutex<Who>,
    /// Its connection is to be closed.
    dismissed: Notify,
    numbers: Numbers,
}

/// What a client has said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Who {
    pub(in crate::server) name: Option<String>,
    pub(in crate::server) lang: Option<String>,
    pub(in crate::server) version: Option<String>,
}

#[derive(Debug, Default)]
struct Numbers {
    in_msgs: AtomicU64,
    in_bytes: AtomicU64,
    out_msgs: AtomicU64,
    out_bytes: AtomicU64,
    subscriptions: AtomicU64,
    /// Bytes that wait to be written.
    pending: AtomicU64,
    /// Nanoseconds from the connection's beginning to the last that was received or written.
    last: AtomicU64,
}

impl Client {
    /// What the client has said of itself so far.
    pub(in crate::server) fn who(&self) -> Who {
        lock(&self.who).clone()
    }

    /// Has its connection closed.
    pub(in crate::server) fn dismiss(&self) {
        self.dismissed.notify_one();
    }

    /// Waits until its connection is to be closed.
    pub(super) async fn dismissed(&self) {
        self.dismissed.notified().await;
    }

    pub(in crate::server) fn traffic(&self) -> Traffic {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Numbers { in_msgs, in_bytes, out_msgs, out_bytes, .. } = &self.numbers;
        Traffic {
            in_msgs: get(in_msgs),
            in_bytes: get(in_bytes),
            out_msgs: get(out_msgs),
            out_bytes: get(out_bytes),
        }
    }

    pub(in crate::server) fn subscriptions(&self) -> u64 {
        self.numbers.subscriptions.load(Ordering::Relaxed)
    }

    /// Bytes that wait to be written.
    pub(in crate::server) fn pending(&self) -> u64 {
        self.numbers.pending.load(Ordering::Relaxed)
    }

    /// When something was received or written last, from the connection's beginning.
    pub(in crate::server) fn last(&self) -> Duration {
        Duration::from_nanos(self.numbers.last.load(Ordering::Relaxed))
    }
}

/// The open connections, and what those before them did.
#[derive(Debug, Default)]
pub(in crate::server) struct Clients(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    open: BTreeMap<SessionId, Arc<Client>>,
    /// Connections that were ever open.
    total: u64,
    /// What those have done that are closed.
    gone: Traffic,
}

impl Clients {
    /// Those that are open, oldest first.
    pub(in crate::server) fn open(&self) -> Vec<Arc<Client>> {
        lock(&self.0).open.values().cloned().collect()
    }

    /// How many were open since the start, these included.
    pub(in crate::server) fn total(&self) -> u64 {
        lock(&self.0).total
    }

    /// What all have received and sent since the start.
    pub(in crate::server) fn traffic(&self) -> Traffic {
        let list = lock(&self.0);
        list.open.values().map(|client| client.traffic()).fold(list.gone, sum)
    }

    /// Subscriptions of all that are open.
    pub(in crate::server) fn subscriptions(&self) -> u64 {
        lock(&self.0).open.values().map(|client| client.subscriptions()).sum()
    }
}

fn sum(left: Traffic, right: Traffic) -> Traffic {
    Traffic {
        in_msgs: left.in_msgs + right.in_msgs,
        in_bytes: left.in_bytes + right.in_bytes,
        out_msgs: left.out_msgs + right.out_msgs,
        out_bytes: left.out_bytes + right.out_bytes,
    }
}

/// What is behind the lock is whole after every step, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's place in the list, as long as this value lives.
#[derive(Debug)]
pub(in crate::server) struct Place {
    clients: Arc<Clients>,
    client: Arc<Client>,
    _gauge: Gauge,
}

impl Place {
    /// A place for a connection that begins; none, and counted as refused, while `most` are open.
    pub(super) fn take(
        shared: &Shared,
        most: usize,
        address: SocketAddr,
        way: Way,
    ) -> Option<Self> {
        let clients = Arc::clone(&shared.nats_clients);
        let mut list = lock(&clients.0);
        if list.open.len() >= most {
            add(&shared.counters.connections_refused, 1);
            return None;
        }
        let client = Arc::new(Client {
            id: shared.next_session(),
            address,
            way,
            opened: shared.clock.now(),
            who: Mutex::default(),
            dismissed: Notify::new(),
            numbers: Numbers::default(),
        });
        list.total += 1;
        list.open.insert(client.id, Arc::clone(&client));
        drop(list);
        add(&shared.counters.connections_total, 1);
        let gauge = Gauge::new(&shared.counters, |counters| &counters.nats_connections);
        Some(Self { clients, client, _gauge: gauge })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The client has said who it is.
    pub(super) fn name(&self, connect: &Connect) {
        let Connect { name, lang, version, .. } = connect;
        *lock(&self.client.who) =
            Who { name: name.clone(), lang: lang.clone(), version: version.clone() };
    }

    /// What was done so far.
    pub(super) fn count(&self, traffic: Traffic, subscriptions: usize) {
        let set = |number: &AtomicU64, value: u64| number.store(value, Ordering::Relaxed);
        let numbers = &self.client.numbers;
        set(&numbers.in_msgs, traffic.in_msgs);
        set(&numbers.in_bytes, traffic.in_bytes);
        set(&numbers.out_msgs, traffic.out_msgs);
        set(&numbers.out_bytes, traffic.out_bytes);
        set(&numbers.subscriptions, subscriptions as u64);
    }

    /// So many bytes wait to be written.
    pub(super) fn pending(&self, bytes: usize) {
        self.client.numbers.pending.store(bytes as u64, Ordering::Relaxed);
    }

    /// Something was received or written, so long after the connection's beginning.
    pub(super) fn active(&self, after: Duration) {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.client.numbers.last.store(nanos, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut list = lock(&self.clients.0);
        list.open.remove(&self.client.id);
        list.gone = sum(list.gone, self.client.traffic());
    }
}
