//! Priority groups (ADR-42): which of the pulls that wait may have a message now, and who is pinned.
//!
//! It judges pulls; keeping them in order is not its part. What is seen from outside is nats-server's: the
//! groups of a consumer share one pin, whoever names no group at all is held to none, and a client is
//! pinned when it gets a message, not when it asks. Nothing of it outlives the process.

use std::sync::Arc;
use std::time::Duration;

use crate::model::consumer::{ConsumerConfig, PriorityGroupState, PriorityPolicy};
use crate::model::request::{Pull, PullGroup};
use crate::model::time::{Now, Timestamp};

/// The number of those who come last.
const LAST_PRIORITY: i64 = 9;

/// Who was pinned, or is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PinChange {
    /// A client is pinned.
    Pinned {
        /// The priority group that its pull named.
        group: String,
        /// What its pulls name from now on.
        id: Arc<str>,
    },
    /// It is no more.
    Unpinned {
        /// The priority group.
        group: String,
        /// `timeout`, or `admin`.
        reason: &'static str,
    },
}

/// What thresholds are compared with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Messages to be delivered, the next one included.
    pub(super) pending: u64,
    /// Deliveries that await acknowledgement.
    pub(super) unacknowledged: u64,
}

/// What may become of a pull when there is a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may have it.
    Serve,
    /// It waits on.
    StandBy,
    /// It is of a client that is not pinned any more: it ends.
    WrongPin,
}

#[derive(Clone, Debug)]
struct Pin {
    id: Arc<str>,
    group: String,
    since: Timestamp,
    /// When its client has been silent for too long.
    until: Duration,
}

/// The state of a consumer's priority groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    policy: PriorityPolicy,
    names: Vec<String>,
    timeout: Duration,
    pin: Option<Pin>,
    /// The name of the next client to be pinned.
    spare: Option<Arc<str>>,
    changes: Vec<PinChange>,
}

impl Groups {
    /// Takes over a configuration. Who is pinned stays so, if clients of that group still are.
    pub(super) fn configure(&mut self, config: &ConsumerConfig) {
        let stays = |pin: &Pin| {
            config.priority_policy == PriorityPolicy::PinnedClient
                && config.priority_groups.contains(&pin.group)
        };
        self.pin = self.pin.take().filter(stays);
        self.policy = config.priority_policy;
        self.names.clone_from(&config.priority_groups);
        self.timeout = config.priority_timeout;
    }

    pub(super) fn policy(&self) -> PriorityPolicy {
        self.policy
    }

    /// Why a pull is not accepted, as nats-server says it.
    pub(super) fn refusal(&self, pull: &Pull) -> Option<(u16, &'static str)> {
        let asked = pull.group.as_deref()?;
        let is_pinned_to_another =
            |pin: &Pin| !asked.id.is_empty() && *pin.id != *asked.id.as_str();
        let text = if !(0..=LAST_PRIORITY).contains(&asked.priority) {
            "Bad Request - Priority must be between 0 and 9"
        } else if (asked.min_pending, asked.min_ack_pending) != (0, 0)
            && self.policy != PriorityPolicy::Overflow
        {
            "Bad Request - Not a Overflow Priority consumer"
        } else if !asked.id.is_empty() && self.policy != PriorityPolicy::PinnedClient {
            "Bad Request - Not a Pinned Client Priority consumer"
        } else if self.policy == PriorityPolicy::None {
            return None;
        } else if asked.group.is_empty() {
            "Bad Request - Priority Group missing"
        } else if !self.names.contains(&asked.group) {
            "Bad Request - Invalid Priority Group"
        } else if self.pin.as_ref().is_some_and(is_pinned_to_another) {
            return Some((423, "Nats-Pin-Id mismatch"));
        } else {
            return None;
        };
        Some((400, text))
    }

    /// A pull was accepted: the pinned client is not silent.
    pub(super) fn hear(&mut self, now: Now, pull: &Pull) {
        if let (Some(pin), Some(asked)) = (&mut self.pin, pull.group.as_deref())
            && *pin.id == *asked.id.as_str()
        {
            pin.until = now.monotonic.saturating_add(self.timeout);
        }
    }

    /// Whether no pull stands by, whatever it says.
    pub(super) fn serve_all(&self) -> bool {
        self.pin.is_none()
            && matches!(self.policy, PriorityPolicy::None | PriorityPolicy::Prioritized)
    }

