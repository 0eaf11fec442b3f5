//! Beginning: what the log's state says, made into a broker.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome};
use claudebus_storage::{Log, StreamId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::model::answer::ServerNames;
use crate::model::event::ConsumerPath;
use crate::model::headers::{get, names};
use crate::model::time::Now;

use super::answering::Askers;
use super::catalog::Catalog;
use super::consumer::Consumer;
use super::copying::Copies;
use super::counting::Counting;
use super::expiry::Horizon;
use super::fingerprint::Key;
use super::gaps::DamageCounts;
use super::listened::Listened;
use super::member::Member;
use super::outbox::Outbox;
use super::producers::{Producer, Producers};
use super::reading::one;
use super::router::Router;
use super::schedule::Schedule;
use super::sessions::Sessions;
use super::staging::Staging;
use super::state::{self, KeptConsumer, KeptStream};
use super::stream::{Stream, config};
use super::transfer::Transfers;
use super::{Awaiting, Broker, BrokerOptions};

/// The broker cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Stored state is not understood.
    #[error(
        "the stored state of {what} is not understood: {why}. It may be from a newer version; \
         run `claudebus verify` on the data directory"
    )]
    NotUnderstood {
        /// Whose state.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A default stream's configuration is wrong.
    #[error("the default stream \"{name}\" cannot be made: {why}; correct it in the configuration")]
    DefaultStream {
        /// The stream's name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

pub(super) fn not_understood(what: impl Into<String>, why: impl std::fmt::Display) -> RestoreError {
    RestoreError::NotUnderstood { what: what.into(), why: why.to_string() }
}

impl<L: Log> Broker<L> {
    /// A broker that goes on where the log's state ends.
    ///
    /// # Errors
    /// [`RestoreError`] if state is not understood, or a default stream cannot be.
    pub fn open(log: L, options: BrokerOptions, now: Now) -> Result<Self, RestoreError> {
        let mut defaults = Vec::new();
        for wanted in options.default_streams {
            let name = wanted.name.clone();
            let complete = config::complete(wanted, &options.limits)
                .map_err(|why| RestoreError::DefaultStream { name, why: why.to_string() })?;
            defaults.push(complete);
        }
        let mut broker = Self {
            log,
            limits: options.limits,
            defaults,
            names: ServerNames { server: options.server_name, domain: options.domain },
            now,
            rng: StdRng::seed_from_u64(options.seed),
            id_key: Key(0, 0),
            catalog: Catalog::default(),
            router: Router::default(),
            row: Vec::new(),
            sessions: Sessions::default(),
            producers: Producers::default(),
            outbox: Outbox::default(),
            schedule: Schedule::default(),
            turns: super::turns::Turns::default(),
            listened: Listened::default(),
            mourning: BTreeSet::new(),
            appended: Vec::new(),
            grown: Vec::new(),
            marks: VecDeque::new(),
            reads: HashMap::new(),
            jobs: BTreeMap::new(),
            ready_jobs: BTreeSet::new(),
            parked: BTreeMap::new(),
            next_job: 0,
            next_parked: 0,
            askers: Askers::default(),
            staging: Staging::default(),
            counting: Counting::default(),
            directs: BTreeMap::new(),
            transfers: Transfers::default(),
            copies: Copies::default(),
            hops: 0,
            withheld: None,
            horizon: Horizon::new(now),
            api_total: 0,
            api_errors: 0,
            damage: DamageCounts::default(),
        };
        broker.pass_kept_jobs();
        broker.restore_secrets()?;
        broker.drop_restores();
        broker.restore_streams()?;
        for id in broker.catalog.ids() {
            // Before anything asks whether a message is still wanted.
            broker.begin_copies(id);
        }
        broker.restore_gaps()?;
        broker.restore_consumers()?;
        broker.restore_producers()?;
        broker.restore_schedules()?;
        broker.restore_jobs()?;
        for id in broker.catalog.ids() {
            broker.keep_all_limits(id);
            broker.read_last_id(id);
        }
        Ok(broker)
    }

    fn restore_secrets(&mut self) -> Result<(), RestoreError> {
        self.id_key = match self.log.states(state::ID_KEY).pop() {
            Some((_, kept)) => Key::decode(&kept.base)
                .ok_or_else(|| not_understood("the message-id key", "it is not 16 bytes"))?,
            None => {
                let key = Key(self.rng.next_u64(), self.rng.next_u64());
                self.log.put(state::ID_KEY, &key.encode());
                key
            }
        };
        self.catalog.next_id = match self.log.states(state::NEXT_STREAM).pop() {
            Some((_, kept)) => {
                let bytes = kept.base.as_slice().try_into();
                u64::from_le_bytes(
                    bytes.map_err(|e| not_understood("the next stream's number", e))?,
                )
            }
            None => 1,
        };
        Ok(())
    }

    fn restore_streams(&mut self) -> Result<(), RestoreError> {
        for (key, kept) in self.log.states(state::STREAMS) {
            let (id, _) = state::parse_key(state::STREAMS, &key)
                .ok_or_else(|| not_understood("a stream", "its key is too short"))?;
            let kept: KeptStream = serde_json::from_slice(&kept.base)
                .map_err(|why| not_understood(id.to_string(), why))?;
            let mut stream = Stream::new(id, kept.config, kept.created);
            stream.provisional = kept.provisional;
            if self.log.stream(id).is_none() {
                // A stream in memory ended with the last process; it goes on empty.
                self.log.create_stream(id, stream.options());
                self.recreate_lost(&stream);
                self.forget_copied(id);
            }
            self.leave_out_doubtful(&stream);
            stream.durable_seq = self.log.stream(id).map_or(0, |held| held.last_seq);
            for subject in &stream.config.subjects {
                self.router.add_stream(subject, id);
            }
            self.catalog.insert(stream);
        }
        Ok(())
    }

    fn restore_consumers(&mut self) -> Result<(), RestoreError> {
        let mut progress: BTreeMap<_, _> = self.log.states(state::CONSUMERS).into_iter().collect();
        for (key, kept) in self.log.states(state::CONSUMER_CONFIGS) {
            let (id, name) = state::parse_key(state::CONSUMER_CONFIGS, &key)
                .ok_or_else(|| not_understood("a consumer", "its key is too short"))?;
            let Some(stream) = self.catalog.get_mut(id) else { continue };
            let what = format!("consumer {name} of stream {}", stream.name);
            let kept: KeptConsumer =
                serde_json::from_slice(&kept.base).map_err(|why| not_understood(&what, why))?;
            let at = progress
                .remove(&state::consumer_key(state::CONSUMERS, id, name))
                .ok_or_else(|| not_understood(&what, "its progress is missing"))?;
            let path =
                Arc::new(ConsumerPath { stream: stream.name.to_string(), consumer: name.into() });
            let last = self.log.stream(id).map_or(0, |held| held.last_seq);
            let mut consumer =
                Consumer::restore(path, kept.config, kept.created, (&at.base, &at.notes), self.now)
                    .map_err(|why| not_understood(&what, why))?;
            consumer.resume_replay(last);
            let name: Arc<str> = Arc::from(name);
            if let Some(subject) = &consumer.config().deliver_subject {
                self.listened.add(subject, &(id, Arc::clone(&name)));
            }
            stream.consumers.join(Arc::clone(&name), Box::new(Member::new(id, consumer)));
            self.recount(id, &name);
            self.mourning.insert((id, Arc::clone(&name)));
            self.stir(id, &name);
        }
        Ok(())
    }

    fn restore_producers(&mut self) -> Result<(), RestoreError> {
        for (key, kept) in self.log.states(state::PRODUCERS) {
            let producer =
                Producer::decode(&kept.base, &kept.notes, self.limits.max_producer_ranges);
            let (Some(id), Some(producer)) = (state::parse_producer_key(&key), producer) else {
                return Err(not_understood("a producer", "its counters have another form"));
            };
            if let Some(gone) = self.producers.put(id, producer, self.limits.max_producers) {
                self.log.forget(&state::producer_key(gone));
            }
        }
        Ok(())
    }

    /// Reads the last record's message id, which a publisher may expect.
    pub(super) fn read_last_id(&mut self, id: StreamId) {
        let Some(held) = self.log.stream(id).filter(|held| held.messages > 0) else { return };
        let mut records = Vec::new();
        let request = one(id, held.last_seq);
        match self.log.read(&request, &Filter::all(), &mut records) {
            ReadOutcome::Ready { next } => {
                self.last_id_read(id, Ok(ReadBatch { records, next }));
            }
            ReadOutcome::Waiting(read) => {
                self.reads.insert(read, Awaiting::LastId(id));
            }
        }
    }

    /// The last record was read.
    pub(super) fn last_id_read(&mut self, id: StreamId, result: Result<ReadBatch, ReadError>) {
        let Ok(batch) = result else { return };
        let last = self.log.stream(id).map_or(0, |held| held.last_seq);
        if let (Some(record), Some(stream)) = (batch.records.last(), self.catalog.get_mut(id))
            && record.seq == last
        {
            let id = get(record.headers(), names::MESSAGE_ID).unwrap_or_default();
            stream.last_message_id = id.to_owned();
        }
    }
}
