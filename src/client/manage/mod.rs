//! Streams, consumers and stored messages: asked for and changed, with the model's types.

mod batch;
mod dead_letters;
mod schedules;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::control::Answer;
use super::{Client, Consumer, RequestError};
use crate::model::api::{ConsumerAction, MessageGetOptions, PurgeOptions, StreamInfoOptions};
use crate::model::consumer::{ConsumerConfig, ConsumerInfo};
use crate::model::headers;
use crate::model::stream::{StreamConfig, StreamInfo};
use crate::model::subject::is_name;
use crate::model::time::Timestamp;
use bytes::Bytes;
use claudebus_storage::Record;

pub use batch::BatchAck;
pub use dead_letters::DeadLetterPage;

/// A message as it is stored.
#[derive(Clone, Debug)]
pub struct StreamMessage {
    record: Record,
}

impl StreamMessage {
    pub(super) fn new(record: Record) -> Self {
        Self { record }
    }

    /// Where it was published.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.record.subject()
    }

    /// Its sequence in the stream.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.record.seq
    }

    /// When it was stored.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp(self.record.time)
    }

    /// Its headers as (key, value).
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        headers::iter(self.record.headers())
    }

    /// Its body. Copies nothing.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.record.payload_bytes()
    }
}

#[derive(Deserialize)]
struct Names {
    total: usize,
    #[serde(default, alias = "streams", alias = "consumers")]
    names: Vec<String>,
}

#[derive(Deserialize)]
struct List<T> {
    total: usize,
    #[serde(default = "Vec::new", alias = "streams", alias = "consumers", alias = "schedules")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

#[derive(Serialize)]
struct Page {
    offset: usize,
}

#[derive(Serialize)]
struct DeleteMessage {
    seq: u64,
    no_erase: bool,
}

#[derive(Serialize)]
struct CreateConsumer<'a> {
    stream_name: &'a str,
    config: &'a ConsumerConfig,
    action: ConsumerAction,
}

#[derive(Serialize)]
struct Pause {
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_until: Option<Timestamp>,
}

/// The body of requests that have none.
#[derive(Serialize)]
struct Nothing {}

fn named<'a>(what: &'static str, name: &'a str) -> Result<&'a str, RequestError> {
    if is_name(name) { Ok(name) } else { Err(RequestError::Name { what, name: name.to_owned() }) }
}

impl Client {
    /// Asks and reads the JSON answer. `idempotent` requests are sent again after a lost connection.
    async fn json<T: DeserializeOwned>(
        &self,
        operation: String,
        body: &(impl Serialize + Sync),
        idempotent: bool,
    ) -> Result<T, RequestError> {
        match self.ask(operation, body, idempotent).await? {
            (operation, Answer::Json(body)) => serde_json::from_slice(&body)
                .map_err(|error| RequestError::Answer { operation, reason: error.to_string() }),
            (operation, Answer::Message(_)) => {
                let reason = "a message where JSON was expected".to_owned();
                Err(RequestError::Answer { operation, reason })
            }
        }
    }

    /// Sends any operation of the API with a JSON body and returns the JSON answer: for tools that
    /// know more operations than this library. It is not sent again after a lost connection.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn api(
        &self,
        operation: impl Into<String>,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value, RequestError> {
        self.json(operation.into(), body, false).await
    }

    /// Creates a stream, or finds that it exists with the same configuration.
    ///
    /// # Errors
    /// [`RequestError`], for instance because its subjects belong to another stream.
    pub async fn create_stream(&self, config: StreamConfig) -> Result<StreamInfo, RequestError> {
        let name = named("stream", &config.name)?;
        self.json(format!("STREAM.CREATE.{name}"), &config, true).await
    }

