//! State on disk: streams, deleted sequences, subjects, keyed state and the list of segments, as sorted
//! keys and values.
//!
//! A checkpoint writes what changed as a *delta* file; when the deltas outgrow the *base*, all are
//! merged into a new base. A later file wins. This module knows the keys and values; [`mod@file`] the
//! bytes around them, [`merge`](mod@merge) how files become one. It does not know when to write.

pub(crate) mod entries;
pub(crate) mod file;
pub(crate) mod merge;

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use crate::codec::{Fields, PutFields};
use crate::ids::StreamId;
use crate::journal::effect::{put_options, take_options};
use crate::log::{StreamOptions, SubjectSummary};
use crate::segment::{SegmentId, SegmentMeta, StreamRange};
use crate::stream::{Gone, Stream};

/// The directory of state files.
pub(crate) const DIR: &str = "state";

const STREAM: u8 = 1;
const GONE: u8 = 2;
const SUBJECT: u8 = 3;
const KEYED: u8 = 4;
const SEGMENT: u8 = 5;

/// What an entry does to the value under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// There is none any more.
    Remove,
    /// It is this.
    Put,
    /// It is what it was, and this after it.
    Append,
}

impl Action {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Remove => 0,
            Self::Put => 1,
            Self::Append => 2,
        }
    }

    pub(crate) fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Remove),
            1 => Some(Self::Put),
            2 => Some(Self::Append),
            _ => None,
        }
    }
}

/// What a key names. Keys sort in this order, so that streams are known before what belongs to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Stream(StreamId),
    Gone(StreamId),
    /// A subject of a stream, since its clear number `epoch`.
    Subject(StreamId, u64, &'a str),
    Keyed(&'a [u8]),
    Segment(SegmentId),
}

impl<'a> Key<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        // Numbers are big-endian, so that keys sort as numbers do.
        match self {
            Self::Stream(id) => {
                out.u8(STREAM);
                out.bytes(&id.0.to_be_bytes());
            }
            Self::Gone(id) => {
                out.u8(GONE);
                out.bytes(&id.0.to_be_bytes());
            }
            Self::Subject(id, epoch, text) => {
                out.u8(SUBJECT);
                out.bytes(&id.0.to_be_bytes());
                out.bytes(&epoch.to_be_bytes());
                out.bytes(text.as_bytes());
            }
            Self::Keyed(key) => {
                out.u8(KEYED);
                out.bytes(key);
            }
            Self::Segment(id) => {
                out.u8(SEGMENT);
                out.bytes(&id.0.to_be_bytes());
            }
        }
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let kind = fields.u8()?;
        // Swapping the bytes of a little-endian number reads it big-endian.
        let mut number = || fields.u64().map(u64::swap_bytes);
        Some(match kind {
            STREAM => Self::Stream(StreamId(number()?)),
            GONE => Self::Gone(StreamId(number()?)),
            SUBJECT => {
                let (id, epoch) = (StreamId(number()?), number()?);
                Self::Subject(id, epoch, std::str::from_utf8(fields.rest()).ok()?)
            }
            KEYED => Self::Keyed(fields.rest()),
            SEGMENT => Self::Segment(SegmentId(number()?)),
            _ => return None,
        })
    }
}

/// The value under [`Key::Stream`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamValue {
    pub(crate) options: StreamOptions,
    pub(crate) epoch: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) last_time: u64,
}

impl StreamValue {
    pub(crate) fn of(stream: &Stream) -> Self {
        let mut value = Self {
            options: stream.options,
            epoch: stream.epoch,
            messages: stream.messages,
            bytes: stream.bytes,
            first_seq: stream.first_seq,
            last_seq: stream.last_seq,
            last_time: stream.last_time,
        };
        if stream.is_volatile() {
            // Its records will be gone, its sequences must not come back.
            value.messages = 0;
            value.bytes = 0;
            value.first_seq = value.last_seq + 1;
        }
        value
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_options(out, self.options);
        out.u64(self.epoch);
        out.u64(self.messages);
        out.u64(self.bytes);
        out.u64(self.first_seq);
        out.u64(self.last_seq);
        out.u64(self.last_time);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        Some(Self {
            options: take_options(&mut fields)?,
            epoch: fields.u64()?,
            messages: fields.u64()?,
            bytes: fields.u64()?,
            first_seq: fields.u64()?,
            last_seq: fields.u64()?,
            last_time: fields.u64()?,
        })
    }
}

/// The value under [`Key::Gone`].
pub(crate) fn encode_gone(gone: &Gone, out: &mut Vec<u8>) {
    out.u32(u32::try_from(gone.skipped.len()).unwrap_or(u32::MAX));
    for (first, last) in &gone.skipped {
        out.u64(*first);
        out.u64(*last);
    }
    // Writing to memory does not fail.
    let _ = gone.deleted.serialize_into(out);
}

