//! What can be wrong with the bytes of a stream, and the codes that QUIC closes with.

/// Why a stream or connection is closed, as QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Nothing is wrong: the work is done.
    Done = 0x00,
    /// A frame is malformed, of unknown type, or has bytes left over.
    Malformed = 0x01,
    /// A frame is longer than the limit.
    TooLarge = 0x02,
    /// A frame that may not come here.
    Unexpected = 0x03,
    /// The client is not who it must be, or no credential was given where one is needed.
    Refused = 0x04,
    /// The connection did not say HELLO in time.
    HelloTimeout = 0x05,
    /// The peer does not read what it asked for.
    TooSlow = 0x06,
    /// The server stops.
    Shutdown = 0x07,
    /// A limit of the server is reached.
    Limit = 0x08,
    /// The server failed.
    Internal = 0x09,
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The name in `docs/protocol.md`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "DONE",
            Self::Malformed => "MALFORMED",
            Self::TooLarge => "TOO_LARGE",
            Self::Unexpected => "UNEXPECTED",
            Self::Refused => "REFUSED",
            Self::HelloTimeout => "HELLO_TIMEOUT",
            Self::TooSlow => "TOO_SLOW",
            Self::Shutdown => "SHUTDOWN",
            Self::Limit => "LIMIT",
            Self::Internal => "INTERNAL",
        }
    }

    /// The code of this number, if there is one.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        [
            Self::Done,
            Self::Malformed,
            Self::TooLarge,
            Self::Unexpected,
            Self::Refused,
            Self::HelloTimeout,
            Self::TooSlow,
            Self::Shutdown,
            Self::Limit,
            Self::Internal,
        ]
        .into_iter()
        .find(|code| u64::from(code.number()) == number)
    }
}

/// The peer broke the protocol. There is no way on: the stream is closed with [`Self::code`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length before a frame exceeds the limit.
    #[error("a frame of {len} bytes exceeds the limit of {limit} bytes; send smaller batches")]
    TooLarge {
        /// What the frame claims, in bytes.
        len: u64,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// A type that the protocol version does not have.
    #[error("unknown frame type 0x{0:02x}; the peer speaks another protocol or version")]
    UnknownType(u8),
    /// A frame without even a type.
    #[error("a frame of zero bytes; each frame has at least its type")]
    Empty,
    /// A field is missing, out of range or not text.
    #[error("malformed {frame} frame: {what}")]
    Malformed {
        /// The frame's name.
        frame: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A body that is not the JSON it must be.
    #[error("malformed {frame} frame: {reason}")]
    Json {
        /// The frame's name.
        frame: &'static str,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// The stream ended within a frame.
    #[error("the stream ended in the middle of a frame")]
    Truncated,
    /// The frame may not come at this point of the stream.
    #[error("{frame} may not come here: {rule}")]
    Unexpected {
        /// The frame's name.
        frame: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
}

impl FrameError {
    /// The code to close the stream with.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Unexpected { .. } => ErrorCode::Unexpected,
            _ => ErrorCode::Malformed,
        }
    }
}
