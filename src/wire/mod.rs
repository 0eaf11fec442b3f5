//! Codecs: bytes to frames or operations and back. No I/O, and no knowledge of what a frame leads to.

pub mod native;
pub mod nats;
mod output;

pub use output::Output;
