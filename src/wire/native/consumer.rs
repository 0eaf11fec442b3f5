//! Frames of a consumer's stream: pulls, deliveries, statuses and acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claudebus_storage::Record;

use super::client_frame::ClientFrame;
use super::control::{put_record, record_len, take_record};
use super::error::FrameError;
use super::frame::{ClientKind, ServerKind};
use super::output::{Output, varints_len};
use super::reader::Reader;
use super::server_frame::ServerFrame;
use crate::model::event::{Delivery, Gap, PullStatus};
use crate::model::headers::{Block, names};
use crate::model::request::AckKind;

/// Bytes of a delivered message beside subject, headers and payload: at most so many.
pub const DELIVER_OVERHEAD: usize = 8 * 8 + 1;

/// Fewest bytes of a delivered message: flags, two integers, three lengths.
const LEAST: usize = 6;
/// Most entries that memory is reserved for on a frame's word.
const RESERVE: usize = 4096;
/// Bytes before a frame's body at most: its length, and its kind.
const HEAD: usize = 11;
/// Flag of a delivered message: the payload was left out.
const HEADERS_ONLY: u8 = 1;
/// Flag of a delivered message: it is the first attempt, and its numbers go on from the message
/// before it in the frame. In a long row of messages this saves 20 bytes of each.
const NEXT: u8 = 2;
/// Flags of PULL.
const NO_WAIT: u8 = 1;
const RENEWABLE: u8 = 2;
/// Flag of STATUS.
const ENDED: u8 = 1;
/// Flag of GAP: messages are lost for certain.
const CERTAIN: u8 = 1;

/// PULL: asks for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullFrame {
    /// Names the pull on this stream.
    pub token: u64,
    /// Most messages.
    pub batch: u64,
    /// Most bytes; zero for no limit.
    pub max_bytes: u64,
    /// How long to wait; none for as long as the server allows.
    pub expires: Option<Duration>,
    /// Answer with what is there now.
    pub no_wait: bool,
    /// The pull stays when it is used up, to be raised.
    pub renewable: bool,
    /// Sign of life wanted so often; none for never.
    pub heartbeat: Option<Duration>,
}

/// STATUS: what happens to a pull other than deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusFrame {
    /// The pull.
    pub token: u64,
    /// Code, text and what is left of the pull.
    pub status: PullStatus,
}