pub(crate) fn decode_gone(bytes: &[u8]) -> Option<Gone> {
    let mut fields = Fields::new(bytes);
    let count = fields.u32()?;
    let mut skipped = BTreeMap::new();
    for _ in 0..count {
        skipped.insert(fields.u64()?, fields.u64()?);
    }
    let deleted = RoaringTreemap::deserialize_from(fields.rest()).ok()?;
    Some(Gone { deleted, skipped })
}

/// The value under [`Key::Subject`].
pub(crate) fn encode_subject(summary: &SubjectSummary, out: &mut Vec<u8>) {
    out.u64(summary.count);
    out.u64(summary.first);
    out.u64(summary.last);
    out.u8(u8::from(summary.last_is_exact));
}

/// Count, first, last, and whether last is exact.
pub(crate) fn decode_subject(bytes: &[u8]) -> Option<(u64, u64, u64, bool)> {
    let mut fields = Fields::new(bytes);
    Some((fields.u64()?, fields.u64()?, fields.u64()?, fields.u8()? != 0))
}

/// The value under [`Key::Keyed`]: base and notes. Notes come last, so that more can be appended.
pub(crate) fn encode_keyed(base: &[u8], notes: &[u8], out: &mut Vec<u8>) {
    out.long_bytes(base);
    out.bytes(notes);
}

/// Base and notes.
pub(crate) fn decode_keyed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields::new(bytes);
    Some((fields.long_bytes()?, fields.rest()))
}

/// The value under [`Key::Segment`].
pub(crate) fn encode_segment(meta: &SegmentMeta, out: &mut Vec<u8>) {
    out.u64(meta.length);
    out.u64(meta.digest);
    for range in &meta.streams {
        out.u64(range.stream.0);
        out.u64(range.first_seq);
        out.u64(range.last_seq);
        out.u64(range.count);
        out.u64(range.bytes);
        out.u64(range.first_time);
        out.u64(range.last_time);
        out.u64(range.next_expiry.unwrap_or(u64::MAX));
    }
}

pub(crate) fn decode_segment(id: SegmentId, bytes: &[u8]) -> Option<SegmentMeta> {
    let mut fields = Fields::new(bytes);
    let (length, digest) = (fields.u64()?, fields.u64()?);
    let mut streams = Vec::new();
    while !fields.is_empty() {
        streams.push(StreamRange {
            stream: StreamId(fields.u64()?),
            first_seq: fields.u64()?,
            last_seq: fields.u64()?,
            count: fields.u64()?,
            bytes: fields.u64()?,
            first_time: fields.u64()?,
            last_time: fields.u64()?,
            next_expiry: Some(fields.u64()?).filter(|expiry| *expiry != u64::MAX),
        });
    }
    Some(SegmentMeta { id, length, digest, streams })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn keys_come_back_and_sort() {
        let keys = [
            Key::Stream(StreamId(1)),
            Key::Stream(StreamId(256)),
            Key::Gone(StreamId(1)),
            Key::Subject(StreamId(1), 0, "b"),
            Key::Subject(StreamId(1), 1, "a"),
            Key::Subject(StreamId(2), 0, "a"),
            Key::Keyed(b"k"),
            Key::Segment(SegmentId(9)),
        ];
        let encoded: Vec<Vec<u8>> = keys
            .iter()
            .map(|key| {
                let mut out = Vec::new();
                key.encode(&mut out);
                out
            })
            .collect();
        assert!(encoded.is_sorted());
        for (key, bytes) in keys.iter().zip(&encoded) {
            assert_eq!(Key::decode(bytes), Some(*key));
        }
    }

    #[test]
    fn gone_sequences_come_back() {
        let mut gone = Gone::default();
        gone.deleted.insert(7);
        gone.deleted.insert(1 << 40);
        gone.skipped.insert(10, 20);
        let mut out = Vec::new();
        encode_gone(&gone, &mut out);
        assert_eq!(decode_gone(&out), Some(gone));
        assert_eq!(decode_gone(&out[..out.len() - 1]), None);
    }

    #[test]
    fn segments_come_back() {
        let range = StreamRange {
            stream: StreamId(1),
            first_seq: 2,
            last_seq: 3,
            count: 2,
            bytes: 4,
            first_time: 5,
            last_time: 6,
            next_expiry: None,
        };
        let streams = vec![range, StreamRange { next_expiry: Some(8), ..range }];
        let meta = SegmentMeta { id: SegmentId(1), length: 2, digest: 3, streams };
        let mut out = Vec::new();
        encode_segment(&meta, &mut out);
        assert_eq!(decode_segment(SegmentId(1), &out), Some(meta));
    }
}
