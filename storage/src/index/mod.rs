//! The index of segment files, in sled: where blocks lie and which subjects stand in them, without
//! reading the files' own tables.
//!
//! The index is never the only copy of anything. It knows what segments tell it and may know
//! nothing; a reader whom it cannot answer reads the segment's tables. So it is written in the
//! background, after the segments are durable, and thrown away on the first doubt: when it was not
//! closed cleanly, when one of its files changed since, when sled returns an error or panics. It is
//! then built again from the segments' tables, never from their records.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::ids::StreamId;
use crate::segment::{BlockEntry, BlockLocator, Segment, SegmentError, SegmentId};

mod mark;
mod trees;

use trees::Trees;
pub use trees::{RECORDS_PER_SUBJECT_MIN, SLED_CACHE_BYTES};

/// The directory of the index, below the data directory.
pub(crate) const DIR: &str = "index";

/// Whether the files below `directory` are what the last clean close left, if it left a mark.
/// Changes nothing.
pub(crate) fn is_vouched_for(directory: &Path) -> io::Result<bool> {
    mark::is_true(directory)
}

/// Why the index could not be brought up to date. Reads go on without it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// sled failed. The index was thrown away and is built again by the next update.
    #[error("the index failed and was thrown away, it will be built again: {reason}")]
    Failed {
        /// What sled said.
        reason: String,
    },
    /// Its directory cannot be used.
    #[error("cannot use {}: {reason}; the index is not used until this is mended", .path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A segment's tables, which the index is built from, cannot be read.
    #[error("the index leaves out {segment}: {reason}")]
    Segment {
        /// The segment.
        segment: SegmentId,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a step ended.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("a value that no version writes")]
    Nonsense,
    /// Not the index's fault.
    #[error("{0}: {1}")]
    Segment(SegmentId, String),
}

impl From<(SegmentId, SegmentError)> for Fault {
    fn from((segment, error): (SegmentId, SegmentError)) -> Self {
        Self::Segment(segment, error.to_string())
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// Segments added.
    pub added: usize,
    /// Segments removed.
    pub removed: usize,
    /// Whether the index now agrees with the list it was given; false if it was told to stop.
    pub complete: bool,
}

/// The index of one data directory. Answers from any thread; one thread updates it.
pub struct Index {
    root: PathBuf,
    trees: RwLock<Option<Arc<Trees>>>,
    /// Held by who updates, closes or throws away.
    changing: Mutex<()>,
}

impl Index {
    /// The index under `root`, the data directory. Touches no file: until the first
    /// [`update`](Self::update) it knows nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), trees: RwLock::new(None), changing: Mutex::new(()) }
    }

    /// Makes the index agree with the list of `segments`: opens it if it is not open, removes what
    /// is no longer listed, adds what is missing. Only what is missing is asked of `open`, so that a
    /// checkpoint costs what it added, not what there is; what that cannot open is left out. For the
    /// background thread, at start-up and after each checkpoint. Stops between two segments, or within a
    /// large one, once `stop` says so; the next call goes on from there. Readers are never blocked.
    ///
    /// # Errors
    /// [`IndexError`]; the next call tries again, from nothing if need be.
    pub fn update(
        &self,
        segments: &[SegmentId],
        open: &dyn Fn(SegmentId) -> Option<Arc<Segment>>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Updated, IndexError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let trees = match self.current() {
            Some(trees) => trees,
            None => self.open()?,
        };
        let result = catch_unwind(AssertUnwindSafe(|| trees.update(segments, open, stop)));
        drop(trees);
        match result {
            Ok(Ok(updated)) => Ok(updated),
            Ok(Err(Fault::Segment(segment, reason))) => {
                Err(IndexError::Segment { segment, reason })
            }
            Ok(Err(fault)) => Err(self.throw_away(&fault.to_string())),
            Err(panic) => Err(self.throw_away(&words(&*panic))),
        }
    }

