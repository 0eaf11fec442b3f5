//! What can go wrong, by operation. Each text says what to do next.

use std::time::Duration;

use super::address::AddressError;
use super::local::LocalError;
use super::tls::{FingerprintError, TrustError};
use crate::model::error::ApiError;

/// Connecting failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The fingerprint is not one.
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    /// The file that a local server leaves cannot be read.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// Certificates or TLS settings.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Nothing tells which server to believe.
    #[error(
        "no certificate authority known for {address}: no server of this machine has that address; give ca_file (the ca.pem of its data directory) or its certificate's fingerprint"
    )]
    NoTrust {
        /// The server.
        address: String,
    },
    /// The name leads nowhere.
    #[error("cannot resolve {address}: {reason}; check the host name")]
    Resolve {
        /// The server.
        address: String,
        /// Why.
        reason: String,
    },
    /// No socket.
    #[error("cannot open a UDP socket towards {address}: {source}")]
    Socket {
        /// The server.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// No answer in time.
    #[error(
        "no answer from {address} within {after:?}; check that the server runs and that UDP reaches it"
    )]
    Timeout {
        /// The server.
        address: String,
        /// The limit.
        after: Duration,
    },
    /// QUIC or TLS failed.
    #[error("cannot connect to {address}: {reason}")]
    Handshake {
        /// The server.
        address: String,
        /// Why.
        reason: String,
    },
    /// The server said no.
    #[error("{address} refused the connection: {reason}; check the token")]
    Refused {
        /// The server.
        address: String,
        /// The server's words.
        reason: String,
    },
    /// The peer does not keep to the protocol.
    #[error("{address} does not speak this version of the protocol: {reason}")]
    Protocol {
        /// The server.
        address: String,
        /// What it did.
        reason: String,
    },
    /// The client was closed meanwhile.
    #[error("the client was closed; connect anew")]
    Closed,
}

impl ConnectError {
    /// Whether trying again may help without changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Handshake { .. }
                | Self::Resolve { .. }
                | Self::Socket { .. }
                | Self::Protocol { .. }
        )
    }
}

/// A request about streams, consumers or messages failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The server answered with an error.
    #[error("{operation}: {error}")]
    Api {
        /// What was asked, such as `STREAM.INFO.ORDERS`.
        operation: String,
        /// The server's answer.
        error: ApiError,
    },
    /// The connection broke before the answer came; whether the server did it is not known.
    #[error(
        "{operation}: the connection broke before the answer came, so it may or may not have been done; look, then ask again"
    )]
    Disconnected {
        /// What was asked.
        operation: String,
    },
    /// No answer in time.
    #[error(
        "{operation}: no answer within {after:?}; the server is busy or unreachable, ask again"
    )]
    Timeout {
        /// What was asked.
        operation: String,
        /// The limit.
        after: Duration,
    },
    /// The answer was not what the operation answers.
    #[error(
        "{operation}: the server's answer is not understood: {reason}; are both of one version?"
    )]
    Answer {
        /// What was asked.
        operation: String,
        /// What is wrong.
        reason: String,
    },
    /// A name that cannot be one.
    #[error(
        "\"{name}\" cannot name a {what}: no spaces, dots, wildcards or slashes, and 1 to 255 bytes"
    )]
    Name {
        /// `stream` or `consumer`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A header of a message in a batch that cannot be one.
    #[error(
        "header \"{0}\": keys are visible ASCII without a colon, values hold no line breaks or control characters"
    )]
    Header(String),
    /// More than fits one frame.
    #[error(
        "{operation}: the request has {size} bytes and the server takes at most {limit}; ask for less at a time"
    )]
    TooLarge {
        /// What was asked.
        operation: String,
        /// Its length as it would be sent, in bytes.
        size: usize,
        /// The server's limit in bytes.
        limit: usize,
    },
    /// More requests wait than may.
    #[error("{operation}: {limit} requests are waiting already; wait for some to be answered")]
    Busy {
        /// What was asked.
        operation: String,
        /// The limit.
        limit: usize,
    },
    /// The client was closed.
    #[error("{operation}: the client was closed; connect anew")]
    Closed {
        /// What was asked.
        operation: String,
    },
}

