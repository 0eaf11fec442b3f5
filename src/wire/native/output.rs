//! Frames on their way out: small parts copied together, large ones kept as slices.

use bytes::{BufMut, Bytes, BytesMut};

use super::varint::{put_varint, varint_len};
use crate::model::error::ApiError;

/// Shorter slices are copied: handing a slice to a socket costs more than copying so few bytes.
const COPY_BELOW: usize = 1024;

/// Encoded frames, as chunks to be written one after the other.
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
        if data.len() < COPY_BELOW {
            self.tail.extend_from_slice(data);
            return;
        }
        self.close_tail();
        self.chunked += data.len();
        self.chunks.push(data.clone());
    }

    /// Makes room for `records` of these sizes and `rest` more bytes, so that a long frame is not moved
    /// while it grows.
    pub(super) fn reserve(&mut self, records: impl Iterator<Item = usize>, rest: usize) {
        let copied: usize = records.filter(|len| *len < COPY_BELOW).sum();
        self.tail.reserve(copied + rest);
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

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunked += self.tail.len();
            self.chunks.push(self.tail.split().freeze());
        }
    }

    /// Appends a frame: what `write` puts into the body, and then the slices of `rest`.
    pub(super) fn frame(&mut self, kind: u8, rest: &[&Bytes], write: impl FnOnce(&mut Fields<'_>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write(&mut Fields(&mut scratch));
        let len = scratch.len() + rest.iter().map(|part| part.len()).sum::<usize>();
        self.head(kind, len);
        self.tail.extend_from_slice(&scratch);
        self.scratch = scratch;
        for part in rest {
            self.put_shared(part);
        }
    }

    /// Starts a frame whose body will have `len` bytes, put by [`fields`](Self::fields) and
    /// [`put_shared`](Self::put_shared).
    pub(super) fn head(&mut self, kind: u8, len: usize) {
        put_varint(&mut self.tail, len as u64 + 1);
        self.tail.put_u8(kind);
    }

    /// Where the next fields of a started frame go.
    pub(super) fn fields(&mut self) -> Fields<'_> {
        Fields(&mut self.tail)
    }
}

/// Appends fields to a body.
pub(super) struct Fields<'a>(&'a mut BytesMut);

impl Fields<'_> {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.put_u8(value);
        self
    }

    pub(super) fn varint(&mut self, value: u64) -> &mut Self {
        put_varint(self.0, value);
        self
    }

    pub(super) fn len(&mut self, len: usize) -> &mut Self {
        self.varint(len as u64)
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A length and the bytes.
    pub(super) fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.len(bytes.len()).raw(bytes)
    }

    /// Code, exact code and text of an error.
    pub(super) fn error(&mut self, error: &ApiError) -> &mut Self {
        self.varint(error.code.into())
            .varint(error.err_code.into())
            .field(error.description.as_bytes())
    }
}

/// Bytes that integers take together.
pub(super) fn varints_len<const N: usize>(values: [u64; N]) -> usize {
    values.into_iter().map(varint_len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_slices_are_not_copied_and_order_is_kept() {
        let long = Bytes::from(vec![7; COPY_BELOW]);
        let short = Bytes::from(vec![8; COPY_BELOW - 1]);
        let mut output = Output::new();
        output.fields().u8(1);
        output.put_shared(&short);
        output.put_shared(&long);
        output.fields().u8(2);
        assert_eq!(output.len(), 2 + 2 * COPY_BELOW - 1);
        let chunks = output.take();
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[0].len(), COPY_BELOW);
        assert_eq!(chunks[1].as_ptr(), long.as_ptr());
        assert_eq!(&chunks[2][..], [2]);
        assert!(output.is_empty());
    }
}
