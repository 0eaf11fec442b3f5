//! Entries of the journal: effects, never requests. Replay applies them and decides nothing.

use bytes::BytesMut;

use super::format::entry_seed;
use crate::codec::{Fields, PutFields, checksum_with_seed};
use crate::ids::{Fingerprint, StreamId};
use crate::log::{Compression, StreamOptions};
use crate::record::{NewRecord, StorageKind};

const CREATED: u8 = 1;
const UPDATED: u8 = 2;
const DROPPED: u8 = 3;
const RECORD: u8 = 4;
const SKIPPED: u8 = 5;
const DELETED: u8 = 6;
const ERASED: u8 = 7;
const CLEARED: u8 = 8;
const PUT: u8 = 9;
const NOTED: u8 = 10;
const FORGOTTEN: u8 = 11;

const HAS_EXPIRY: u8 = 1;
const HAS_MESSAGE_ID: u8 = 2;
/// Fields of a record entry before its optional ones: kind, stream, sequence, time, flags, lengths.
const RECORD_HEAD: usize = 1 + 8 + 8 + 8 + 1 + 2 + 4;

/// One change, as it stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    Created {
        stream: StreamId,
        options: StreamOptions,
    },
    Updated {
        stream: StreamId,
        options: StreamOptions,
    },
    Dropped {
        stream: StreamId,
    },
    Record(RecordEntry<'a>),
    Skipped {
        stream: StreamId,
        last: u64,
    },
    /// `erase` asks for the bytes to be overwritten as well.
    Deleted {
        stream: StreamId,
        seq: u64,
        size: u64,
        subject: &'a str,
        erase: bool,
    },
    Cleared {
        stream: StreamId,
    },
    Put {
        key: &'a [u8],
        base: &'a [u8],
    },
    Noted {
        key: &'a [u8],
        note: &'a [u8],
    },
    Forgotten {
        key: &'a [u8],
    },
}

/// A record as it stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordEntry<'a> {
    pub(crate) stream: StreamId,
    pub(crate) seq: u64,
    pub(crate) time: u64,
    pub(crate) expires: Option<u64>,
    pub(crate) message_id: Option<(Fingerprint, u64)>,
    pub(crate) subject_len: u16,
    pub(crate) headers_len: u32,
    /// Subject, headers and payload, one after the other.
    pub(crate) data: &'a [u8],
}

impl<'a> RecordEntry<'a> {
    pub(crate) fn subject(&self) -> &'a str {
        let bytes = self.data.get(..usize::from(self.subject_len)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    pub(crate) fn headers(&self) -> &'a [u8] {
        let start = usize::from(self.subject_len);
        self.data.get(start..start + self.headers_len as usize).unwrap_or_default()
    }

    pub(crate) fn payload(&self) -> &'a [u8] {
        self.data
            .get(usize::from(self.subject_len) + self.headers_len as usize..)
            .unwrap_or_default()
    }

    /// Its size as a stream on disk counts it.
    pub(crate) fn size(&self) -> u64 {
        StorageKind::File.size(self.subject().len(), self.headers().len(), self.payload().len())
    }
}

/// Where an entry goes, and what its checksum is seeded with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryPlace {
    pub(crate) salt: u64,
    pub(crate) group: u64,
    pub(crate) index: u32,
}

impl EntryPlace {
    fn seed(self) -> u64 {
        entry_seed(self.salt, self.group, self.index)
    }
}

fn compression_code(compression: Compression) -> u8 {
    match compression {
        Compression::Off => 0,
        Compression::Lz4 => 1,
        Compression::Zstd => 2,
    }
}

pub(crate) fn put_options(out: &mut impl PutFields, options: StreamOptions) {
    out.u8(match options.storage {
        StorageKind::File => 0,
        StorageKind::Memory => 1,
    });
    out.u8(compression_code(options.compression));
}

pub(crate) fn take_options(fields: &mut Fields<'_>) -> Option<StreamOptions> {
    let storage = match fields.u8()? {
        0 => StorageKind::File,
        1 => StorageKind::Memory,
        _ => return None,
    };
    let compression = match fields.u8()? {
        0 => Compression::Off,
        1 => Compression::Lz4,
        2 => Compression::Zstd,
        _ => return None,
    };
    Some(StreamOptions { storage, compression })
}

/// The length of a record's entry without its frame, in bytes.
pub(crate) fn record_len(record: &NewRecord<'_>) -> usize {
    RECORD_HEAD
        + record.expires.map_or(0, |_| 8)
        + record.message_id.map_or(0, |_| 24)
        + record.subject.len()
        + record.headers.len()
        + record.payload.len()
}