    /// Whether a pull is entitled to messages only while enough of them wait.
    pub(super) fn has_thresholds(asked: &PullGroup) -> bool {
        asked.min_pending > 0 || asked.min_ack_pending > 0
    }

    /// What may become of a pull that says this.
    pub(super) fn judge(&self, asked: Option<&PullGroup>, load: Load) -> Verdict {
        let id = asked.map_or("", |asked| asked.id.as_str());
        match &self.pin {
            Some(pin) if *pin.id == *id => {}
            Some(_) if id.is_empty() => return Verdict::StandBy,
            None if id.is_empty() || self.policy != PriorityPolicy::PinnedClient => {}
            _ => return Verdict::WrongPin,
        }
        let Some(asked) = asked.filter(|asked| Self::has_thresholds(asked)) else {
            return Verdict::Serve;
        };
        let reached = |least: i64, count: u64| {
            u64::try_from(least).is_ok_and(|least| least > 0 && count >= least)
        };
        let is_entitled = self.policy != PriorityPolicy::Overflow
            || reached(asked.min_pending, load.pending)
            || reached(asked.min_ack_pending, load.unacknowledged);
        if is_entitled { Verdict::Serve } else { Verdict::StandBy }
    }

    /// Where a pull stands among others: those of lower rank come first. Those that say nothing are last.
    pub(super) fn rank(asked: Option<&PullGroup>) -> i64 {
        asked.map_or(LAST_PRIORITY + 1, |asked| asked.priority)
    }

    /// A pull has a message: its client is pinned, if nobody is.
    pub(super) fn serve(&mut self, now: Now, asked: Option<&mut PullGroup>) {
        if self.policy != PriorityPolicy::PinnedClient || self.pin.is_some() {
            return;
        }
        let Some(asked) = asked else { return };
        let Some(id) = self.spare.take() else { return };
        asked.id = id.to_string();
        let group = asked.group.clone();
        self.changes.push(PinChange::Pinned { group: group.clone(), id: Arc::clone(&id) });
        let until = now.monotonic.saturating_add(self.timeout);
        self.pin = Some(Pin { id, group, since: Timestamp(now.wall), until });
    }

    /// What deliveries tell their client: the name it is pinned by, or an empty one.
    pub(super) fn told(&self) -> Option<Arc<str>> {
        let is_told = self.policy == PriorityPolicy::PinnedClient;
        is_told.then(|| self.pin.as_ref().map_or_else(|| Arc::from(""), |pin| Arc::clone(&pin.id)))
    }

    /// Whether somebody may be pinned soon, and there is no name for it.
    pub(super) fn wants_pin(&self) -> bool {
        self.policy == PriorityPolicy::PinnedClient && self.pin.is_none() && self.spare.is_none()
    }

    pub(super) fn supply_pin(&mut self, id: &str) {
        self.spare = Some(Arc::from(id));
    }

    /// Unpins on request, which is told of even if nobody is pinned. Returns whether there is such a group.
    pub(super) fn unpin(&mut self, group: &str) -> bool {
        let is_there = self.names.iter().any(|name| name == group);
        if is_there {
            self.pin = None;
            self.changes.push(PinChange::Unpinned { group: group.to_owned(), reason: "admin" });
        }
        is_there
    }

    /// Unpins a client that has been silent for too long.
    pub(super) fn timeout(&mut self, now: Duration) {
        if let Some(Pin { group, .. }) = self.pin.take_if(|pin| pin.until <= now) {
            self.changes.push(PinChange::Unpinned { group, reason: "timeout" });
        }
    }

    /// When [`Groups::timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.pin.as_ref().map(|pin| pin.until)
    }

    pub(super) fn take_changes(&mut self) -> Vec<PinChange> {
        std::mem::take(&mut self.changes)
    }

    /// The first group, which stands for all. None if there are no groups.
    pub(super) fn state(&self) -> Option<PriorityGroupState> {
        let group = self.names.first()?.clone();
        let pinned_client_id = self.pin.as_ref().map(|pin| pin.id.to_string());
        let pinned_ts = self.pin.as_ref().map(|pin| pin.since).unwrap_or_default();
        Some(PriorityGroupState { group, pinned_client_id, pinned_ts })
    }
}
