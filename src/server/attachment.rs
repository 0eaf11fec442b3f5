//! A session's place at the broker's thread, for as long as its connection lives, and the bounds that
//! connections of every protocol keep towards it.
//!
//! What bytes mean is the protocols' part: `stream.rs` for our own, `nats/` for NATS.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::mpsc;

use super::broker_thread::{Batch, BrokerHandle, Gone, Input, Line};
use crate::model::request::SessionId;

/// How long a publisher is not read after each read while storage is under high pressure.
pub(super) const PRESSURE_PAUSE: Duration = Duration::from_millis(5);

/// The broker is told once more than a quarter of what a session may hold was sent; until then the session
/// seems to have that much less room.
pub(super) const SENT_PART: usize = 4;

/// How long the last answers may take to leave.
pub(super) const PARTING: Duration = Duration::from_secs(2);

/// Tells the broker that the session is over when this value goes, however its task ends.
#[derive(Debug)]
pub(super) struct Attachment {
    broker: BrokerHandle,
    id: SessionId,
}

impl Attachment {
    /// Makes a session known to the broker. Its events come by the receiver; their bytes count as
    /// `pending` until they are taken off.
    pub(super) async fn new(
        broker: &BrokerHandle,
        id: SessionId,
        pending: &Arc<AtomicUsize>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Batch>), Gone> {
        let (events, incoming) = mpsc::unbounded_channel();
        let line = Line { events, pending: Arc::clone(pending) };
        // Made first, so that the session ends if this is given up half-way.
        let attachment = Self { broker: broker.clone(), id };
        broker.send(Input::Open(id, line)).await?;
        Ok((attachment, incoming))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let (broker, id) = (self.broker.clone(), self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Fails only if the broker is gone, which needs not be told.
            runtime.spawn(async move { broker.send(Input::Closed(id)).await });
        }
    }
}
