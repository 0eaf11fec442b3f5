//! Why a server does not start, and why it stops by itself.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use claudebus_storage::copies::PairError;
use claudebus_storage::{LogFailure, OpenError, RealDiskError};

use super::ready::ReadyError;
use crate::broker::RestoreError;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address that others can reach, and nothing that says who may.
    #[error(
        "{0} can be reached from other machines, and anybody there could read and write; configure \
         an authentication token or users first, or listen on 127.0.0.1"
    )]
    Unprotected(SocketAddr),
    /// A listener's address cannot be used.
    #[error("cannot listen on {address} for {what}: {source}; is another server running there?")]
    Bind {
        /// `QUIC`, `NATS`, `WebSocket` or `HTTP`.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] RealDiskError),
    /// The second copies of files cannot be kept where they should be.
    #[error("cannot keep two copies of each file: {0}")]
    Copies(PairError),
    /// The log cannot be opened.
    #[error("cannot open the log: {0}")]
    Open(#[from] OpenError),
    /// The log's state makes no sense to the broker.
    #[error("cannot restore the broker's state: {0}")]
    Restore(#[from] RestoreError),
    /// Certificates cannot be made or used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The ready file cannot be written.
    #[error(transparent)]
    Ready(#[from] ReadyError),
    /// The broker's thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The broker's thread ended before it began.
    #[error("the broker ended while starting")]
    Gone,
}

/// Certificates and keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file does not hold what it must.
    #[error("{} is damaged: {reason}; delete the folder to have new certificates made, which clients must then trust", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of the configuration does not hold what it must.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The server's own certificate is asked for where it has none.
    #[error("the server has no certificate of its own to show")]
    NoIdentity,
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The TLS library refuses the certificate.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
    /// No cipher that QUIC can begin with.
    #[error("cannot set up TLS: {0}")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Why a running server had to stop. Nothing that was acknowledged is lost.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServerFailure {
    /// The journal failed: the process must end (exit code 74).
    #[error(transparent)]
    Log(#[from] LogFailure),
    /// The broker's thread panicked: the process must end (exit code 70).
    #[error(
        "the broker failed: {0}. This is a defect of the program; nothing acknowledged is lost"
    )]
    Panic(String),
}

impl ServerFailure {
    /// The exit code of the program, of those in `sysexits.h`: 74 for input and output, 70 for a
    /// defect.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Log(_) => 74,
            Self::Panic(_) => 70,
        }
    }
}
