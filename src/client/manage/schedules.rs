//! Messages that are to be published later.

use serde::Serialize;
use serde::de::IgnoredAny;

use super::named;
use crate::client::{Client, RequestError};
use crate::model::api::ScheduledMessage;
use crate::model::schedule;

#[derive(Serialize)]
struct DeleteSchedule<'a> {
    subject: &'a str,
}

impl Client {
    /// Messages that are to be published later: those that one stream keeps, or all. By stream,
    /// those that are due first coming first.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn schedules(
        &self,
        stream: Option<&str>,
    ) -> Result<Vec<ScheduledMessage>, RequestError> {
        match stream {
            Some(stream) => self.all(&format!("SCHEDULE.LIST.{}", named("stream", stream)?)).await,
            None => self.all("SCHEDULE.LIST").await,
        }
    }

    /// Cancels a message that was to be published later, by the name of its schedule.
    ///
    /// # Errors
    /// [`RequestError`], also if there is no such schedule.
    pub async fn cancel_schedule(&self, name: &str) -> Result<(), RequestError> {
        self.delete_schedule(schedule::STREAM, &format!("{}{name}", schedule::PREFIX)).await
    }

    /// Deletes the schedule of this subject from the stream that keeps it.
    ///
    /// # Errors
    /// [`RequestError`], also if there is no such schedule.
    pub async fn delete_schedule(&self, stream: &str, subject: &str) -> Result<(), RequestError> {
        let operation = format!("SCHEDULE.DELETE.{}", named("stream", stream)?);
        let body = DeleteSchedule { subject };
        self.json::<IgnoredAny>(operation, &body, false).await.map(drop)
    }
}
