//! Advice to the operating system about what will be read, given by a thread of its own: the system sets
//! up each read at once, and whoever is about to read has other things to do meanwhile.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Advice, fadvise};

/// Pieces that wait. What does not find room is told to the system by whoever reads.
const WAITING: usize = 1024;

/// A piece of a file.
#[derive(Debug)]
struct Piece {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

/// Gives advice for the files of a disk. Its thread begins with the first piece, and ends with the disk
/// and its files.
#[derive(Debug, Default)]
pub(super) struct Advisor {
    /// `None` inside if there can be no thread.
    pieces: OnceLock<Option<SyncSender<Piece>>>,
}

impl Advisor {
    /// Has the system read ahead. It is advice: where it cannot be given, reading is as slow as it was.
    pub(super) fn will_read(&self, file: &Arc<File>, offset: u64, len: u64) {
        let piece = Piece { file: Arc::clone(file), offset, len };
        let unsent = match self.pieces.get_or_init(start) {
            Some(pieces) => pieces.try_send(piece).err(),
            None => Some(TrySendError::Disconnected(piece)),
        };
        if let Some(TrySendError::Full(piece) | TrySendError::Disconnected(piece)) = unsent {
            piece.advise();
        }
    }
}

fn start() -> Option<SyncSender<Piece>> {
    let (pieces, waiting): (_, Receiver<Piece>) = sync_channel(WAITING);
    let work = move || waiting.into_iter().for_each(|piece| piece.advise());
    std::thread::Builder::new().name("advice".to_owned()).spawn(work).ok()?;
    Some(pieces)
}

impl Piece {
    fn advise(&self) {
        let len = std::num::NonZeroU64::new(self.len);
        // It is advice.
        let _ = fadvise(&*self.file, self.offset, len, Advice::WillNeed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_thread_ends_with_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        let advisor = Advisor::default();
        for round in 0..2 * WAITING as u64 {
            advisor.will_read(&file, round % 20 * 4096, 4096);
        }
        drop(advisor);
        // The thread holds the file until it has said all.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while Arc::strong_count(&file) > 1 {
            assert!(std::time::Instant::now() < end, "the thread goes on");
            std::thread::yield_now();
        }
    }
}
