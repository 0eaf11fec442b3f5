//! Scrubbing: files that are written once are read again from time to time, slowly, so that damage is
//! found while there is another copy, or a backup, to make it good.
//!
//! Journal files are not read: they live for minutes, and what they hold is checked when it is needed.
//! How far a pass is survives a restart in a file that may be lost at any time.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::mailbox::Mailbox;
use super::options::ScrubOptions;
use super::stats::WorkCounters;
use crate::copies::{Flaw, KEPT_MANIFESTS, Sealed, all, is_listed, look, read_manifest, repair};
use crate::disk::paced::{Pace, Paced};
use crate::disk::{Disk, put_file};
use crate::manifest::{ListedSegment, Manifest};
use crate::segment::{self, SegmentMeta};
use crate::verify::segments_of;

/// The clock is looked at so often, as it may jump.
const NAP: Duration = Duration::from_secs(3600);
/// How far a pass is is noted after so many bytes.
const NOTE_EVERY: u64 = 64 << 20;
/// Where that is.
const NOTE: &str = "SCRUB";
const NOTE_TEXT: &str = "claudebus scrub 1\n";

/// See the module's text.
#[derive(Clone)]
pub(super) struct Scrubber {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Option<ScrubOptions>,
    pub(super) counters: Arc<WorkCounters>,
    /// Held by whoever makes copies again.
    pub(super) mending: Arc<Mutex<()>>,
    /// Unsealed records press: the disk is left to them.
    pub(super) hurry: Arc<AtomicBool>,
    pub(super) is_closed: Arc<AtomicBool>,
    /// Nothing is put in; closed when the engine stops.
    pub(super) alarm: Arc<Mailbox<()>>,
}

/// What is remembered between starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Note {
    /// When the last pass ended, in seconds since the Unix epoch; 0 if none has.
    last: u64,
    /// The file with which the pass that is under way goes on.
    next: Option<String>,
}

