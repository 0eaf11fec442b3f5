//! Reads the fields of one frame's body, front to back.

use bytes::Bytes;

use super::error::FrameError;
use super::varint::take_varint;
use crate::model::error::ApiError;

/// The body of a frame, and how far it was read.
pub(super) struct Reader {
    body: Bytes,
    at: usize,
    frame: &'static str,
}

impl Reader {
    pub(super) fn new(body: Bytes, frame: &'static str) -> Self {
        Self { body, at: 0, frame }
    }

    pub(super) fn malformed(&self, what: &'static str) -> FrameError {
        FrameError::Malformed { frame: self.frame, what }
    }

    /// Where the next field starts, in bytes from the start of the body.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    pub(super) fn remaining(&self) -> usize {
        self.body.len() - self.at
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        let byte = *self.body.get(self.at).ok_or_else(|| self.malformed("it ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    /// A byte of flags, of which only those in `known` may be set.
    pub(super) fn flags(&mut self, known: u8) -> Result<u8, FrameError> {
        let flags = self.u8()?;
        if flags & !known != 0 {
            return Err(self.malformed("unknown flags are set"));
        }
        Ok(flags)
    }

    pub(super) fn varint(&mut self) -> Result<u64, FrameError> {
        let (value, len) = self
            .body
            .get(self.at..)
            .and_then(take_varint)
            .ok_or_else(|| self.malformed("it ends too early"))?;
        self.at += len;
        Ok(value)
    }

    /// A length, which cannot exceed what is left of the body.
    pub(super) fn len(&mut self) -> Result<usize, FrameError> {
        let value = self.varint()?;
        usize::try_from(value)
            .ok()
            .filter(|len| *len <= self.remaining())
            .ok_or_else(|| self.malformed("a length exceeds the frame"))
    }

    /// A count of things of at least `least` bytes each, which bounds it by what is left.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, FrameError> {
        let value = self.varint()?;
        usize::try_from(value)
            .ok()
            .filter(|count| *count <= self.remaining() / least)
            .ok_or_else(|| self.malformed("a count exceeds the frame"))
    }

    /// Skips `len` bytes, which must be there.
    pub(super) fn skip(&mut self, len: usize) -> Result<(), FrameError> {
        if len > self.remaining() {
            return Err(self.malformed("a length exceeds the frame"));
        }
        self.at += len;
        Ok(())
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<Bytes, FrameError> {
        let start = self.at;
        self.skip(len)?;
        Ok(self.body.slice(start..self.at))
    }

    /// A length and so many bytes.
    pub(super) fn field(&mut self) -> Result<Bytes, FrameError> {
        let len = self.len()?;
        self.bytes(len)
    }

    /// A length and so many bytes of UTF-8.
    pub(super) fn text(&mut self) -> Result<String, FrameError> {
        let bytes = self.field()?;
        String::from_utf8(bytes.into()).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    /// Code, exact code and text of an error.
    pub(super) fn error(&mut self) -> Result<ApiError, FrameError> {
        let code =
            u16::try_from(self.varint()?).map_err(|_| self.malformed("code out of range"))?;
        let err_code =
            u32::try_from(self.varint()?).map_err(|_| self.malformed("err_code out of range"))?;
        Ok(ApiError { code, err_code, description: self.text()?.into() })
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        let rest = self.body.slice(self.at..);
        self.at = self.body.len();
        rest
    }

    /// Ends the reading: nothing may be left.
    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.at == self.body.len() {
            Ok(())
        } else {
            Err(self.malformed("bytes are left over at its end"))
        }
    }
}
