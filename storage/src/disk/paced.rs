//! A disk that is read slowly, so that whoever reads in the background leaves it to others.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Disk, DiskFile};

/// Waited for while others are in a hurry, before it is looked again.
const WAIT: Duration = Duration::from_millis(100);
/// Reads smaller than this are not waited for one by one.
const STEP: u64 = 64 << 10;

/// How fast is read.
pub(crate) struct Pace {
    /// Bytes a second, at most; without it, nobody waits.
    pub(crate) rate: Option<u64>,
    /// While this is set, nothing is read.
    pub(crate) hurry: Arc<AtomicBool>,
    /// Once this is set, reading fails.
    pub(crate) is_closed: Arc<AtomicBool>,
    /// Waits, or returns early when it is closed.
    pub(crate) wait: Box<dyn Fn(Duration) + Send + Sync>,
    /// Bytes read.
    pub(crate) bytes: AtomicU64,
    /// Bytes read and not waited for.
    pub(crate) unpaid: AtomicU64,
}

impl Pace {
    fn read(&self, len: u64) -> io::Result<()> {
        self.bytes.fetch_add(len, Ordering::Relaxed);
        if let Some(rate) = self.rate {
            let unpaid = self.unpaid.fetch_add(len, Ordering::Relaxed) + len;
            if unpaid >= STEP {
                self.unpaid.fetch_sub(unpaid, Ordering::Relaxed);
                (self.wait)(Duration::from_secs_f64(unpaid as f64 / rate.max(1) as f64));
            }
            while self.hurry.load(Ordering::Relaxed) && !self.is_closed.load(Ordering::Acquire) {
                (self.wait)(WAIT);
            }
        }
        if self.is_closed.load(Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        Ok(())
    }
}

/// See the module's text.
pub(crate) struct Paced {
    below: Arc<dyn Disk>,
    copies: Vec<Arc<dyn Disk>>,
    pace: Arc<Pace>,
}

impl Paced {
    pub(crate) fn new(below: &Arc<dyn Disk>, pace: &Arc<Pace>) -> Self {
        let copies = below.copies().iter();
        let copies = copies.map(|copy| Arc::new(Self::new(copy, pace)) as Arc<dyn Disk>).collect();
        Self { below: Arc::clone(below), copies, pace: Arc::clone(pace) }
    }
}

impl Disk for Paced {
    fn root(&self) -> Option<&Path> {
        self.below.root()
    }

    fn copies(&self) -> &[Arc<dyn Disk>] {
        &self.copies
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.below.create(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.below.open(path)?;
        Ok(Arc::new(PacedFile { file, pace: Arc::clone(&self.pace) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.below.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.below.remove(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.below.create_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.below.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.below.sync_dir(path)
    }
}

struct PacedFile {
    file: Arc<dyn DiskFile>,
    pace: Arc<Pace>,
}

impl DiskFile for PacedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.pace.read(buffer.len() as u64)?;
        self.file.read_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.file.will_read(offset, len);
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn reading_waits_as_long_as_the_rate_asks_for() {
        let below = SimulatedDisk::new();
        below.create("a").unwrap().write_at(&[1; 300_000], 0).unwrap();
        let waited = Arc::new(Mutex::new(Duration::ZERO));
        let clock = Arc::clone(&waited);
        let pace = Arc::new(Pace {
            rate: Some(100_000),
            hurry: Arc::default(),
            is_closed: Arc::default(),
            wait: Box::new(move |time| *clock.lock().unwrap() += time),
            bytes: AtomicU64::new(0),
            unpaid: AtomicU64::new(0),
        });
        let disk: Arc<dyn Disk> = Arc::new(below);
        let file = Paced::new(&disk, &pace).open("a").unwrap();
        for at in 0..30 {
            file.read_at(&mut [0; 10_000], at * 10_000).unwrap();
        }
        let waited = waited.lock().unwrap().as_secs_f64();
        assert!((2.0..=3.0).contains(&waited), "{waited}");
        pace.is_closed.store(true, Ordering::Release);
        assert!(file.read_at(&mut [0; 10], 0).is_err());
    }
}