    /// Closes the index such that the next start can trust it. Without this, it is built again.
    ///
    /// # Errors
    /// [`IndexError`]; nothing is lost but the index.
    pub fn close(&self) -> Result<(), IndexError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(trees) = self.take() else { return Ok(()) };
        let flushed = catch_unwind(AssertUnwindSafe(|| trees.flush()));
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => return Err(self.throw_away(&fault.to_string())),
            Err(panic) => return Err(self.throw_away(&words(&*panic))),
        }
        // A reader that is just looking something up keeps it open; then it is built again.
        if let Some(trees) = Arc::into_inner(trees)
            && catch_unwind(AssertUnwindSafe(|| drop(trees))).is_ok()
        {
            let directory = self.directory();
            mark::write(&directory).map_err(|error| trouble(&directory, &error))?;
        }
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.root.join("index")
    }

    fn current(&self) -> Option<Arc<Trees>> {
        self.trees.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self) -> Option<Arc<Trees>> {
        self.trees.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Opens sled, if its files can be trusted; else puts them away and begins anew.
    fn open(&self) -> Result<Arc<Trees>, IndexError> {
        let directory = self.directory();
        let trusted = mark::take(&directory).map_err(|error| trouble(&directory, &error))?;
        if trusted {
            if let Ok(trees) = self.open_sled() {
                return Ok(trees);
            }
        } else if directory.exists() {
            tracing::info!("the index was not closed cleanly; it is built again");
        }
        self.clear()?;
        self.open_sled()
    }

    fn open_sled(&self) -> Result<Arc<Trees>, IndexError> {
        let directory = self.directory();
        fs::create_dir_all(&directory).map_err(|error| trouble(&directory, &error))?;
        match catch_unwind(AssertUnwindSafe(|| Trees::open(&directory.join("sled")))) {
            Ok(Ok(trees)) => {
                let trees = Arc::new(trees);
                let mut place = self.trees.write().unwrap_or_else(PoisonError::into_inner);
                *place = Some(Arc::clone(&trees));
                Ok(trees)
            }
            Ok(Err(error)) => Err(IndexError::Failed { reason: error.to_string() }),
            Err(panic) => Err(IndexError::Failed { reason: words(&*panic) }),
        }
    }

    /// Puts the directory into the trash, and empties that of earlier ones.
    fn clear(&self) -> Result<(), IndexError> {
        let (directory, trash) = (self.directory(), self.root.join("trash"));
        if !directory.exists() {
            return Ok(());
        }
        fs::create_dir_all(&trash).map_err(|error| trouble(&trash, &error))?;
        let free = (0..u32::MAX).map(|number| trash.join(format!("index-{number}")));
        let target = free.into_iter().find(|path| !path.exists()).unwrap_or(trash);
        fs::rename(&directory, &target).map_err(|error| trouble(&directory, &error))?;
        if let Err(error) = fs::remove_dir_all(&target) {
            tracing::warn!(path = %target.display(), %error, "the old index stays in the trash");
        }
        Ok(())
    }

    fn throw_away(&self, reason: &str) -> IndexError {
        tracing::warn!(reason, "the index failed; it is thrown away and built again");
        // Dropping a database that failed may panic too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self.take())));
        match self.clear() {
            Ok(()) => IndexError::Failed { reason: reason.to_owned() },
            Err(error) => error,
        }
    }

    /// Asks sled; whatever goes wrong is no answer. The next update finds it out for itself.
    fn ask<T>(&self, question: impl FnOnce(&Trees) -> Result<Option<T>, Fault>) -> Option<T> {
        let trees = self.current()?;
        catch_unwind(AssertUnwindSafe(|| question(&trees).ok().flatten())).ok().flatten()
    }
}

impl BlockLocator for Index {
    fn block(&self, segment: SegmentId, stream: StreamId, seq: u64) -> Option<BlockEntry> {
        self.ask(|trees| trees.block(segment, stream, seq))
    }

    fn subject(&self, segment: SegmentId, stream: StreamId, subject: &str) -> Option<Vec<u8>> {
        self.ask(|trees| trees.subject(segment, stream, subject))
    }
}

fn trouble(path: &Path, error: &io::Error) -> IndexError {
    IndexError::Directory { path: path.to_owned(), reason: error.to_string() }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests;
