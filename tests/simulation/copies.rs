//! Streams that copy others: a mirror has what its origin has at the same places, and a stream with
//! sources has each message once, whatever happened between.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claudebus::model::api::{ApiRequest, ApiResponse, StoredMessage, StreamInfoOptions};
use claudebus::model::headers::{get, names};
use claudebus::model::stream::{StreamConfig, StreamInfo, StreamSource};

use crate::clients::Simulation;
use crate::world::Halt;

/// The stream that is mirrored.
pub const MIRRORED: usize = 2;
/// The streams that another one has as its sources: of limits, of few places, and the mirrored one.
const SOURCES: [usize; 3] = [0, 1, MIRRORED];
const MIRROR: &str = "MIRROR";
const GATHER: &str = "GATHER";
/// Turns in which copies must have followed when nothing else happens.
const PATIENCE: usize = 2_000;

fn violation<T>(what: String) -> Result<T, Halt> {
    Err(Halt::Violation(what))
}

/// Where a message was.
struct Place {
    stream: String,
    seq: u64,
    /// Which of the streams of that name it was.
    mark: String,
}

/// What a message says of where it was.
fn place_of(message: &StoredMessage) -> Option<Place> {
    let headers = STANDARD.decode(&message.hdrs).ok()?;
    let mut words = get(&headers, names::STREAM_SOURCE)?.split(' ');
    Some(Place {
        stream: words.next()?.to_owned(),
        seq: words.next()?.parse().ok()?,
        mark: words.next_back()?.to_owned(),
    })
}

impl Simulation {
    /// Creates the streams that copy, which may be there.
    pub fn create_copies(&mut self) -> Result<(), Halt> {
        let of = |stream: usize| StreamSource {
            name: self.book.streams[stream].name.clone(),
            ..StreamSource::default()
        };
        let named = |name: &str| StreamConfig { name: name.to_owned(), ..StreamConfig::default() };
        let mirror = StreamConfig { mirror: Some(of(MIRRORED)), ..named(MIRROR) };
        let gather = StreamConfig { sources: SOURCES.map(of).to_vec(), ..named(GATHER) };
        for config in [mirror, gather] {
            if let Err(error) = self.ask(ApiRequest::StreamCreate(Box::new(config)))? {
                return violation(format!("a copy cannot be created: {error}"));
            }
        }
        Ok(())
    }

    /// Deletes the mirror, before its origin is deleted: of another one it could not be told what it has.
    pub fn delete_mirror(&mut self) -> Result<(), Halt> {
        self.ask(ApiRequest::StreamDelete { stream: MIRROR.to_owned() }).map(|_| ())
    }

    /// All messages of a stream.
    fn read_all(&mut self, name: &str) -> Result<BTreeMap<u64, StoredMessage>, Halt> {
        let mut found = BTreeMap::new();
        let mut from = 1;
        while let Some(message) = self.next_message(name, from)? {
            from = message.seq + 1;
            found.insert(message.seq, message);
        }
        Ok(found)
    }

    fn copy_info(&mut self, name: &str) -> Result<StreamInfo, Halt> {
        let options = StreamInfoOptions::default();
        match self.ask(ApiRequest::StreamInfo { stream: name.to_owned(), options })? {
            Ok(ApiResponse::Stream { info, .. }) => Ok(*info),
            other => violation(format!("{name}: no information: {other:?}")),
        }
    }

    /// Waits until a copy has followed.
    fn await_copy(&mut self, name: &str) -> Result<(), Halt> {
        for _ in 0..PATIENCE {
            let info = self.copy_info(name)?;
            if info.mirror.iter().chain(&info.sources).all(|of| of.lag == 0 && of.active >= 0) {
                return Ok(());
            }
            self.turn()?;
        }
        violation(format!("{name} does not follow: {:?}", self.copy_info(name)?))
    }

    /// Compares the copies with what their origins have.
    pub fn judge_copies(&mut self) -> Result<(), Halt> {
        let mut origins = BTreeMap::new();
        for stream in SOURCES {
            if !self.book.streams[stream].exists {
                return Ok(());
            }
            let name = self.book.streams[stream].name.clone();
            let messages = self.read_all(&name)?;
            origins.insert(name, messages);
        }
        self.await_copy(MIRROR)?;
        self.await_copy(GATHER)?;
        let mirrored = self.read_all(MIRROR)?;
        let origin = &origins[&self.book.streams[MIRRORED].name];
        for (seq, message) in origin {
            if mirrored.get(seq) != Some(message) {
                let has = mirrored.get(seq);
                return violation(format!("{MIRROR} has {has:?} instead of {message:?}"));
            }
        }
        self.world.seen.copied += mirrored.len() as u64;
        let gathered = self.read_all(GATHER)?;
        let mut last = BTreeMap::new();
        let mut bodies: BTreeMap<(String, u64), Vec<&str>> = BTreeMap::new();
        let mut marks: BTreeMap<String, String> = BTreeMap::new();
        for message in gathered.values() {
            let Some(Place { stream, seq, mark }) = place_of(message) else {
                return violation(format!("{GATHER}: {} does not say where it was", message.seq));
            };
            // Another stream of the name begins anew.
            let before = last.insert((stream.clone(), mark.clone()), seq);
            if before.is_some_and(|before| before >= seq) {
                return violation(format!("{GATHER}: {seq} of {stream} comes after {before:?}"));
            }
            // What was copied of an earlier stream of the name says nothing of the one that is there.
            if marks.insert(stream.clone(), mark.clone()).is_some_and(|other| other != mark) {
                bodies.retain(|(name, _), _| *name != stream);
            }
            bodies.entry((stream, seq)).or_default().push(&message.data);
        }
        for (name, messages) in &origins {
            for message in messages.values() {
                let copies = bodies.get(&(name.clone(), message.seq));
                let same = copies.into_iter().flatten().filter(|data| **data == message.data);
                let count = same.count();
                if count != 1 {
                    let seq = message.seq;
                    return violation(format!("{GATHER}: {seq} of {name} is there {count} times"));
                }
            }
        }
        Ok(())
    }
}