    /// Changes a stream.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn update_stream(&self, config: StreamConfig) -> Result<StreamInfo, RequestError> {
        let name = named("stream", &config.name)?;
        self.json(format!("STREAM.UPDATE.{name}"), &config, true).await
    }

    /// Everything about a stream.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, RequestError> {
        self.stream_info_with(stream, StreamInfoOptions::default()).await
    }

    /// Everything about a stream, with its subjects or deleted sequences.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn stream_info_with(
        &self,
        stream: &str,
        options: StreamInfoOptions,
    ) -> Result<StreamInfo, RequestError> {
        self.json(format!("STREAM.INFO.{}", named("stream", stream)?), &options, true).await
    }

    /// The names of all streams.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn stream_names(&self) -> Result<Vec<String>, RequestError> {
        self.all_names("STREAM.NAMES").await
    }

    /// All streams.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list_streams(&self) -> Result<Vec<StreamInfo>, RequestError> {
        self.all("STREAM.LIST").await
    }

    /// Deletes a stream with all its messages and consumers.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete_stream(&self, stream: &str) -> Result<(), RequestError> {
        let operation = format!("STREAM.DELETE.{}", named("stream", stream)?);
        self.json::<IgnoredAny>(operation, &Nothing {}, false).await.map(drop)
    }

    /// Removes messages from a stream; returns how many.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn purge_stream(
        &self,
        stream: &str,
        options: PurgeOptions,
    ) -> Result<u64, RequestError> {
        let operation = format!("STREAM.PURGE.{}", named("stream", stream)?);
        self.json::<Purged>(operation, &options, false).await.map(|answer| answer.purged)
    }

    /// The message with this sequence.
    ///
    /// # Errors
    /// [`RequestError`]; see [`RequestError::is_not_found`].
    pub async fn get_message(&self, stream: &str, seq: u64) -> Result<StreamMessage, RequestError> {
        self.find_message(stream, MessageGetOptions { seq, ..MessageGetOptions::default() }).await
    }

    /// A message by sequence, subject or time.
    ///
    /// # Errors
    /// [`RequestError`]; see [`RequestError::is_not_found`].
    pub async fn find_message(
        &self,
        stream: &str,
        options: MessageGetOptions,
    ) -> Result<StreamMessage, RequestError> {
        let operation = format!("STREAM.MSG.GET.{}", named("stream", stream)?);
        match self.ask(operation, &options, true).await? {
            (_, Answer::Message(found)) => Ok(StreamMessage { record: found.record }),
            (operation, Answer::Json(body)) => stored(operation, &body),
        }
    }

    /// Deletes a message.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete_message(&self, stream: &str, seq: u64) -> Result<(), RequestError> {
        let operation = format!("STREAM.MSG.DELETE.{}", named("stream", stream)?);
        let body = DeleteMessage { seq, no_erase: true };
        self.json::<IgnoredAny>(operation, &body, false).await.map(drop)
    }

    /// Creates a consumer, or changes it if it exists, and opens it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn create_consumer(
        &self,
        stream: &str,
        config: ConsumerConfig,
    ) -> Result<Consumer, RequestError> {
        let info = self.put_consumer(stream, &config, ConsumerAction::CreateOrUpdate).await?;
        Ok(Consumer::start(self.clone(), info))
    }

    /// Creates a consumer and opens it. One of that name with another configuration is an error,
    /// with the same it is opened.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn add_consumer(
        &self,
        stream: &str,
        config: ConsumerConfig,
    ) -> Result<Consumer, RequestError> {
        let info = self.put_consumer(stream, &config, ConsumerAction::Create).await?;
        Ok(Consumer::start(self.clone(), info))
    }

    /// Changes a consumer that exists, and opens it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn update_consumer(
        &self,
        stream: &str,
        config: ConsumerConfig,
    ) -> Result<Consumer, RequestError> {
        let info = self.put_consumer(stream, &config, ConsumerAction::Update).await?;
        Ok(Consumer::start(self.clone(), info))
    }

    async fn put_consumer(
        &self,
        stream: &str,
        config: &ConsumerConfig,
        action: ConsumerAction,
    ) -> Result<ConsumerInfo, RequestError> {
        let stream_name = named("stream", stream)?;
        let name = config.durable_name.as_deref().or(config.name.as_deref());
        let operation = match name {
            Some(name) => format!("CONSUMER.CREATE.{stream_name}.{}", named("consumer", name)?),
            None => format!("CONSUMER.CREATE.{stream_name}"),
        };
        // Sent twice, a consumer without a name would exist twice.
        self.json(operation, &CreateConsumer { stream_name, config, action }, name.is_some()).await
    }

    /// Opens a consumer that exists.
    ///
    /// # Errors
    /// [`RequestError`]; see [`RequestError::is_not_found`].
    pub async fn consumer(&self, stream: &str, name: &str) -> Result<Consumer, RequestError> {
        let info = self.consumer_info(stream, name).await?;
        Ok(Consumer::start(self.clone(), info))
    }

    /// Everything about a consumer, with why it delivers nothing if so.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn consumer_info(
        &self,
        stream: &str,
        name: &str,
    ) -> Result<ConsumerInfo, RequestError> {
        let (stream, name) = (named("stream", stream)?, named("consumer", name)?);
        self.json(format!("CONSUMER.INFO.{stream}.{name}"), &Nothing {}, true).await
    }

    /// The names of a stream's consumers.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn consumer_names(&self, stream: &str) -> Result<Vec<String>, RequestError> {
        self.all_names(&format!("CONSUMER.NAMES.{}", named("stream", stream)?)).await
    }

    /// The consumers of a stream.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list_consumers(&self, stream: &str) -> Result<Vec<ConsumerInfo>, RequestError> {
        self.all(&format!("CONSUMER.LIST.{}", named("stream", stream)?)).await
    }

    /// Deletes a consumer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), RequestError> {
        let (stream, name) = (named("stream", stream)?, named("consumer", name)?);
        let operation = format!("CONSUMER.DELETE.{stream}.{name}");
        self.json::<IgnoredAny>(operation, &Nothing {}, false).await.map(drop)
    }

    /// Pauses a consumer until a time, or resumes it with none.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn pause_consumer(
        &self,
        stream: &str,
        name: &str,
        until: Option<Timestamp>,
    ) -> Result<(), RequestError> {
        let (stream, name) = (named("stream", stream)?, named("consumer", name)?);
        let operation = format!("CONSUMER.PAUSE.{stream}.{name}");
        let body = Pause { pause_until: until };
        self.json::<IgnoredAny>(operation, &body, true).await.map(drop)
    }

    /// The server's version, durability and counters, as it tells them.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn server_info(&self) -> Result<serde_json::Value, RequestError> {
        self.json("SERVER.INFO".to_owned(), &Nothing {}, true).await
    }

    async fn all_names(&self, operation: &str) -> Result<Vec<String>, RequestError> {
        let mut names = Vec::new();
        loop {
            let body = Page { offset: names.len() };
            let page: Names = self.json(operation.to_owned(), &body, true).await?;
            let none = page.names.is_empty();
            names.extend(page.names);
            if none || names.len() >= page.total {
                return Ok(names);
            }
        }
    }

    async fn all<T: DeserializeOwned>(&self, operation: &str) -> Result<Vec<T>, RequestError> {
        let mut items = Vec::new();
        loop {
            let body = Page { offset: items.len() };
            let page: List<T> = self.json(operation.to_owned(), &body, true).await?;
            let none = page.items.is_empty();
            items.extend(page.items);
            if none || items.len() >= page.total {
                return Ok(items);
            }
        }
    }
}

