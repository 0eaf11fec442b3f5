//! Frames: a length, a type, a body; and the decoder that cuts them out of a stream of bytes.

use bytes::{Bytes, BytesMut};

use super::error::FrameError;
use super::varint::take_varint;

/// What a frame may hold beyond the largest payload: 64 KiB for subject, lengths and the other
/// fields.
pub const FRAME_OVERHEAD: usize = 64 << 10;

/// Types of the frames that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ClientKind {
    Hello = 0x01,
    Request = 0x02,
    OpenPublisher = 0x10,
    Publish = 0x11,
    OpenConsumer = 0x20,
    Pull = 0x21,
    Raise = 0x22,
    Cancel = 0x23,
    Ack = 0x24,
    OpenMessages = 0x30,
    Subscribe = 0x31,
    Unsubscribe = 0x32,
    Send = 0x33,
    Barrier = 0x34,
}

/// Types of the frames that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "named as the variants of ServerFrame, which are documented")]
pub enum ServerKind {
    Welcome = 0x81,
    Refused = 0x82,
    Response = 0x83,
    ResponseMessage = 0x84,
    PublisherReady = 0x90,
    Published = 0x91,
    StreamName = 0x92,
    RefusedMessage = 0x93,
    ConsumerReady = 0xa0,
    Deliver = 0xa1,
    Status = 0xa2,
    AckConfirmed = 0xa3,
    Gap = 0xa4,
    MessagesReady = 0xb0,
    Message = 0xb1,
    BarrierReached = 0xb2,
}

/// One frame: its type and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: u8,
    /// The body: a slice of the buffer it arrived in.
    pub body: Bytes,
}

/// Cuts the bytes of one direction of one stream into frames.
///
/// ```
/// use claudebus::wire::native::Decoder;
/// let mut decoder = Decoder::new(1024);
/// decoder.buffer().extend_from_slice(&[0x02, 0x23]);
/// assert_eq!(decoder.next_frame(), Ok(None));
/// decoder.buffer().extend_from_slice(&[0x07]);
/// let frame = decoder.next_frame().unwrap().unwrap();
/// assert_eq!((frame.kind, &frame.body[..]), (0x23, &[0x07][..]));
/// ```
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
    /// Bytes that the frame at the start of `buffer` needs in all, once its length is known.
    wanted: usize,
}

impl Decoder {
    /// A decoder that refuses frames longer than `limit` bytes (type and body).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit, wanted: 0 }
    }

    /// Where received bytes are appended. Frames are slices of what lies here.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Changes the limit for the frames that follow.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes still missing to complete the next frame, as far as is known; 0 if nothing is.
    /// Memory is to be reserved in bounded steps as bytes arrive, not by what a length claims.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.buffer.len())
    }

    /// The next complete frame, or nothing until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameError`] if the length exceeds the limit or is zero, before the body is awaited. The
    /// stream is beyond repair then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.len() < self.wanted {
            return Ok(None);
        }
        let Some((len, prefix)) = take_varint(&self.buffer) else {
            return Ok(None);
        };
        let limit = self.limit;
        if len > limit as u64 {
            return Err(FrameError::TooLarge { len, limit });
        }
        if len == 0 {
            return Err(FrameError::Empty);
        }
        // At most the limit, as was just checked.
        self.wanted = prefix + len as usize;
        if self.buffer.len() < self.wanted {
            return Ok(None);
        }
        let mut whole = self.buffer.split_to(self.wanted).freeze();
        self.wanted = 0;
        let kind = whole.get(prefix).copied().ok_or(FrameError::Empty)?;
        Ok(Some(Frame { kind, body: whole.split_off(prefix + 1) }))
    }

    /// To be called when the peer has finished its direction.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if a frame has begun and not ended.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_at_the_limit_passes_and_one_byte_more_does_not() {
        let mut decoder = Decoder::new(3);
        decoder.buffer().extend_from_slice(&[3, 0x23, 1, 2]);
        assert!(decoder.next_frame().expect("at the limit").is_some());
        decoder.buffer().extend_from_slice(&[4]);
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge { len: 4, limit: 3 }));
    }

    #[test]
    fn the_limit_is_checked_before_the_body_is_there() {
        let mut decoder = Decoder::new(1 << 20);
        decoder.buffer().extend_from_slice(&[0xff; 8]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn an_end_within_a_frame_is_seen() {
        let mut decoder = Decoder::new(100);
        decoder.buffer().extend_from_slice(&[3, 0x23]);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.missing(), 2);
        assert_eq!(decoder.finish(), Err(FrameError::Truncated));
    }

    #[test]
    fn a_frame_without_a_type_is_refused() {
        let mut decoder = Decoder::new(100);
        decoder.buffer().extend_from_slice(&[0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::Empty));
    }
}
