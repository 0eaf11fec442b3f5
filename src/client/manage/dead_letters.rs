//! What consumers gave up.

use serde::Deserialize;

use super::named;
use crate::client::{Client, RequestError};
use crate::model::api::{DeadLetter, DeadOptions};

/// Some of a stream's dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DeadLetterPage {
    /// How many match in all.
    pub total: usize,
    /// Those of this page, oldest first.
    pub letters: Vec<DeadLetter>,
}

#[derive(Deserialize)]
struct Settled {
    settled: u64,
}

impl Client {
    /// Messages that the stream's consumers gave up, oldest first.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn dead_letters(
        &self,
        stream: &str,
        options: DeadOptions,
    ) -> Result<DeadLetterPage, RequestError> {
        self.json(format!("DEAD.LIST.{}", named("stream", stream)?), &options, true).await
    }

    /// Publishes dead letters to their stream again; returns how many.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn requeue_dead_letters(
        &self,
        stream: &str,
        options: DeadOptions,
    ) -> Result<u64, RequestError> {
        let operation = format!("DEAD.REQUEUE.{}", named("stream", stream)?);
        self.json::<Settled>(operation, &options, false).await.map(|answer| answer.settled)
    }

    /// Deletes dead letters; returns how many.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn drop_dead_letters(
        &self,
        stream: &str,
        options: DeadOptions,
    ) -> Result<u64, RequestError> {
        let operation = format!("DEAD.DROP.{}", named("stream", stream)?);
        self.json::<Settled>(operation, &options, false).await.map(|answer| answer.settled)
    }
}