/// Appends a record's entry and returns its checksum. The hot path: one pass, no allocation when
/// `out` has room.
pub(crate) fn encode_record(
    out: &mut BytesMut,
    place: EntryPlace,
    stream: StreamId,
    seq: u64,
    record: &NewRecord<'_>,
) -> u64 {
    let start = out.len();
    let flags =
        record.expires.map_or(0, |_| HAS_EXPIRY) | record.message_id.map_or(0, |_| HAS_MESSAGE_ID);
    let mut head = [0; 4 + RECORD_HEAD];
    let subject_len = u16::try_from(record.subject.len()).unwrap_or(u16::MAX);
    let mut rest: &mut [u8] = &mut head;
    put(&mut rest, &(record_len(record) as u32).to_le_bytes());
    put(&mut rest, &[RECORD]);
    put(&mut rest, &stream.0.to_le_bytes());
    put(&mut rest, &seq.to_le_bytes());
    put(&mut rest, &record.time.to_le_bytes());
    put(&mut rest, &[flags]);
    put(&mut rest, &subject_len.to_le_bytes());
    put(&mut rest, &(record.headers.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    if let Some(expires) = record.expires {
        out.u64(expires);
    }
    if let Some((id, until)) = record.message_id {
        out.u128(id.0);
        out.u64(until);
    }
    out.extend_from_slice(record.subject.as_bytes());
    out.extend_from_slice(record.headers);
    out.extend_from_slice(record.payload);
    seal(out, start, place)
}

/// Writes into a fixed buffer that is known to be large enough.
fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    if let Some((head, tail)) = std::mem::take(rest).split_at_mut_checked(bytes.len()) {
        head.copy_from_slice(bytes);
        *rest = tail;
    }
}

fn seal(out: &mut BytesMut, start: usize, place: EntryPlace) -> u64 {
    let sum = checksum_with_seed(out.get(start..).unwrap_or_default(), place.seed());
    out.u64(sum);
    sum
}

/// Bytes that [`encode`] may need for an effect that is not a record.
pub(crate) fn encoded_len(effect: &Effect<'_>) -> usize {
    let variable = match effect {
        Effect::Deleted { subject, .. } => subject.len(),
        Effect::Put { key, base } => key.len() + base.len(),
        Effect::Noted { key, note } => key.len() + note.len(),
        Effect::Forgotten { key } => key.len(),
        Effect::Record(record) => record.data.len() + 32,
        _ => 0,
    };
    variable + 64
}

/// Appends the entry of any effect but a record and returns its checksum.
pub(crate) fn encode(out: &mut BytesMut, place: EntryPlace, effect: &Effect<'_>) -> u64 {
    let start = out.len();
    out.u32(0);
    match *effect {
        Effect::Created { stream, options } | Effect::Updated { stream, options } => {
            out.u8(if matches!(effect, Effect::Created { .. }) { CREATED } else { UPDATED });
            out.u64(stream.0);
            put_options(out, options);
        }
        Effect::Dropped { stream } | Effect::Cleared { stream } => {
            out.u8(if matches!(effect, Effect::Dropped { .. }) { DROPPED } else { CLEARED });
            out.u64(stream.0);
        }
        // Records have a writer of their own; see `encode_record`.
        Effect::Record(_) => {}
        Effect::Skipped { stream, last } => {
            out.u8(SKIPPED);
            out.u64(stream.0);
            out.u64(last);
        }
        Effect::Deleted { stream, seq, size, subject, erase } => {
            out.u8(if erase { ERASED } else { DELETED });
            out.u64(stream.0);
            out.u64(seq);
            out.u64(size);
            out.bytes(subject.as_bytes());
        }
        Effect::Put { key, base } => {
            out.u8(PUT);
            out.short_bytes(key);
            out.bytes(base);
        }
        Effect::Noted { key, note } => {
            out.u8(NOTED);
            out.short_bytes(key);
            out.bytes(note);
        }
        Effect::Forgotten { key } => {
            out.u8(FORGOTTEN);
            out.short_bytes(key);
        }
    }
    let len = (out.len() - start - 4) as u32;
    if let Some(target) = out.get_mut(start..start + 4) {
        target.copy_from_slice(&len.to_le_bytes());
    }
    seal(out, start, place)
}

/// Reads an entry without its frame. `None` means it was written by something else: its
/// checksum was good.
pub(crate) fn decode(entry: &[u8]) -> Option<Effect<'_>> {
    let mut fields = Fields::new(entry);
    let kind = fields.u8()?;
    Some(match kind {
        CREATED | UPDATED => {
            let stream = StreamId(fields.u64()?);
            let options = take_options(&mut fields)?;
            if kind == CREATED {
                Effect::Created { stream, options }
            } else {
                Effect::Updated { stream, options }
            }
        }
        DROPPED => Effect::Dropped { stream: StreamId(fields.u64()?) },
        RECORD => Effect::Record(decode_record(&mut fields)?),
        SKIPPED => Effect::Skipped { stream: StreamId(fields.u64()?), last: fields.u64()? },
        DELETED | ERASED => Effect::Deleted {
            stream: StreamId(fields.u64()?),
            seq: fields.u64()?,
            size: fields.u64()?,
            subject: std::str::from_utf8(fields.rest()).ok()?,
            erase: kind == ERASED,
        },
        CLEARED => Effect::Cleared { stream: StreamId(fields.u64()?) },
        PUT => Effect::Put { key: fields.short_bytes()?, base: fields.rest() },
        NOTED => Effect::Noted { key: fields.short_bytes()?, note: fields.rest() },
        FORGOTTEN => Effect::Forgotten { key: fields.short_bytes()? },
        _ => return None,
    })
}

