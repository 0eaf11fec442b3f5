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
mod codec;
#[cfg(feature = "engine")]
pub mod copies;
#[cfg(feature = "engine")]
mod crash;
#[cfg(feature = "engine")]
pub mod disk;
#[cfg(feature = "engine")]
pub mod engine;
pub mod ids;
#[cfg(feature = "engine")]
mod ids_file;
#[cfg(feature = "engine")]
pub mod index;
#[cfg(feature = "engine")]
pub mod journal;
#[cfg(feature = "engine")]
mod keyed;
pub mod log;
#[cfg(feature = "engine")]
mod manifest;
pub mod memory;
pub mod prefetch;
pub mod record;
#[cfg(feature = "engine")]
pub mod segment;
#[cfg(feature = "engine")]
mod sketch;
#[cfg(feature = "engine")]
mod state;
#[cfg(feature = "engine")]
mod stream;
pub mod subject;
#[cfg(feature = "engine")]
mod subjects;
#[cfg(feature = "engine")]
mod tail;
#[cfg(feature = "engine")]
pub mod verify;
#[cfg(feature = "engine")]
mod window;

#[cfg(feature = "engine")]
pub use crash::CrashPoints;
#[cfg(feature = "engine")]
pub use disk::{Disk, DiskFile, RealDisk, RealDiskError, SimulatedDisk, TwinDisk};
#[cfg(feature = "engine")]
pub use engine::{
    Engine, EngineOptions, EngineStats, InlineWorkers, LoneWriter, OpenError, RecoveryReport,
    Waker, Workers,
};
pub use ids::{Fingerprint, Position, ReadId, StreamId, SubjectId};
#[cfg(feature = "engine")]
pub use journal::Durability;
pub use log::{Log, LogEvent, LogFailure, Pressure};
pub use memory::MemoryLog;
pub use record::{NewRecord, Record};
