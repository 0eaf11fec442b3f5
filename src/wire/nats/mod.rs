//! The codec of the NATS text protocol, as nats-server speaks it with clients.
//!
//! [`Decoder`] cuts what a client sent into [`Operation`]s, in whatever pieces it arrives; the
//! functions of [`mod@line`] append what a server sends to an [`Output`](crate::wire::Output). Where the
//! protocol's description is silent, the decoder does what nats-server 2.15.1 was seen to do.
//!
//! It knows no subjects' rules, no credentials and no streams: whether a subject is valid, who may
//! connect and what an operation leads to is the session's part.

mod connect;
mod control_line;
mod decoder;
mod error;
mod info;
pub mod line;
mod operation;
mod publish;
#[cfg(test)]
mod tests;

pub use connect::Connect;
pub use decoder::Decoder;
pub use error::ProtocolError;
pub use info::Info;
pub use operation::Operation;
