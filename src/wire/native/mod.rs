//! The codec of `claudebus/1`, the protocol over QUIC that `docs/protocol.md` describes.
//!
//! [`Decoder`] cuts the bytes of one stream into frames, whatever pieces they arrive in;
//! [`ClientFrame`] and [`ServerFrame`] give them meaning; [`Output`] collects frames on their way
//! out. Which frame may follow which is the session's part.

mod client_frame;
mod consumer;
mod control;
mod error;
mod frame;
mod messages;
mod output;
mod publisher;
mod reader;
mod server_frame;
#[cfg(test)]
mod tests;
mod varint;

pub use client_frame::ClientFrame;
pub use consumer::{DELIVER_OVERHEAD, PullFrame, StatusFrame, strip};
pub use control::{DirectMessage, Hello, Welcome, WireLimits};
pub use error::{ErrorCode, FrameError};
pub use frame::{Decoder, FRAME_OVERHEAD, Frame, ServerKind};
pub use messages::{MessagesWriter, Numbered};
pub use publisher::{MAX_STORED_RANGES, StoredRange};
pub use server_frame::ServerFrame;
pub use varint::{VARINT_MAX, put_varint, take_varint, varint_len};

pub use super::Output;

/// The protocol's name in the TLS handshake (ALPN).
pub const ALPN: &[u8] = b"claudebus/1";

/// The newest minor version this program speaks. Both sides use the smaller of theirs.
pub const MINOR: u32 = 0;