impl RequestError {
    /// The server's error, if it was the server that said no.
    #[must_use]
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether the server said that the stream, consumer or message does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(|error| error.code == 404)
    }

    /// Whether asking again may help without changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Disconnected { .. } | Self::Timeout { .. } | Self::Busy { .. } => true,
            Self::Api { error, .. } => error.code == 503,
            _ => false,
        }
    }
}

/// Publishing a message failed: it is not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The subject cannot be published to.
    #[error(
        "\"{0}\" is not a subject that can be published to; tokens are separated by single dots and hold no spaces or wildcards"
    )]
    Subject(String),
    /// A header has characters that it cannot have.
    #[error(
        "header \"{0}\": keys are visible ASCII without a colon, values hold no line breaks or control characters"
    )]
    Header(String),
    /// Too large for this server.
    #[error(
        "the message has {size} bytes and the server takes at most {limit}; split it or raise max_payload"
    )]
    TooLarge {
        /// Headers and payload, in bytes.
        size: usize,
        /// The server's limit, in bytes.
        limit: usize,
    },
    /// The server refused the message.
    #[error("the server refused the message: {0}")]
    Refused(ApiError),
    /// The client was closed before the message was acknowledged; it may or may not be stored.
    #[error(
        "the client was closed before the server acknowledged the message, so it may or may not be stored; use Client::close to wait for all"
    )]
    Closed,
}

/// Receiving messages from a consumer failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The server ended the pull.
    #[error("consumer {consumer}: {text} ({code})")]
    Status {
        /// The consumer.
        consumer: String,
        /// 400, 404, 408, 409 or 503.
        code: u16,
        /// The server's words.
        text: String,
    },
    /// The server refused to open the consumer, or it is gone.
    #[error("consumer {consumer}: {error}")]
    Refused {
        /// The consumer.
        consumer: String,
        /// The server's answer.
        error: ApiError,
    },
    /// The client was closed.
    #[error("consumer {consumer}: the client was closed; connect anew")]
    Closed {
        /// The consumer.
        consumer: String,
    },
}

/// Acknowledging a message failed. It is delivered again when its time is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The server refused it.
    #[error("the server refused the acknowledgement: {0}")]
    Refused(ApiError),
    /// The client was closed before it was sent or confirmed.
    #[error(
        "the client was closed before the acknowledgement was sent; the message will be delivered again"
    )]
    Closed,
}

/// Subscribing, sending or asking failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The subject cannot be sent or subscribed to.
    #[error(
        "\"{0}\" is not a subject for this; tokens are separated by single dots and hold no spaces, and only subscriptions take wildcards"
    )]
    Subject(String),
    /// A header has characters that it cannot have.
    #[error(
        "header \"{0}\": keys are visible ASCII without a colon, values hold no line breaks or control characters"
    )]
    Header(String),
    /// Too large for this server.
    #[error("the message has {size} bytes and the server takes at most {limit}; split it")]
    TooLarge {
        /// Headers and payload, in bytes.
        size: usize,
        /// The server's limit, in bytes.
        limit: usize,
    },
    /// The received message names no subject for an answer.
    #[error("the message on \"{0}\" expects no answer: it was not sent as a request")]
    NoReply(String),
    /// Nobody listens.
    #[error("nobody is subscribed to \"{0}\"; start the service that answers there")]
    NoResponders(String),
    /// No answer in time.
    #[error("no answer on \"{subject}\" within {after:?}")]
    Timeout {
        /// Where the request went.
        subject: String,
        /// The limit.
        after: Duration,
    },
    /// The server refused it.
    #[error("the server refused it: {0}")]
    Refused(ApiError),
    /// The client was closed.
    #[error("the client was closed; connect anew")]
    Closed,
}