fn decode_record<'a>(fields: &mut Fields<'a>) -> Option<RecordEntry<'a>> {
    let stream = StreamId(fields.u64()?);
    let seq = fields.u64()?;
    let time = fields.u64()?;
    let flags = fields.u8()?;
    let subject_len = fields.u16()?;
    let headers_len = fields.u32()?;
    let expires = if flags & HAS_EXPIRY != 0 { Some(fields.u64()?) } else { None };
    let message_id = if flags & HAS_MESSAGE_ID != 0 {
        Some((Fingerprint(fields.u128()?), fields.u64()?))
    } else {
        None
    };
    let data = fields.rest();
    let body = data.get(usize::from(subject_len)..)?;
    body.get(headers_len as usize..)?;
    std::str::from_utf8(data.get(..usize::from(subject_len))?).ok()?;
    Some(RecordEntry { stream, seq, time, expires, message_id, subject_len, headers_len, data })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;
    use crate::journal::format::entry_at;

    const PLACE: EntryPlace = EntryPlace { salt: 3, group: 4, index: 5 };

    #[test]
    fn every_effect_comes_back() {
        let stream = StreamId(9);
        let options =
            StreamOptions { storage: StorageKind::Memory, compression: Compression::Zstd };
        for effect in [
            Effect::Created { stream, options },
            Effect::Updated { stream, options: StreamOptions::default() },
            Effect::Dropped { stream },
            Effect::Skipped { stream, last: 77 },
            Effect::Deleted { stream, seq: 1, size: 2, subject: "a.b", erase: false },
            Effect::Deleted { stream, seq: 1, size: 2, subject: "", erase: true },
            Effect::Cleared { stream },
            Effect::Put { key: b"k", base: b"base" },
            Effect::Noted { key: b"k", note: b"note" },
            Effect::Forgotten { key: b"k" },
        ] {
            let mut out = BytesMut::new();
            let sum = encode(&mut out, PLACE, &effect);
            assert!(out.len() <= encoded_len(&effect));
            let (entry, found, len) = entry_at(&out, PLACE.seed()).unwrap();
            assert_eq!((found, len), (sum, out.len()));
            assert_eq!(decode(entry), Some(effect));
            assert!(entry_at(&out, PLACE.seed() ^ 1).is_none(), "bound to its place");
        }
    }

    #[test]
    fn records_come_back_with_and_without_options() {
        for (expires, message_id) in
            [(None, None), (Some(8), None), (None, Some((Fingerprint(6), 7)))]
        {
            let record = NewRecord {
                subject: "a.b",
                headers: b"head",
                payload: b"body",
                time: 12,
                expires,
                message_id,
            };
            let mut out = BytesMut::new();
            encode_record(&mut out, PLACE, StreamId(1), 2, &record);
            let (entry, _, _) = entry_at(&out, PLACE.seed()).unwrap();
            assert_eq!(entry.len(), record_len(&record));
            let Some(Effect::Record(found)) = decode(entry) else { panic!("not a record") };
            assert_eq!(
                (found.subject(), found.headers(), found.payload()),
                ("a.b", &b"head"[..], &b"body"[..])
            );
            assert_eq!((found.seq, found.time), (2, 12));
            assert_eq!((found.expires, found.message_id), (expires, message_id));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_entries_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let _ = entry_at(&bytes, 0);
        }
    }
}