impl Note {
    fn encode(&self) -> String {
        let next = self.next.as_deref().unwrap_or_default();
        format!("{NOTE_TEXT}last {}\nnext {next}\n", self.last)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut lines = text.strip_prefix(NOTE_TEXT)?.lines();
        let last = lines.next()?.strip_prefix("last ")?.parse().ok()?;
        let next = lines.next()?.strip_prefix("next ")?;
        Some(Self { last, next: (!next.is_empty()).then(|| next.to_owned()) })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A pass is broken off.
fn later(why: &Flaw) {
    tracing::warn!(%why, "scrubbing goes on later");
}

impl Scrubber {
    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Until the engine closes; the body of the scrubbing thread.
    pub(super) fn run(&self, options: ScrubOptions) {
        let note = self.read_note();
        self.counters.scrub_last.store(note.last, Ordering::Relaxed);
        self.sleep(options.delay);
        while !self.is_closed() {
            let note = self.read_note();
            // The note may not have been written.
            let last = note.last.max(self.counters.scrub_last.load(Ordering::Relaxed));
            // A time that lies ahead is from a clock that was wrong.
            let since = Duration::from_secs(now().checked_sub(last).unwrap_or(u64::MAX));
            if note.next.is_none() && last != 0 && since < options.interval {
                self.sleep((options.interval - since).min(NAP));
                continue;
            }
            self.pass(Some(options.rate));
            // Whatever the interval and the clock say.
            self.sleep(options.delay);
        }
    }

    fn sleep(&self, time: Duration) {
        if !self.is_closed() {
            self.alarm.wait(time);
        }
    }

    /// Reads every file once, or the rest of them if the last pass was cut short. `rate` is in bytes a
    /// second; without it, nothing is left out and nobody waits.
    pub(super) fn pass(&self, rate: Option<u64>) {
        let alarm = Arc::clone(&self.alarm);
        let pace = Arc::new(Pace {
            rate,
            hurry: Arc::clone(&self.hurry),
            is_closed: Arc::clone(&self.is_closed),
            wait: Box::new(move |time| alarm.wait(time)),
            bytes: AtomicU64::new(0),
            unpaid: AtomicU64::new(0),
        });
        let paced = Paced::new(&self.disk, &pace);
        let mut note = self.read_note();
        let from = if rate.is_some() { note.next.take() } else { None };
        let mut unnoted = 0;
        let files = match self.files() {
            Ok(files) => files,
            Err(error) => return later(&error),
        };
        for (path, file) in files {
            if from.as_ref().is_some_and(|from| path < *from) {
                continue;
            }
            if self.is_closed() || unnoted > NOTE_EVERY {
                note.next = Some(path.clone());
                self.write_note(&note);
                unnoted = 0;
            }
            if self.is_closed() {
                return;
            }
            let checked = self.check(&paced, &path, &file);
            let read = pace.bytes.swap(0, Ordering::Relaxed);
            self.counters.scrub_bytes.fetch_add(read, Ordering::Relaxed);
            unnoted += file.length();
            if let Err(why) = checked {
                note.next = Some(path);
                self.write_note(&note);
                return later(&why);
            }
        }
        if self.is_closed() {
            return;
        }
        self.counters.scrub_passes.fetch_add(1, Ordering::Relaxed);
        note = Note { last: now(), next: None };
        self.counters.scrub_last.store(note.last, Ordering::Relaxed);
        self.write_note(&note);
    }

    /// Everything that the manifests list that count, and themselves.
    fn files(&self) -> Result<BTreeMap<String, Sealed>, Flaw> {
        let mut files = BTreeMap::new();
        let disk = self.disk.as_ref();
        let generations =
            Manifest::generations(disk).map_err(|error| Flaw::Unread(error.to_string()))?;
        for generation in generations.into_iter().take(KEPT_MANIFESTS) {
            let file = Sealed::Manifest(generation);
            files.insert(file.path(), file);
            // Of one that is damaged, the other lists nearly the same.
            match read_manifest(disk, generation).map_err(|error| Flaw::of_manifest(&error)) {
                Ok(manifest) => {
                    files.extend(Sealed::listed(&manifest).map(|file| (file.path(), file)));
                }
                Err(flaw @ Flaw::Unread(_)) => return Err(flaw),
                Err(Flaw::Damaged(_)) => {}
            }
        }
        Ok(files)
    }

    /// Reads every copy of a file, and makes good what can be. An error if that must be tried again.
    fn check(&self, paced: &Paced, path: &str, file: &Sealed) -> Result<(), Flaw> {
        let found = look(paced, file);
        if found.iter().all(Result::is_ok) || self.is_closed() {
            return Ok(());
        }
        // A checkpoint may have come meanwhile, after which the file goes. If that is not known, it stays.
        if !is_listed(self.disk.as_ref(), file).unwrap_or(true) {
            return Ok(());
        }
        if let Some(Err(flaw)) = found.iter().find(|found| matches!(found, Err(Flaw::Unread(_)))) {
            return Err(flaw.clone());
        }
        if let Sealed::Segment(listed) = file {
            self.tell(listed, &found);
        }
        // At full speed, for the maintenance thread may wait for it.
        let mending = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = repair(self.disk.as_ref(), file, found);
        drop(mending);
        if outcome.is_unread {
            return Err(Flaw::Unread(format!("{path} could not be made again")));
        }
        let damaged = outcome.damaged.len() as u64;
        self.counters.scrub_damaged.fetch_add(damaged, Ordering::Relaxed);
        self.counters.repaired.fetch_add(outcome.repaired, Ordering::Relaxed);
        if outcome.is_bad() {
            let why = outcome.damaged.join("; ");
            tracing::error!(file = %path, %why, "a file is damaged and there is no whole copy of it; run `claudebus verify` on the data directory when the server is stopped");
        }
        // It may have gone while it was made again. If that is not known, it waits for the next start.
        if outcome.repaired > 0
            && matches!(is_listed(self.disk.as_ref(), file), Ok(false))
            && let Err(error) = self.disk.remove(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path, %error, "an old file could not be removed");
        }
        Ok(())
    }

    /// Says which records each damaged copy of a segment lacks.
    fn tell(&self, listed: &ListedSegment, found: &[Result<(), Flaw>]) {
        let disk = self.disk.as_ref();
        let own = all(disk).find_map(|copy| SegmentMeta::read(copy, listed.id).ok());
        let meta = own.filter(|meta| meta.digest == listed.digest).or_else(|| {
            let newest = Manifest::generations(disk).ok()?.first().copied()?;
            let states = Manifest::read(disk, newest).ok()?.states;
            segments_of(disk, &states).ok()?.remove(&listed.id.0)
        });
        let Some(meta) = meta.map(Arc::new) else { return };
        let copies = all(disk).zip(found).enumerate();
        for (number, (copy, _)) in copies.filter(|(_, (_, found))| found.is_err()) {
            segment::verify(copy, &meta, &mut |damage| {
                tracing::error!(copy = number + 1, damage = %damage, "scrubbing found damage");
            });
        }
    }

    fn read_note(&self) -> Note {
        let read = || {
            let file = self.disk.open(NOTE)?;
            let mut bytes = vec![0; file.len()?.min(4096) as usize];
            file.read_at(&mut bytes, 0).map(|()| bytes)
        };
        let text: io::Result<Vec<u8>> = read();
        let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        text.ok().and_then(|text| Note::decode(&text)).unwrap_or_default()
    }

    /// Not synced: what is lost by a crash is time.
    fn write_note(&self, note: &Note) {
        let written = put_file(self.disk.as_ref(), NOTE, note.encode().as_bytes(), false);
        if let Err(error) = written {
            tracing::debug!(%error, "how far scrubbing is could not be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn notes_come_back() {
        for note in [Note::default(), Note { last: 7, next: Some("segments/1".to_owned()) }] {
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
        assert_eq!(Note::decode("claudebus scrub 2\n"), None);
        assert_eq!(Note::decode(""), None);
    }
}
