//! The durable log beneath claudebus.
//!
//! Without features this crate is the vocabulary of the log: identifiers, the layout of a record,
//! subject matching, and the [`Log`] trait that the broker is written against. All of it is pure:
//! no clock, no file, no thread. `MemoryLog` implements the trait in memory and is the naive model
//! that the real engine is tested against.
//!
//! The feature `engine` adds the real thing: a journal that is synced before anything is
//! acknowledged, a tail in memory, segment files, and sled as their disposable index.
//!
//! It does not know what a consumer, a de-duplication window or a dead letter is: those are keyed
//! state to it, whose bytes only the broker understands.

#[cfg(feature = "engine")]
pub mod disk;
pub mod ids;
#[cfg(feature = "engine")]
pub mod index;
pub mod log;
pub mod memory;
pub mod record;
#[cfg(feature = "engine")]
pub mod segment;
pub mod subject;

pub use ids::{Fingerprint, Position, ReadId, StreamId, SubjectId};
pub use log::{Log, LogEvent, LogFailure, Pressure};
pub use memory::MemoryLog;
pub use record::{NewRecord, Record};