fn nanos(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

fn duration(nanos: u64) -> Option<Duration> {
    (nanos > 0).then(|| Duration::from_nanos(nanos))
}

pub(super) fn put_pull(pull: &PullFrame, out: &mut Output) {
    let flags = if pull.no_wait { NO_WAIT } else { 0 } | if pull.renewable { RENEWABLE } else { 0 };
    out.frame(ClientKind::Pull as u8, &[], |fields| {
        fields
            .varint(pull.token)
            .varint(pull.batch)
            .varint(pull.max_bytes)
            .varint(nanos(pull.expires))
            .u8(flags)
            .varint(nanos(pull.heartbeat));
    });
}

pub(super) fn take_pull(mut reader: Reader) -> Result<ClientFrame, FrameError> {
    let token = reader.varint()?;
    let batch = reader.varint()?;
    let max_bytes = reader.varint()?;
    let expires = duration(reader.varint()?);
    let flags = reader.flags(NO_WAIT | RENEWABLE)?;
    let heartbeat = duration(reader.varint()?);
    if batch == 0 {
        return Err(reader.malformed("a pull asks for at least one message"));
    }
    reader.end()?;
    Ok(ClientFrame::Pull(PullFrame {
        token,
        batch,
        max_bytes,
        expires,
        no_wait: flags & NO_WAIT != 0,
        renewable: flags & RENEWABLE != 0,
        heartbeat,
    }))
}

pub(super) fn put_ack(
    kind: &AckKind,
    sequences: &[(u64, u64)],
    confirm: Option<u64>,
    out: &mut Output,
) {
    out.frame(ClientKind::Ack as u8, &[], |fields| {
        match kind {
            AckKind::Ack => fields.u8(1),
            AckKind::Nak { delay } => fields.u8(2).varint(nanos(Some(*delay))),
            AckKind::InProgress => fields.u8(3),
            AckKind::Terminate { reason } => fields.u8(4).field(reason.as_bytes()),
        };
        fields.varint(confirm.unwrap_or(0)).len(sequences.len());
        let mut end = 0;
        for (from, to) in sequences {
            fields.varint(from.saturating_sub(end)).varint(to.saturating_sub(*from));
            end = *to;
        }
    });
}

pub(super) fn take_ack(mut reader: Reader) -> Result<ClientFrame, FrameError> {
    let kind = match reader.u8()? {
        1 => AckKind::Ack,
        2 => AckKind::Nak { delay: Duration::from_nanos(reader.varint()?) },
        3 => AckKind::InProgress,
        4 => AckKind::Terminate { reason: reader.text()? },
        _ => return Err(reader.malformed("unknown kind of acknowledgement")),
    };
    let confirm = Some(reader.varint()?).filter(|token| *token > 0);
    let count = reader.count(2)?;
    let mut sequences = Vec::with_capacity(count.min(RESERVE));
    let mut end = 0u64;
    for _ in 0..count {
        let gap = reader.varint()?;
        if gap == 0 {
            return Err(reader.malformed("ranges ascend and do not touch twice"));
        }
        // Three integers below 2^62 each; a long row of them could exceed 2^64.
        let range = end
            .checked_add(gap)
            .and_then(|from| Some((from, from.checked_add(reader.varint().ok()?)?)));
        let (from, to) = range.ok_or_else(|| reader.malformed("a range is cut off or too high"))?;
        sequences.push((from, to));
        end = to;
    }
    reader.end()?;
    Ok(ClientFrame::Ack { kind, sequences, confirm })
}

/// A delivery without its payload carries the payload's size in its headers, as in JetStream.
fn without_payload(record: &Record) -> Option<Record> {
    let mut block = Block::from_existing(record.headers());
    block.add(names::MESSAGE_SIZE, &record.payload().len().to_string());
    let headers = block.finish();
    let mut data = Vec::with_capacity(record.subject_len() + headers.len());
    data.extend_from_slice(record.subject().as_bytes());
    data.extend_from_slice(&headers);
    Record::new(
        record.seq,
        record.time,
        None,
        Bytes::from(data),
        u16::try_from(record.subject_len()).ok()?,
        u32::try_from(headers.len()).ok()?,
    )
}

/// Encodes deliveries as one DELIVER frame.
pub(super) fn put_deliver(token: u64, deliveries: &[Delivery], out: &mut Output) {
    if deliveries.iter().any(|delivery| delivery.headers_only && !is_stripped(delivery)) {
        let stripped: Vec<_> = deliveries.iter().map(strip).collect();
        return put_deliver(token, &stripped, out);
    }
    let previous = || std::iter::once(None).chain(deliveries.iter().map(Some));
    let numbered = || deliveries.iter().zip(previous()).map(|(d, p)| (d, Numbers::of(d, p)));
    let len = varints_len([token, deliveries.len() as u64])
        + numbered()
            .map(|(d, numbers)| numbers.len() + record_len(&d.record, false))
            .sum::<usize>();
    let data = || deliveries.iter().map(|delivery| delivery.record.data().len());
    out.reserve(data(), len - data().sum::<usize>() + HEAD);
    out.head(ServerKind::Deliver as u8, len);
    out.fields().varint(token).len(deliveries.len());
    for (delivery, numbers) in numbered() {
        numbers.put(delivery.headers_only, out);
        put_record(&delivery.record, false, out);
    }
}

/// How the numbers of a delivered message are told.
enum Numbers {
    /// How many sequences further, and how many nanoseconds later than the message before.
    Next([u64; 2]),
    /// Sequence, number of the delivery, attempt, time, messages left.
    All([u64; 5]),
}

impl Numbers {
    fn of(delivery: &Delivery, previous: Option<&Delivery>) -> Self {
        let record = &delivery.record;
        let all =
            [record.seq, delivery.consumer_seq, delivery.attempts, record.time, delivery.pending];
        let Some(previous) = previous else { return Self::All(all) };
        let is_next = delivery.attempts == 1
            && delivery.consumer_seq == previous.consumer_seq.wrapping_add(1)
            && previous.pending == delivery.pending.wrapping_add(1);
        let steps = record.seq.checked_sub(previous.record.seq);
        match steps.zip(record.time.checked_sub(previous.record.time)) {
            Some((sequences, nanos)) if is_next => Self::Next([sequences, nanos]),
            _ => Self::All(all),
        }
    }

    /// Bytes of flags and numbers.
    fn len(&self) -> usize {
        1 + match self {
            Self::Next(steps) => varints_len(*steps),
            Self::All(numbers) => varints_len(*numbers),
        }
    }

    fn put(&self, headers_only: bool, out: &mut Output) {
        let flags = if headers_only { HEADERS_ONLY } else { 0 };
        let (flags, numbers) = match self {
            Self::Next(steps) => (flags | NEXT, &steps[..]),
            Self::All(numbers) => (flags, &numbers[..]),
        };
        let mut fields = out.fields();
        fields.u8(flags);
        for number in numbers {
            fields.varint(*number);
        }
    }
}

fn is_stripped(delivery: &Delivery) -> bool {
    delivery.record.payload().is_empty()
        && crate::model::headers::get(delivery.record.headers(), names::MESSAGE_SIZE).is_some()
}

/// The delivery without its payload, if that is to be left out.
#[must_use]
pub fn strip(delivery: &Delivery) -> Delivery {
    let mut delivery = delivery.clone();
    if delivery.headers_only && !is_stripped(&delivery) {
        if let Some(record) = without_payload(&delivery.record) {
            delivery.record = record;
        } else {
            delivery.headers_only = false;
        }
    }
    delivery
}

pub(super) fn take_deliver(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let token = reader.varint()?;
    let count = reader.count(LEAST)?;
    let mut deliveries = Vec::with_capacity(count.min(RESERVE));
    for _ in 0..count {
        let delivery = take_delivery(&mut reader, deliveries.last())?;
        deliveries.push(delivery);
    }
    reader.end()?;
    Ok(ServerFrame::Deliver { token, deliveries })
}

fn take_delivery(reader: &mut Reader, previous: Option<&Delivery>) -> Result<Delivery, FrameError> {
    let flags = reader.flags(HEADERS_ONLY | NEXT)?;
    let headers_only = flags & HEADERS_ONLY != 0;
    if flags & NEXT == 0 {
        let (seq, consumer_seq, attempts) = (reader.varint()?, reader.varint()?, reader.varint()?);
        let (time, pending) = (reader.varint()?, reader.varint()?);
        let record = take_record(reader, seq, time)?;
        return Ok(Delivery { record, consumer_seq, attempts, pending, headers_only, pin: None });
    }
    let (sequences, nanos) = (reader.varint()?, reader.varint()?);
    let numbers = previous.and_then(|previous| {
        let seq = previous.record.seq.checked_add(sequences)?;
        let time = previous.record.time.checked_add(nanos)?;
        Some((seq, time, previous.consumer_seq.checked_add(1)?, previous.pending.checked_sub(1)?))
    });
    let (seq, time, consumer_seq, pending) =
        numbers.ok_or_else(|| reader.malformed("a message goes on from one that is not there"))?;
    let record = take_record(reader, seq, time)?;
    Ok(Delivery { record, consumer_seq, attempts: 1, pending, headers_only, pin: None })
}

pub(super) fn put_status(frame: &StatusFrame, out: &mut Output) {
    let StatusFrame { token, status } = frame;
    out.frame(ServerKind::Status as u8, &[], |fields| {
        fields
            .varint(*token)
            .varint(status.code.into())
            .field(status.text.as_bytes())
            .varint(status.pending_messages)
            .varint(status.pending_bytes)
            .varint(status.last.0)
            .varint(status.last.1)
            .u8(if status.ended { ENDED } else { 0 });
    });
}

pub(super) fn put_gap(token: u64, gap: &Gap, out: &mut Output) {
    out.frame(ServerKind::Gap as u8, &[], |fields| {
        fields
            .varint(token)
            .varint(gap.first)
            .varint(gap.last)
            .u8(if gap.is_certain { CERTAIN } else { 0 })
            .varint(gap.offset)
            .field(gap.stream.as_bytes())
            .field(gap.file.as_bytes());
    });
}

pub(super) fn take_gap(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let token = reader.varint()?;
    let (first, last) = (reader.varint()?, reader.varint()?);
    let is_certain = reader.flags(CERTAIN)? == CERTAIN;
    let offset = reader.varint()?;
    let (stream, file) = (reader.text()?, reader.text()?);
    reader.end()?;
    let gap = Arc::new(Gap { stream, first, last, file, offset, is_certain });
    Ok(ServerFrame::Gap { token, gap })
}

pub(super) fn take_status(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let token = reader.varint()?;
    let code =
        u16::try_from(reader.varint()?).map_err(|_| reader.malformed("code out of range"))?;
    let status = PullStatus {
        code,
        text: reader.text()?.into(),
        pending_messages: reader.varint()?,
        pending_bytes: reader.varint()?,
        last: (reader.varint()?, reader.varint()?),
        ended: reader.flags(ENDED)? == ENDED,
        stalled: None,
        reply: None,
    };
    reader.end()?;
    Ok(ServerFrame::Status(StatusFrame { token, status }))
}
