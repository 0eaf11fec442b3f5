//! Codecs: bytes to frames and back. No I/O, and no knowledge of what a frame leads to.

pub mod native;
