//! The shell: sockets, TLS, the clock and threads around the broker.
//!
//! It moves bytes and time. Connection tasks run sessions; one thread owns the broker and takes
//! batches of requests from them. What a frame or a request means is decided elsewhere.

mod accept;
mod attachment;
mod broker_thread;
mod builder;
mod busy_wait;
mod clock;
mod connection;
mod counters;
mod disk;
mod error;
mod hosts;
mod http;
mod http_listener;
mod limits;
mod login;
mod monitor;
mod nats;
mod quic;
mod ready;
mod running;
mod start;
mod stream;
mod tls;
mod verify;

pub use builder::{Server, ServerBuilder};
pub use error::{ServerFailure, StartError, TlsError};
pub use limits::ServerLimits;
pub use login::{Credential, KeyError, Password, PasswordError, PublicKey, User};
pub use nats::{ClientCertificates, HandshakeFirst, NatsCertificate, NatsTls};
pub use ready::{Ready, ReadyError};
pub use running::{RunningServer, Stopped};
pub use verify::{Verification, VerifyError, verify_directory};
