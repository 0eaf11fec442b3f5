//! Atomic batches: stored whole or not at all, whatever comes in between.

use claudebus::model::api::{ApiRequest, BatchMessage, BatchPlace};
use claudebus::model::error::ApiError;
use claudebus::model::request::Request;

use crate::book::Id;
use crate::clients::{Asked, SESSIONS, Simulation};
use crate::workload::Name;
use crate::world::{Halt, Sabotage};

/// Where the messages of a batch go: several streams, some of which refuse what they have no room for.
const TARGETS: [usize; 8] = [2, 2, 4, 4, 1, 0, 3, 5];
/// Streams that remember the id of a batch for as long as a run takes.
const REMEMBERING: [usize; 4] = [0, 1, 2, 4];
/// A last part of subjects that single messages do not have, so that less can happen to it.
const LEAF: &str = "together";

/// What is known of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Unknown,
    Stored,
    Refused,
}

/// Messages that belong together.
#[derive(Clone, Debug)]
pub struct Batch {
    pub ids: Vec<Id>,
    /// Whether the first has a message id, so that it may be sent again.
    pub is_named: bool,
    pub fate: Fate,
}

impl Simulation {
    /// Publishes some messages all together.
    pub fn publish_together(&mut self) -> Result<(), Halt> {
        let count = 2 + self.world.chance.below(4);
        let streams: Vec<usize> = (0..count).map(|_| *self.world.chance.pick(&TARGETS)).collect();
        if streams.iter().any(|stream| !self.book.streams[*stream].exists) {
            return Ok(());
        }
        let is_named = self.world.chance.one_in(2) && REMEMBERING.contains(&streams[0]);
        let mut ids = Vec::new();
        for stream in streams {
            let leaf = if self.world.chance.one_in(2) { LEAF } else { "a" };
            let subject = format!("{}.{leaf}", self.book.streams[stream].prefix);
            let name = if is_named && ids.is_empty() { Name::Id } else { Name::None };
            ids.push(self.compose(stream, name, subject));
        }
        self.batches.push(Batch { ids, is_named, fate: Fate::Unknown });
        let batch = self.batches.len() - 1;
        self.send_together(batch)
    }

    /// Hands a batch to the broker.
    pub fn send_together(&mut self, batch: usize) -> Result<(), Halt> {
        let ids = self.batches[batch].ids.clone();
        self.unanswered_batches.push(batch);
        if self.world.sabotage == Sabotage::HalvedBatches {
            let (first, second) = ids.split_at(ids.len() / 2);
            self.ask_for_batch(batch, first);
            self.turn()?;
            self.ask_for_batch(batch, second);
            return Ok(());
        }
        self.ask_for_batch(batch, &ids);
        Ok(())
    }

    fn ask_for_batch(&mut self, batch: usize, ids: &[Id]) {
        let message = |id: &Id| {
            let sent = &self.book.sent[id];
            BatchMessage {
                subject: sent.subject.clone(),
                headers: sent.headers.clone(),
                payload: sent.payload.clone(),
            }
        };
        let messages = ids.iter().map(message).collect();
        ids.iter().for_each(|id| self.note_sending(*id));
        let token = self.ask_later(Asked::Batch { batch, ids: ids.to_vec() });
        self.world.trace.say(format_args!("send {ids:?} together"));
        let request = ApiRequest::PublishBatch { messages };
        self.world.handle(SESSIONS[0], Request::Api { token, request });
    }

    /// Sends again what was not answered, if it is still known there what was stored.
    pub fn resend_batches(&mut self) -> Result<(), Halt> {
        for batch in std::mem::take(&mut self.unanswered_batches) {
            let Batch { ids, is_named, fate } = &self.batches[batch];
            let is_same = |id: &Id| {
                let sent = &self.book.sent[id];
                let book = &self.book.streams[sent.stream];
                book.exists && sent.epoch == book.epoch
            };
            if *is_named && *fate == Fate::Unknown && ids.iter().all(is_same) {
                self.send_together(batch)?;
            }
        }
        Ok(())
    }

    /// The answer to a batch.
    pub fn hear_batch(
        &mut self,
        batch: usize,
        ids: &[Id],
        answer: Result<(bool, Vec<BatchPlace>), ApiError>,
    ) -> Result<(), String> {
        self.unanswered_batches.retain(|other| *other != batch);
        match answer {
            Ok((is_duplicate, places)) => {
                self.batches[batch].fate = Fate::Stored;
                for (id, place) in ids.iter().zip(&places) {
                    self.acknowledged(*id, &place.stream, place.seq, is_duplicate)?;
                }
                if !is_duplicate && places.len() != ids.len() {
                    return Err(format!("{} of the batch {ids:?} are answered", places.len()));
                }
                self.world.seen.batches += 1;
            }
            Err(error) => {
                self.batches[batch].fate = Fate::Refused;
                for id in ids {
                    let sent = self.book.sent.get_mut(id).ok_or("a batch of nobody")?;
                    if sent.seq.is_some() {
                        return Err(format!("message {id} of a refused batch is stored: {error}"));
                    }
                    sent.is_refused = true;
                }
            }
        }
        Ok(())
    }

    /// Looks that of each batch all is stored, or nothing. Every stream was just read.
    pub fn judge_batches(&self) -> Result<(), Halt> {
        for Batch { ids, fate, .. } in &self.batches {
            if *fate == Fate::Refused {
                continue;
            }
            let known = |id: &&Id| self.book.sent[*id].seq.is_some();
            let Some(stored) = ids.iter().find(known) else { continue };
            for id in ids.iter().filter(|id| !known(id)) {
                let sent = &self.book.sent[id];
                if !self.book.may_go_unseen(sent.stream, &sent.subject, sent) {
                    return Err(Halt::Violation(format!(
                        "of the batch {ids:?} message {stored} is stored, and {id} is not"
                    )));
                }
            }
        }
        Ok(())
    }
}
