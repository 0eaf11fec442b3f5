//! Consumers in archives of their streams: how far they came, as JetStream writes it.

use std::sync::Arc;

use crate::model::archive::{ConsumerProgress, Outstanding};
use crate::model::consumer::{ConsumerConfig, SequencePair};
use crate::model::event::ConsumerPath;
use crate::model::time::{Now, Timestamp};

use super::pending::{Entry, State};
use super::{Consumer, Start};

impl Consumer {
    /// How far it came. One that orders messages by key or by priority begins again behind what was
    /// acknowledged in a row: archives have no words for what it holds back.
    pub(crate) fn progress(&self) -> ConsumerProgress {
        let bare = |pair: SequencePair| SequencePair { last_active: None, ..pair };
        let ack_floor = bare(self.ack_floor());
        if self.holding.is_some() {
            return ConsumerProgress { delivered: ack_floor, ack_floor, ..Default::default() };
        }
        let outstanding = |entry: &Entry| {
            let timestamp = i64::try_from(entry.last).unwrap_or(i64::MAX);
            (entry.seq, Outstanding { sequence: entry.consumer_seq, timestamp })
        };
        let again = self.pending.iter().filter(|entry| entry.attempts > 1);
        ConsumerProgress {
            delivered: bare(self.delivered()),
            ack_floor,
            pending: self.pending.iter().map(outstanding).collect(),
            redelivered: again.map(|entry| (entry.seq, entry.attempts - 1)).collect(),
        }
    }

    /// A consumer that goes on where an archived one was. What of its progress makes no sense is left out,
    /// so that messages come again rather than never.
    pub(crate) fn revive(
        path: Arc<ConsumerPath>,
        config: ConsumerConfig,
        progress: &ConsumerProgress,
        stream_last: u64,
        now: Now,
    ) -> Self {
        let ConsumerProgress { delivered, ack_floor, pending, redelivered } = progress;
        let last = delivered.stream_seq.min(stream_last);
        let start = Start { cursor: last + 1, stream_last, ..Start::default() };
        let mut consumer = Self::new(path, config, Timestamp(now.wall), start, now);
        consumer.last_consumer_seq = delivered.consumer_seq;
        consumer.delivered = SequencePair { stream_seq: last, ..*delivered };
        consumer.floor = SequencePair {
            stream_seq: ack_floor.stream_seq.min(last),
            consumer_seq: ack_floor.consumer_seq.min(delivered.consumer_seq),
            last_active: None,
        };
        for (seq, outstanding) in pending.iter().filter(|(seq, _)| (1..=last).contains(*seq)) {
            let time = u64::try_from(outstanding.timestamp).unwrap_or(0).min(now.wall);
            consumer.pending.insert(Entry {
                seq: *seq,
                consumer_seq: outstanding.sequence.min(delivered.consumer_seq),
                attempts: redelivered.get(seq).copied().unwrap_or(0).saturating_add(1),
                first: time,
                last: time,
                meta: None,
                state: State::Due,
            });
        }
        consumer.resume(now);
        consumer
    }
}
