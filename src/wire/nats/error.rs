//! What can be wrong with what a client sent, and what it is told before the connection is closed.

/// The client broke the protocol. There is no way on: the connection is closed, after
/// [`wire_text`](Self::wire_text) if there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A verb that clients do not send, or a payload without `\r\n` at its end.
    #[error(
        "neither an operation nor the end of a payload; the peer speaks another protocol, or \
         counted a payload wrong"
    )]
    UnknownOperation,
    /// An operation's arguments are not what it takes.
    #[error("malformed {0}")]
    Parse(&'static str),
    /// The arguments of an operation are too long.
    #[error("the arguments of an operation exceed {limit} bytes; use shorter subjects and names")]
    ControlLine {
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// A message is too large, headers included.
    #[error("a message of {size} bytes exceeds the limit of {limit} bytes; send smaller messages")]
    MaximumPayload {
        /// What the operation claims, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// HPUB without `"headers":true` in CONNECT.
    #[error("HPUB from a client that did not announce headers; set headers in CONNECT")]
    HeadersNotAllowed,
    /// The options of CONNECT are not the JSON they must be.
    #[error("malformed CONNECT: {0}")]
    Connect(String),
    /// A subject, queue group or subscription id is not UTF-8.
    #[error("a subject, queue group or subscription id is not UTF-8")]
    NotText,
}

impl ProtocolError {
    /// The text of the `-ERR` that precedes the end of the connection. nats-server closes without a
    /// word after wrong arguments, after a CONNECT that is not JSON, and after headers that were not
    /// announced (seen of 2.15.1); so does this server, and then there is none.
    #[must_use]
    pub fn wire_text(&self) -> Option<&'static str> {
        match self {
            Self::UnknownOperation | Self::NotText => Some("Unknown Protocol Operation"),
            Self::ControlLine { .. } => Some("maximum control line exceeded"),
            Self::MaximumPayload { .. } => Some("Maximum Payload Violation"),
            Self::Parse(_) | Self::HeadersNotAllowed | Self::Connect(_) => None,
        }
    }
}
