//! A stored message: what is appended, what is read, and how its size is counted.

use bytes::Bytes;

use crate::ids::Fingerprint;

/// A record to append, borrowed from the buffer it arrived in. The log copies it into its group.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// Where it was published. Without wildcards; at most 65,535 bytes.
    pub subject: &'a str,
    /// The header block exactly as it is delivered (`NATS/1.0\r\n…\r\n\r\n`), or empty.
    pub headers: &'a [u8],
    /// The message body.
    pub payload: &'a [u8],
    /// Stream time, in nanoseconds since the Unix epoch; never less than the previous record's.
    pub time: u64,
    /// When the record expires by itself (message TTL), in nanoseconds since the Unix epoch.
    pub expires: Option<u64>,
    /// The message id to remember, and until when (nanoseconds since the Unix epoch).
    pub message_id: Option<(Fingerprint, u64)>,
}

/// A record as it was stored. Cloning it copies no message bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its sequence in the stream, from 1.
    pub seq: u64,
    /// Stream time, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// When it expires by itself, in nanoseconds since the Unix epoch.
    pub expires: Option<u64>,
    /// Subject, headers and payload, one after the other: a slice of the buffer that was written
    /// or read, so that a record can go back to a socket without a copy.
    data: Bytes,
    subject_len: u16,
    headers_len: u32,
}

impl Record {
    /// Makes a record of `data` = subject, headers, payload.
    ///
    /// Returns `None` if the lengths do not fit `data`, or if the subject is not UTF-8.
    #[must_use]
    pub fn new(
        seq: u64,
        time: u64,
        expires: Option<u64>,
        data: Bytes,
        subject_len: u16,
        headers_len: u32,
    ) -> Option<Self> {
        let body = data.get(usize::from(subject_len)..)?;
        if body.len() < headers_len as usize {
            return None;
        }
        std::str::from_utf8(data.get(..usize::from(subject_len))?).ok()?;
        Some(Self { seq, time, expires, data, subject_len, headers_len })
    }

    /// Copies a new record. For logs that keep no buffers of their own, and for tests.
    #[must_use]
    pub fn copy_of(seq: u64, record: &NewRecord<'_>) -> Self {
        let mut data =
            Vec::with_capacity(record.subject.len() + record.headers.len() + record.payload.len());
        data.extend_from_slice(record.subject.as_bytes());
        data.extend_from_slice(record.headers);
        data.extend_from_slice(record.payload);
        Self {
            seq,
            time: record.time,
            expires: record.expires,
            data: Bytes::from(data),
            subject_len: u16::try_from(record.subject.len()).unwrap_or(u16::MAX),
            headers_len: u32::try_from(record.headers.len()).unwrap_or(u32::MAX),
        }
    }

    /// The subject it was published to.
    #[must_use]
    pub fn subject(&self) -> &str {
        // `new` checked that these bytes are UTF-8; a copy starts from a `str`.
        self.data
            .get(..usize::from(self.subject_len))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// The header block, or nothing.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        let start = usize::from(self.subject_len);
        self.data.get(start..start + self.headers_len as usize).unwrap_or_default()
    }

    /// The message body.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.data.get(self.payload_start()..).unwrap_or_default()
    }

    /// The message body as a slice of the shared buffer.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.data.slice(self.payload_start()..)
    }

    /// The header block as a slice of the shared buffer.
    #[must_use]
    pub fn headers_bytes(&self) -> Bytes {
        self.data.slice(usize::from(self.subject_len)..self.payload_start())
    }

    /// Subject, headers and payload, one after the other.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Copies the bytes, so that they keep no larger buffer in memory.
    pub fn unshare(&mut self) {
        self.data = Bytes::copy_from_slice(&self.data);
    }

    /// Length of the subject at the start of [`data`](Self::data), in bytes.
    #[must_use]
    pub fn subject_len(&self) -> usize {
        usize::from(self.subject_len)
    }

    /// Length of the header block after the subject, in bytes.
    #[must_use]
    pub fn headers_len(&self) -> usize {
        self.headers_len as usize
    }

    /// What it counts towards `max_bytes` of a stream of this kind.
    #[must_use]
    pub fn size(&self, storage: StorageKind) -> u64 {
        storage.size(self.subject_len(), self.headers_len(), self.data.len() - self.payload_start())
    }

    fn payload_start(&self) -> usize {
        usize::from(self.subject_len) + self.headers_len as usize
    }
}

/// Where a stream's records live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageKind {
    /// In the journal and segment files.
    #[default]
    File,
    /// In memory only: gone when the server stops.
    Memory,
}

impl StorageKind {
    /// The size of a message as JetStream counts it, so that `max_bytes` and the `bytes` of a
    /// stream's state mean what its users know (nats-server, `fileStoreMsgSize` and
    /// `memStoreMsgSize`). All lengths in bytes.
    #[must_use]
    pub fn size(self, subject: usize, headers: usize, payload: usize) -> u64 {
        let bytes = match self {
            Self::File if headers == 0 => 22 + subject + payload + 8,
            Self::File => 22 + subject + 4 + headers + payload + 8,
            Self::Memory => subject + headers + payload + 16,
        };
        bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> NewRecord<'static> {
        NewRecord {
            subject: "a.b",
            headers: b"NATS/1.0\r\n\r\n",
            payload: b"hello",
            time: 7,
            expires: None,
            message_id: None,
        }
    }

    #[test]
    fn parts_come_back() {
        let record = Record::copy_of(3, &sample());
        assert_eq!(record.subject(), "a.b");
        assert_eq!(record.headers(), b"NATS/1.0\r\n\r\n");
        assert_eq!(record.payload(), b"hello");
        assert_eq!(record.payload_bytes(), Bytes::from_static(b"hello"));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let data = Bytes::from_static(b"abc");
        assert!(Record::new(1, 0, None, data.clone(), 4, 0).is_none());
        assert!(Record::new(1, 0, None, data.clone(), 1, 3).is_none());
        assert!(Record::new(1, 0, None, data, 1, 2).is_some());
        assert!(Record::new(1, 0, None, Bytes::from_static(&[0xff]), 1, 0).is_none());
    }

    #[test]
    fn sizes_are_jetstreams() {
        assert_eq!(StorageKind::File.size(3, 0, 5), 38);
        assert_eq!(StorageKind::File.size(3, 12, 5), 54);
        assert_eq!(StorageKind::Memory.size(3, 12, 5), 36);
    }
}
