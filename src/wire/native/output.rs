//! Frames on their way out: how `claudebus/1` puts lengths, types and fields into an [`Output`].

use bytes::{BufMut, Bytes, BytesMut};

use super::varint::{put_varint, varint_len};
use crate::model::error::ApiError;
pub(super) use crate::wire::Output;

impl Output {
    /// Appends a frame: what `write` puts into the body, and then the slices of `rest`.
    pub(super) fn frame(&mut self, kind: u8, rest: &[&Bytes], write: impl FnOnce(&mut Fields<'_>)) {
        let mut scratch = std::mem::take(self.scratch());
        scratch.clear();
        write(&mut Fields(&mut scratch));
        let len = scratch.len() + rest.iter().map(|part| part.len()).sum::<usize>();
        self.head(kind, len);
        self.bytes().extend_from_slice(&scratch);
        *self.scratch() = scratch;
        for part in rest {
            self.put_shared(part);
        }
    }

    /// Starts a frame whose body will have `len` bytes, put by [`fields`](Self::fields) and
    /// [`put_shared`](Self::put_shared).
    pub(super) fn head(&mut self, kind: u8, len: usize) {
        let tail = self.bytes();
        put_varint(tail, len as u64 + 1);
        tail.put_u8(kind);
    }

    /// Where the next fields of a started frame go.
    pub(super) fn fields(&mut self) -> Fields<'_> {
        Fields(self.bytes())
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
