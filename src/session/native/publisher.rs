//! A publisher's stream: numbered messages in, ranges of confirmations out.

use std::sync::Arc;

use claudebus_storage::StreamId;
use hashbrown::HashMap;

use super::{Ending, unexpected};
use crate::model::event::{Event, MAX_NAMED_STREAMS, Published};
use crate::model::limits::Limits;
use crate::model::request::{ProducerId, Request};
use crate::wire::native::{
    ClientFrame, FrameError, MAX_STORED_RANGES, Output, ServerFrame, StoredRange,
};

#[derive(Debug)]
pub(super) struct Publisher {
    producer: ProducerId,
    /// The aliases of the streams that the client was told the names of.
    aliases: HashMap<StreamId, u64>,
}

impl Publisher {
    pub(super) fn new(producer: ProducerId) -> Self {
        Self { producer, aliases: HashMap::new() }
    }

    pub(super) fn receive(
        &mut self,
        frame: ClientFrame,
        limits: &Limits,
        requests: &mut Vec<Request>,
    ) -> Result<(), Ending> {
        let ClientFrame::Publish { first, batch } = frame else {
            return Err(unexpected(&frame, "only PUBLISH follows on a publisher's stream"));
        };
        check_count("PUBLISH", batch.len(), limits)?;
        if first == 0 {
            let what = "counters start at 1";
            return Err(FrameError::Malformed { frame: "PUBLISH", what }.into());
        }
        requests.push(Request::Publish { producer: self.producer, first, batch });
        Ok(())
    }

    pub(super) fn event(&mut self, event: &Event, out: &mut Output) {
        match event {
            Event::Published { named, ranges } => {
                self.tell_names(named, out);
                ranges
                    .chunk_by(|one, next| one.first + one.count == next.first)
                    .flat_map(|run| run.chunks(MAX_STORED_RANGES))
                    .for_each(|run| self.tell_stored(run, out));
            }
            Event::Refused { counter, error } => {
                ServerFrame::RefusedMessage { counter: *counter, error: error.clone() }.encode(out);
            }
            _ => {}
        }
    }

    /// Tells ranges, of which each goes on where the one before ends.
    fn tell_stored(&self, run: &[Published], out: &mut Output) {
        let Some(&Published { first, .. }) = run.first() else { return };
        let stored = |&Published { count, stream, seq, duplicate, .. }: &Published| {
            // The broker has named it, with this event or before.
            let alias = *self.aliases.get(&stream)?;
            Some(StoredRange { count, alias, seq, duplicate })
        };
        let ranges: Option<Vec<_>> = run.iter().map(stored).collect();
        debug_assert!(ranges.is_some(), "a stream that was never named: {run:?}");
        if let Some(ranges) = ranges {
            ServerFrame::Published { first, ranges }.encode(out);
        }
    }

    fn tell_names(&mut self, named: &[(StreamId, Arc<str>)], out: &mut Output) {
        if !named.is_empty() && self.aliases.len() >= MAX_NAMED_STREAMS {
            self.aliases.clear();
        }
        for (stream, name) in named {
            let alias = self.aliases.len() as u64;
            self.aliases.insert(*stream, alias);
            ServerFrame::StreamName { alias, name: name.to_string() }.encode(out);
        }
    }
}

pub(super) fn check_count(
    frame: &'static str,
    count: usize,
    limits: &Limits,
) -> Result<(), FrameError> {
    if count > limits.max_batch_messages {
        return Err(FrameError::Malformed { frame, what: "more messages than max_batch_messages" });
    }
    Ok(())
}
