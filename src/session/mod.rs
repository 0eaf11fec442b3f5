//! Sessions: the state that a protocol has with one peer. Frames become requests to the broker, the
//! broker's events become frames.
//!
//! Pure: the shell gives frames and events, and takes requests and bytes. Nothing here reads a
//! socket, keeps time or starts anything.

pub mod api;
mod fields;
pub mod native;
pub mod nats;
