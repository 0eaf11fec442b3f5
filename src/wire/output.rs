//! Bytes on their way out, whatever the protocol: small parts copied together, large ones kept as
//! slices. What the bytes mean is the codecs' part.

use bytes::{Bytes, BytesMut};

/// Shorter slices are copied: handing a slice to a socket costs more than copying so few bytes.
const COPY_BELOW: usize = 1024;

/// Memory for copies is had in pieces of about so many bytes. 64 KiB: a piece of several hundred would come from the
/// system and go back to it each time, page by page
/// (`docs/decisions/0010-a-server-starts-itself-with-an-allocator-that-lets-go.md`).
const PIECE: usize = 64 * 1024;

/// Room for the fields that come with a slice.
const FIELDS: usize = 64;

/// Encoded frames or lines, as chunks to be written one after the other.
#[derive(Debug, Default)]
pub struct Output {
    chunks: Vec<Bytes>,
    chunked: usize,
    tail: BytesMut,
    /// Where a body is put together before its length is known. Kept for its memory.
    scratch: BytesMut,
}

impl Output {
    /// An empty output.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes waiting to be written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunked + self.tail.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a slice, without a copy if it is long.
    pub fn put_shared(&mut self, data: &Bytes) {
        self.put_shared_from(data, 0);
    }

    /// Appends what `data` holds from byte `from` on, without a copy if that is long: nothing if
    /// `from` lies at its end or beyond.
    pub fn put_shared_from(&mut self, data: &Bytes, from: usize) {
        let Some(part) = data.get(from..) else { return };
        if part.len() < COPY_BELOW {
            self.make_room(part.len() + FIELDS);
            self.tail.extend_from_slice(part);
            return;
        }
        self.close_tail();
        self.chunked += part.len();
        self.chunks.push(data.slice(from..));
    }

    /// Makes room for `records` of these sizes and `rest` more bytes, or for a piece of that, so that a frame
    /// is not moved while it grows.
    pub(super) fn reserve(&mut self, records: impl Iterator<Item = usize>, rest: usize) {
        let copied: usize = records.filter(|len| *len < COPY_BELOW).sum();
        self.make_room((copied + rest).min(PIECE));
    }

    /// Goes on in a new piece where one is full, so that it is not moved to a larger one.
    fn make_room(&mut self, len: usize) {
        if self.tail.capacity() - self.tail.len() >= len {
            return;
        }
        if self.tail.len() >= PIECE / 2 {
            self.close_tail();
            self.tail = BytesMut::with_capacity(PIECE);
        }
        self.tail.reserve(len);
    }

    /// Takes all that waits, as chunks in order. None of them is empty.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.close_tail();
        self.chunked = 0;
        std::mem::take(&mut self.chunks)
    }

    /// Moves all that waits to the end of `chunks`.
    pub fn move_to(&mut self, chunks: &mut impl Extend<Bytes>) {
        self.close_tail();
        self.chunked = 0;
        chunks.extend(self.chunks.drain(..));
    }

    /// Where the next bytes are appended. What lies here already is not to be changed.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Memory for a body whose length must be known before it is appended. Whoever takes it puts it
    /// back.
    pub(super) fn scratch(&mut self) -> &mut BytesMut {
        &mut self.scratch
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunked += self.tail.len();
            self.chunks.push(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_slices_are_not_copied_and_order_is_kept() {
        let long = Bytes::from(vec![7; COPY_BELOW]);
        let short = Bytes::from(vec![8; COPY_BELOW - 1]);
        let mut output = Output::new();
        output.bytes().extend_from_slice(&[1]);
        output.put_shared(&short);
        output.put_shared(&long);
        output.bytes().extend_from_slice(&[2]);
        assert_eq!(output.len(), 2 + 2 * COPY_BELOW - 1);
        let chunks = output.take();
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[0].len(), COPY_BELOW);
        assert_eq!(chunks[1].as_ptr(), long.as_ptr());
        assert_eq!(&chunks[2][..], [2]);
        assert!(output.is_empty());
    }

    #[test]
    fn a_long_frame_of_short_slices_is_in_pieces_that_the_allocator_keeps() {
        let short = Bytes::from(vec![8; COPY_BELOW - 1]);
        let mut output = Output::new();
        output.put_shared(&short);
        output.reserve(std::iter::repeat_n(short.len(), 999), 999 * FIELDS);
        for _ in 0..999 {
            output.bytes().extend_from_slice(&[1; FIELDS]);
            output.put_shared(&short);
            assert!(output.bytes().capacity() <= 2 * PIECE, "{}", output.bytes().capacity());
        }
        let chunks = output.take();
        assert!(chunks.len() >= 8, "{}", chunks.len());
        let mut expected = short.to_vec();
        for _ in 0..999 {
            expected.extend_from_slice(&[1; FIELDS]);
            expected.extend_from_slice(&short);
        }
        assert!(chunks.concat() == expected);
    }

    #[test]
    fn the_rest_of_a_slice_is_shared_or_copied_by_its_own_length() {
        let data = Bytes::from((0..=255).cycle().take(COPY_BELOW + 1).collect::<Vec<u8>>());
        let mut output = Output::new();
        output.put_shared_from(&data, 1);
        output.put_shared_from(&data, 2);
        output.put_shared_from(&data, data.len());
        output.put_shared_from(&data, data.len() + 1);
        assert_eq!(output.len(), 2 * COPY_BELOW - 1);
        let chunks = output.take();
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[0].as_ptr(), data[1..].as_ptr());
        assert_ne!(chunks[1].as_ptr(), data[2..].as_ptr());
        assert_eq!(chunks[1], data[2..]);
    }
}
