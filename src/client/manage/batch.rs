//! Atomic batches.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Message, RequestError};
use crate::model::api::BatchPlace;
use crate::model::headers;

/// An atomic batch is stored, durably.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BatchAck {
    /// Whether it had been stored before, under the same id.
    pub duplicate: bool,
    /// Where each message is stored, in order; of a duplicate, where the first one is.
    pub stored: Vec<BatchPlace>,
}

#[derive(Serialize)]
struct Batch {
    messages: Vec<InBatch>,
}

#[derive(Serialize)]
struct InBatch {
    subject: String,
    hdrs: String,
    data: String,
}

impl Client {
    /// Publishes messages of any streams, all or none of them: they are stored together, or one is
    /// refused and none is stored. Expectations are about what was there before the batch. With an
    /// [id](Message::id) on the first message a second batch with that id is not stored again, and
    /// this may be called again after a lost connection; without one, an error may mean that it was
    /// stored. For some hundred messages at most, as one frame must hold them.
    ///
    /// # Errors
    /// [`RequestError`]: which message was refused, and why.
    pub async fn publish_atomically(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<BatchAck, RequestError> {
        let mut batch = Vec::new();
        let mut has_id = false;
        for message in messages {
            let wrong = message.wrong_header.clone();
            let (subject, headers, payload) = message.into_parts();
            if let Some(key) = wrong {
                return Err(RequestError::Header(key));
            }
            has_id |= headers::get(&headers, headers::names::MESSAGE_ID).is_some();
            let (hdrs, data) = (STANDARD.encode(headers), STANDARD.encode(payload));
            batch.push(InBatch { subject, hdrs, data });
        }
        let body = Batch { messages: batch };
        self.json("BATCH.PUBLISH".to_owned(), &body, has_id).await
    }
}
