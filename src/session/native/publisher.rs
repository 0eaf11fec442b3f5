//! A publisher's stream: numbered messages in, ranges of confirmations out.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Ending, unexpected};
use crate::model::event::Event;
use crate::model::limits::Limits;
use crate::model::request::{ProducerId, Request};
use crate::wire::native::{ClientFrame, FrameError, Output, ServerFrame};

#[derive(Debug)]
pub(super) struct Publisher {
    producer: ProducerId,
    /// The aliases of the names that the client was told. As many as there are streams at most, which
    /// the server bounds.
    aliases: HashMap<Arc<str>, u64>,
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
            Event::Published { first, count, stream, seq, duplicate } => {
                let alias = self.alias(stream, out);
                let (first, count, seq, duplicate) = (*first, *count, *seq, *duplicate);
                ServerFrame::Published { first, count, alias, seq, duplicate }.encode(out);
            }
            Event::Refused { counter, error } => {
                ServerFrame::RefusedMessage { counter: *counter, error: error.clone() }.encode(out);
            }
            _ => {}
        }
    }

    /// The stream's alias, told to the client if it is new.
    fn alias(&mut self, stream: &Arc<str>, out: &mut Output) -> u64 {
        if let Some(alias) = self.aliases.get(stream) {
            return *alias;
        }
        let alias = self.aliases.len() as u64;
        self.aliases.insert(Arc::clone(stream), alias);
        ServerFrame::StreamName { alias, name: stream.to_string() }.encode(out);
        alias
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