/// A message from its JSON form, headers and payload in base64.
fn stored(operation: String, body: &[u8]) -> Result<StreamMessage, RequestError> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    #[derive(Deserialize)]
    struct Found {
        message: crate::model::api::StoredMessage,
    }
    let parsed = || -> Result<StreamMessage, String> {
        let Found { message } = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let headers = STANDARD.decode(&message.hdrs).map_err(|e| e.to_string())?;
        let payload = STANDARD.decode(&message.data).map_err(|e| e.to_string())?;
        let subject = u16::try_from(message.subject.len()).map_err(|e| e.to_string())?;
        let headers_len = u32::try_from(headers.len()).map_err(|e| e.to_string())?;
        let data = [message.subject.as_bytes(), &headers, &payload].concat();
        Record::new(message.seq, message.time.0, None, data.into(), subject, headers_len)
            .map(|record| StreamMessage { record })
            .ok_or_else(|| "the message's parts do not fit".to_owned())
    };
    parsed().map_err(|reason| RequestError::Answer { operation, reason })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn stored_messages_are_read_from_json() {
        let body = br#"{"message":{"subject":"a.b","seq":7,"data":"aGk=","hdrs":"TkFUUy8xLjANCks6IHYNCg0K","time":"2023-11-14T22:13:20Z"}}"#;
        let message = stored("X".into(), body).unwrap();
        assert_eq!((message.subject(), message.seq()), ("a.b", 7));
        assert_eq!(message.payload(), "hi");
        assert_eq!(message.headers().collect::<Vec<_>>(), [("K", "v")]);
        assert!(stored("X".into(), b"{}").is_err());
    }

    #[test]
    fn names_are_checked_before_they_become_operations() {
        assert!(named("stream", "ORDERS").is_ok());
        let error = named("stream", "a.b").unwrap_err().to_string();
        assert!(error.contains("\"a.b\" cannot name a stream"), "{error}");
    }

    #[test]
    fn pages_of_both_kinds_are_read() {
        let page: Names = serde_json::from_str(r#"{"total":1,"streams":["S"]}"#).unwrap();
        assert_eq!(page.names, ["S"]);
        let page: List<String> =
            serde_json::from_str(r#"{"total":1,"consumers":["c"],"offset":0}"#).unwrap();
        assert_eq!(page.items, ["c"]);
    }
}
