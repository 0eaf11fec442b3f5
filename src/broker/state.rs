//! The keys of the broker's state in the log, and the parts of it that are JSON.
//!
//! | key | what |
//! |---|---|
//! | `m/next` | the next stream id |
//! | `m/ids` | the secret key of message-id fingerprints |
//! | `g/` id | sequences of a stream that the log lost |
//! | `s/` id | a stream's configuration |
//! | `k/` stream id, name | a consumer's configuration |
//! | `c/` stream id, name | a consumer's progress |
//! | `p/` id | a producer's counters |
//! | `t/` stream id, sequence | a schedule |
//! | `o/` stream id, source | the origin and the last sequence copied from it |
//! | `r/` id | the name of a stream that is being restored under that id |
//! | `j/` stream id, number | a job that a restart must not forget |
//!
//! Ids are big-endian, so that keys sort as ids do.

use std::collections::BTreeMap;

use claudebus_storage::{Log, StreamId};
use serde::{Deserialize, Serialize};

use crate::model::consumer::ConsumerConfig;
use crate::model::request::ProducerId;
use crate::model::stream::StreamConfig;
use crate::model::time::Timestamp;

use super::jobs::JobId;

pub(super) const NEXT_STREAM: &[u8] = b"m/next";
pub(super) const ID_KEY: &[u8] = b"m/ids";
pub(super) const GAPS: &[u8] = b"g/";
pub(super) const STREAMS: &[u8] = b"s/";
pub(super) const CONSUMER_CONFIGS: &[u8] = b"k/";
pub(super) const CONSUMERS: &[u8] = b"c/";
pub(super) const PRODUCERS: &[u8] = b"p/";
pub(super) const COPIES: &[u8] = b"o/";
pub(super) const JOBS: &[u8] = b"j/";
pub(super) const SCHEDULES: &[u8] = b"t/";
pub(super) const RESTORES: &[u8] = b"r/";

/// Notes may grow to this, or to the size of their base, before a new base is written.
pub(super) const MAX_NOTES: usize = 64 << 10;

/// The same for producers, of which there are many: most have a single range of counters for good, and
/// a note for each batch of theirs. 192 bytes are six of those.
pub(super) const MAX_PRODUCER_NOTES: usize = 192;

/// A stream as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptStream {
    pub(super) config: StreamConfig,
    pub(super) created: Timestamp,
    pub(super) provisional: bool,
}

/// A consumer's configuration as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptConsumer {
    pub(super) config: ConsumerConfig,
    pub(super) created: Timestamp,
}

/// A schedule as it is kept: what its message says, and when it is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptSchedule {
    pub(super) subject: String,
    pub(super) schedule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) time_zone: Option<String>,
    pub(super) target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl: Option<String>,
    /// In nanoseconds since the Unix epoch.
    pub(super) due: u64,
}

/// The key of what is lost of a stream.
pub(super) fn gaps_key(id: StreamId) -> Vec<u8> {
    [GAPS, &id.0.to_be_bytes()].concat()
}

pub(super) fn restore_key(id: StreamId) -> Vec<u8> {
    [RESTORES, &id.0.to_be_bytes()].concat()
}

pub(super) fn stream_key(id: StreamId) -> Vec<u8> {
    [STREAMS, &id.0.to_be_bytes()].concat()
}

pub(super) fn producer_key(id: ProducerId) -> Vec<u8> {
    [PRODUCERS, &id.0.to_be_bytes()].concat()
}

pub(super) fn consumer_key(prefix: &[u8], stream: StreamId, name: &str) -> Vec<u8> {
    [prefix, &stream.0.to_be_bytes(), name.as_bytes()].concat()
}

/// The key of how far a stream is with copying from a source; without a source, what the keys of all
/// of the stream begin with.
pub(super) fn copy_key(stream: StreamId, source: &str) -> Vec<u8> {
    [COPIES, &stream.0.to_be_bytes(), source.as_bytes()].concat()
}

/// The origin of which this is kept, and the last sequence that was copied.
pub(super) fn parse_copied(kept: &[u8]) -> Option<(StreamId, u64)> {
    let (origin, copied) = kept.split_first_chunk::<8>()?;
    let copied = u64::from_le_bytes(copied.try_into().ok()?);
    Some((StreamId(u64::from_le_bytes(*origin)), copied))
}

/// The stream id after `prefix`, and what follows it.
pub(super) fn parse_key<'a>(prefix: &[u8], key: &'a [u8]) -> Option<(StreamId, &'a str)> {
    let (id, rest) = key.strip_prefix(prefix)?.split_first_chunk::<8>()?;
    Some((StreamId(u64::from_be_bytes(*id)), std::str::from_utf8(rest).ok()?))
}

/// The producer of a key.
pub(super) fn parse_producer_key(key: &[u8]) -> Option<ProducerId> {
    let id = key.strip_prefix(PRODUCERS)?.try_into().ok()?;
    Some(ProducerId(u128::from_be_bytes(id)))
}

pub(super) fn job_key(stream: StreamId, job: JobId) -> Vec<u8> {
    [JOBS, &stream.0.to_be_bytes(), &job.0.to_be_bytes()].concat()
}

/// The stream and the job of a key.
pub(super) fn parse_job_key(key: &[u8]) -> Option<(StreamId, JobId)> {
    let (stream, job) = key.strip_prefix(JOBS)?.split_first_chunk::<8>()?;
    let job = job.try_into().ok()?;
    Some((StreamId(u64::from_be_bytes(*stream)), JobId(u64::from_be_bytes(job))))
}

pub(super) fn schedule_key(stream: StreamId, seq: u64) -> Vec<u8> {
    [SCHEDULES, &stream.0.to_be_bytes(), &seq.to_be_bytes()].concat()
}

/// The stream and the sequence of a key.
pub(super) fn parse_schedule_key(key: &[u8]) -> Option<(StreamId, u64)> {
    let (stream, seq) = key.strip_prefix(SCHEDULES)?.split_first_chunk::<8>()?;
    Some((StreamId(u64::from_be_bytes(*stream)), u64::from_be_bytes(seq.try_into().ok()?)))
}

/// The names of all streams whose configuration the log holds.
pub fn stream_names(log: &impl Log) -> BTreeMap<StreamId, String> {
    let kept = log.states(STREAMS).into_iter();
    kept.filter_map(|(key, kept)| {
        let (id, _) = parse_key(STREAMS, &key)?;
        let stream: KeptStream = serde_json::from_slice(&kept.base).ok()?;
        Some((id, stream.config.name))
    })
    .collect()
}

/// JSON of what is kept. These types always serialise; an error would be a defect, and shows when
/// the empty bytes are read again.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        assert_eq!(parse_key(STREAMS, &stream_key(StreamId(7))), Some((StreamId(7), "")));
        let key = consumer_key(CONSUMERS, StreamId(8), "worker");
        assert_eq!(parse_key(CONSUMERS, &key), Some((StreamId(8), "worker")));
        assert_eq!(parse_key(CONSUMERS, b"c/short"), None);
        assert_eq!(parse_producer_key(&producer_key(ProducerId(9))), Some(ProducerId(9)));
        let job = (StreamId(7), JobId(3));
        assert_eq!(parse_job_key(&job_key(job.0, job.1)), Some(job));
        assert_eq!(parse_schedule_key(&schedule_key(StreamId(7), 9)), Some((StreamId(7), 9)));
    }
}
