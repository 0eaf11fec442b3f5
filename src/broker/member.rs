//! A consumer as part of its stream: the state machine, and what its reads need.

use std::sync::Arc;

use claudebus_storage::log::Filter;
use claudebus_storage::{Record, StreamId};

use super::consumer::{Consumer, StatusFor};
use super::flow::Flow;
use super::gaps::GapsToTell;
use super::state;
use super::stream::Stream;

/// A consumer of a stream, and what its reads need.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) consumer: Consumer,
    pub(super) filter: Filter,
    /// A redelivery that waits for its record to be read.
    pub(super) rereading: Option<u64>,
    /// The record that was read for a redelivery; `None` inside if it was not there.
    pub(super) reread: Option<(u64, Option<Record>)>,
    /// The sequence whose record is read to become a dead letter.
    pub(super) burying: Option<u64>,
    /// Whether the server's own pull waits, for a push consumer.
    pub(super) pushing: bool,
    /// Whether a pull of it may have no listener.
    pub(super) unheard: bool,
    /// The key of its progress in the log's state.
    key: Vec<u8>,
    /// Whether it goes on by itself: the disk is read, or a session is sending.
    pub(super) flowing: bool,
    /// What it is still to be told of lost sequences.
    pub(super) gaps: GapsToTell,
    /// How far the client of a push consumer has come, if the consumer asks for that.
    pub(super) flow: Option<Flow>,
    /// The last damage it passed over.
    pub(super) damage: Option<String>,
    /// Whether the dead letters could not take a message of it.
    pub(super) dead_letters_full: bool,
}

impl Member {
    pub(super) fn new(stream: StreamId, consumer: Consumer) -> Self {
        let filter = Filter::any_of(consumer.config().filters());
        let key = state::consumer_key(state::CONSUMERS, stream, &consumer.path().consumer);
        let gaps = GapsToTell::new(consumer.cursor());
        let flow = consumer.config().flow_control.then(Flow::default);
        Self {
            consumer,
            filter,
            rereading: None,
            reread: None,
            burying: None,
            pushing: false,
            unheard: false,
            key,
            flowing: false,
            gaps,
            flow,
            damage: None,
            dead_letters_full: false,
        }
    }

    /// Which subjects it wants.
    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The patterns of what it wants. No two match the same subject.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &str> {
        let patterns = self.filter().patterns();
        let all = patterns.is_none().then_some(">");
        patterns.unwrap_or_default().iter().map(|pattern| &**pattern).chain(all)
    }

    /// Whether the server's own pull waits.
    pub(super) fn is_pushing(&self) -> bool {
        self.pushing
    }

    /// Whether deliveries wait until the client has come further.
    pub(super) fn is_stalled(&self) -> bool {
        self.flow.as_ref().is_some_and(Flow::is_stalled)
    }

    /// Statuses of its pulls since the last call.
    pub(super) fn take_statuses(&mut self) -> Vec<StatusFor> {
        let mut statuses = self.consumer.take_statuses();
        if let Some(subject) = self.flow.as_ref().and_then(Flow::stalled_by) {
            let heartbeats = statuses.iter_mut().filter(|(_, _, status)| status.code == 100);
            heartbeats.for_each(|(_, _, status)| status.stalled = Some(Arc::from(subject)));
        }
        statuses
    }

    /// After its configuration changed.
    pub(super) fn refresh(&mut self) {
        self.filter = Filter::any_of(self.consumer.config().filters());
        self.rereading = None;
        self.reread = None;
        self.pushing = false;
    }

    /// After its consumer has forgotten what it delivered.
    pub(super) fn begin_anew(&mut self) {
        self.rereading = None;
        self.reread = None;
        self.burying = None;
        self.gaps = GapsToTell::new(self.consumer.cursor());
    }

    /// The key of its progress.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl Stream {
    /// A consumer by name.
    pub(super) fn member_mut(&mut self, name: &str) -> Option<(Arc<str>, &mut Member)> {
        let (name, member) = self.consumers.get_mut(name)?;
        Some((Arc::clone(name), member))
    }
}
