//! Opening a log: what is there is checked, loaded and replayed, and synced before anything is
//! built on it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::background::{Background, Maintenance};
use super::checkpoint::{Counters, Progress};
use super::checkpointer::SEGMENTS;
use super::contents::Contents;
use super::crew::CrewPlace;
use super::group::OpenGroup;
use super::load::{Loaded, load};
use super::losses::Losses;
use super::marks::{check_format, take_clean_mark};
use super::merging::Merging;
use super::report::{DamageReport, LOST, OpenError, RecoveryReport, lose};
use super::segments::{Archive, Trash};
use super::{Engine, EngineOptions, Waker};
use crate::disk::Disk;
use crate::ids::Position;
use crate::index::Index;
use crate::journal::effect::decode;
use crate::journal::files::spare_number;
use crate::journal::format::{FILE_HEADER, FileHeader, HeaderError, MAJOR};
use crate::journal::noted::has_first_group;
use crate::journal::scan::{Damage, Doubt, LEAST_RECORD, Scan, doubt_behind, scan};
use crate::journal::shared::{ActiveFile, JournalShared};
use crate::journal::writer::Predecessor;
use crate::journal::{self, number_of};
use crate::{copies, ids_file, manifest, state};

/// What a log has beside the index.
const DIRS: [&str; 6] = [journal::DIR, SEGMENTS, state::DIR, ids_file::DIR, manifest::DIR, LOST];

/// A journal file with a good header.
struct Found {
    header: FileHeader,
    path: String,
}

/// A journal file that begins with a group that no checkpoint covers, and has no readable header.
struct Headless {
    number: u64,
    path: String,
    len: u64,
}

struct Recovery {
    disk: Arc<dyn Disk>,
    contents: Contents,
    report: RecoveryReport,
    /// The last group that was applied or checkpointed.
    last_group: u64,
    predecessor: Predecessor,
    active: Vec<ActiveFile>,
    spares: Vec<String>,
    /// The highest number any journal file has had.
    last_file: u64,
    last_spare: u64,
    journal_bytes: u64,
    losses: Losses,
    headless: Vec<Headless>,
}

pub(super) fn open(
    options: EngineOptions,
    disk: Arc<dyn Disk>,
    waker: Waker,
) -> Result<Engine, OpenError> {
    check_format(disk.as_ref())?;
    for dir in DIRS {
        disk.create_dir(dir).map_err(OpenError::io(format!("create {dir}")))?;
    }
    // Syncing a directory keeps the names in it, and not its own.
    disk.sync_dir("").map_err(OpenError::io("sync the data directory"))?;
    if !disk.copies().is_empty() {
        copies::clean(disk.as_ref(), &DIRS).map_err(OpenError::io("clean up copies"))?;
    }
    let was_clean =
        take_clean_mark(disk.as_ref()).map_err(OpenError::io("remove the clean mark"))?;
    let index = disk.root().filter(|_| options.index).map(|root| Arc::new(Index::new(root)));
    let archive = Arc::new(Archive::new(Arc::clone(&disk), index));
    options.crash_points.at("trash.before");
    let mut loaded = load(disk.as_ref(), &archive)?;
    options.crash_points.at("trash.after");
    let through = loaded.manifest.through;
    let mended = copies::mend_journal(disk.as_ref(), through);
    let repaired =
        loaded.repaired + mended.map_err(OpenError::io("compare the copies of the journal"))?;
    archive.counters.repaired.fetch_add(repaired, Ordering::Relaxed);
    let report = RecoveryReport {
        was_clean,
        generation: loaded.manifest.generation,
        fell_back: loaded.fell_back,
        repaired,
        ..RecoveryReport::default()
    };
    let mut recovery = Recovery {
        disk: Arc::clone(&disk),
        contents: std::mem::take(&mut loaded.contents),
        report,
        last_group: loaded.manifest.through,
        predecessor: Predecessor::default(),
        active: Vec::new(),
        spares: Vec::new(),
        last_file: 0,
        last_spare: 0,
        journal_bytes: 0,
        losses: Losses::default(),
        headless: Vec::new(),
    };
    recovery.replay(&options)?;
    recovery.start(options, disk, waker, archive, loaded)
}

/// Whether a file whose header cannot be read holds a group that no checkpoint covers. An older
/// file that was to be used again holds older groups.
fn begins_with_group_after(file: &dyn crate::disk::DiskFile, len: u64, last_group: u64) -> bool {
    let mut start = [0; 16];
    if len < FILE_HEADER + 16 || file.read_at(&mut start, FILE_HEADER).is_err() {
        return false;
    }
    let (magic, number) = start.split_at(8);
    let number = number.try_into().map_or(0, u64::from_le_bytes);
    magic.starts_with(b"CBGR") && number > last_group
}

impl Recovery {
    fn replay(&mut self, options: &EngineOptions) -> Result<(), OpenError> {
        options.crash_points.at("replay.before");
        let found = self.find_files(options)?;
        let noted = self.last_noted(&found)?;
        for (index, file) in found.iter().enumerate() {
            let successor = found.get(index + 1);
            let is_noted = file.header.file < noted;
            self.replay_file(file, successor.map(|next| &next.header), is_noted)?;
        }
        self.report.last_group = self.last_group;
        // Nothing after them was read, or a file would have been found missing.
        for Headless { number, path, len } in std::mem::take(&mut self.headless) {
            if number < noted {
                lose(self.disk.as_ref(), &path)?;
                continue;
            }
            self.losses.met(&path, 0);
            self.losses.count(len / LEAST_RECORD as u64);
            let groups = (self.last_group + 1, self.last_group + 1);
            self.report.damage.push(DamageReport { groups, file: path, bytes: (0, len) });
        }
        let losses = std::mem::take(&mut self.losses);
        self.report.losses.missing = losses.missing();
        self.report.losses.ranges = losses.finish(&self.contents);
        options.crash_points.at("replay.after");
        Ok(())
    }

    /// The last file with which a start went on that has noted what it found in those before; 0 for none.
    fn last_noted(&self, found: &[Found]) -> Result<u64, OpenError> {
        for Found { header, path } in found.iter().rev() {
            // A checkpoint holds its first group.
            if header.first_group <= self.last_group {
                return Ok(header.file);
            }
            let file = self.disk.open(path).map_err(OpenError::io("open the journal"))?;
            let is_noted = has_first_group(file.as_ref(), header);
            if is_noted.map_err(OpenError::io(format!("read {path}")))? {
                return Ok(header.file);
            }
        }
        Ok(0)
    }

    /// All journal files that were begun, in order.
    fn find_files(&mut self, options: &EngineOptions) -> Result<Vec<Found>, OpenError> {
        let mut names = self.disk.list(journal::DIR).map_err(OpenError::io("list the journal"))?;
        names.sort();
        let mut found = Vec::new();
        for name in names {
            let path = format!("{}/{name}", journal::DIR);
            if let Some(number) = spare_number(&name) {
                self.last_spare = self.last_spare.max(number);
                self.take_spare(path, options)?;
            } else if let Some(number) = number_of(&name) {
                self.last_file = self.last_file.max(number);
                found.extend(self.read_header(number, path)?);
            }
        }
        Ok(found)
    }

    /// A spare that was filled completely is used; another is filled again.
    fn take_spare(&mut self, path: String, options: &EngineOptions) -> Result<(), OpenError> {
        let file = self.disk.open(&path).map_err(OpenError::io("open a spare"))?;
        let size = options.journal_file_size;
        if file.len().map_err(OpenError::io("measure a spare"))? == size
            && copies::is_everywhere(self.disk.as_ref(), &path, size)
        {
            self.spares.push(path);
            return Ok(());
        }
        self.disk.remove(&path).map_err(OpenError::io("remove a spare"))
    }

    fn read_header(&mut self, number: u64, path: String) -> Result<Option<Found>, OpenError> {
        let file = self.disk.open(&path).map_err(OpenError::io("open the journal"))?;
        let len = file.len().map_err(OpenError::io("measure the journal"))?;
        let mut bytes = vec![0; len.min(FILE_HEADER) as usize];
        file.read_at(&mut bytes, 0).map_err(OpenError::io("read the journal"))?;
        match FileHeader::decode(&bytes) {
            Ok(header) if header.file == number => Ok(Some(Found { header, path })),
            Err(HeaderError::Newer(found)) => {
                Err(OpenError::Newer { file: path, found, known: MAJOR })
            }
            Err(HeaderError::Invalid) if bytes.iter().any(|byte| *byte != 0) => {
                tracing::error!(file = %path, "a journal file has no readable header; it goes to lost+found, if it may have held messages once what that costs is noted");
                if begins_with_group_after(file.as_ref(), len, self.last_group) {
                    self.headless.push(Headless { number, path, len });
                } else {
                    lose(self.disk.as_ref(), &path)?;
                }
                Ok(None)
            }
            // It got its name, and power was lost before its header was written.
            _ => {
                self.disk.remove(&path).map_err(OpenError::io("remove an unused journal file"))?;
                Ok(None)
            }
        }
    }

    /// `is_noted` tells that what a start found in the file is noted in a later one.
    fn replay_file(
        &mut self,
        file: &Found,
        successor: Option<&FileHeader>,
        is_noted: bool,
    ) -> Result<(), OpenError> {
        let header = &file.header;
        let known_end = successor
            .filter(|next| next.predecessor == header.file)
            .map(|next| (next.predecessor_end, next.first_group - 1));
        self.active.push(ActiveFile { number: header.file, first_group: header.first_group });
        if is_noted && known_end.is_some_and(|(_, last)| last <= self.last_group) {
            return Ok(());
        }
        if header.first_group > self.last_group + 1 {
            return Err(OpenError::Missing {
                file: format!("a journal file before {}", file.path),
                first: self.last_group + 1,
                last: header.first_group - 1,
            });
        }
        let handle = self.disk.open(&file.path).map_err(OpenError::io("open the journal"))?;
        let len = handle.len().map_err(OpenError::io("measure the journal"))?;
        let mut bytes = vec![0; len as usize];
        handle.read_at(&mut bytes, 0).map_err(OpenError::io(format!("read {}", file.path)))?;
        let mut found = scan(&bytes, header, self.last_group + 1, known_end);
        if let Some(end) = known_end.filter(|_| !is_noted) {
            found.doubt = doubt_behind(&bytes, header, end);
        }
        // What is built upon must be durable, not only readable.
        handle.sync().map_err(OpenError::io(format!("sync {}", file.path)))?;
        self.report_damage(file, &found.damage, &bytes)?;
        self.predecessor = Predecessor { file: header.file, end: found.end as u64 };
        self.journal_bytes += found.end as u64;
        self.report.was_torn |= found.is_torn;
        if let Some(doubt) = &found.doubt {
            self.report_doubt(file, doubt, &bytes)?;
        }
        bytes.truncate(found.end);
        bytes.shrink_to_fit();
        self.apply(file, &found, bytes);
        if let Some(doubt) = &found.doubt {
            self.losses.met(&file.path, doubt.range.start as u64);
            self.losses.count(doubt.missing);
        }
        Ok(())
    }

    /// Groups that were written to their end and are not whole, with nothing after them that says
    /// whether they were synced: they do not count, and their sequences are in doubt.
    fn report_doubt(&mut self, file: &Found, doubt: &Doubt, bytes: &[u8]) -> Result<(), OpenError> {
        self.losses.claim(doubt, bytes);
        let (start, end) = (doubt.range.start, doubt.range.end);
        tracing::warn!(
            file = %file.path, start, end, first = doubt.groups.0, last = doubt.groups.1,
            "the last groups of the journal are not whole and may have been acknowledged; they are dropped, the bytes are kept in lost+found"
        );
        self.keep(file, start, end, bytes)?;
        self.report.in_doubt = Some(DamageReport {
            groups: doubt.groups,
            file: file.path.clone(),
            bytes: (start as u64, end as u64),
        });
        Ok(())
    }

    /// Copies damaged bytes to lost+found.
    fn keep(&self, file: &Found, start: usize, end: usize, bytes: &[u8]) -> Result<(), OpenError> {
        let name = format!("{LOST}/{:016x}-{start}-{end}", file.header.file);
        let kept = bytes.get(start..end.min(bytes.len())).unwrap_or_default();
        let write = || {
            let copy = match self.disk.create(&name) {
                // An earlier start kept them, and may not have come to the end of it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.disk.remove(&name)?;
                    self.disk.create(&name)?
                }
                copy => copy?,
            };
            copy.write_at(kept, 0)?;
            copy.sync()
        };
        write()
            .and_then(|()| self.disk.sync_dir(LOST))
            .map_err(OpenError::io(format!("keep damaged bytes in {name}")))
    }

    fn apply(&mut self, file: &Found, found: &Scan, bytes: Vec<u8>) {
        let Some(last) = found.groups.last() else {
            self.pass_damage(file, &found.damage);
            return;
        };
        let bytes = Bytes::from(bytes);
        let chunk = self.contents.chunks.adopt(last.number, bytes.clone());
        let mut damage = found.damage.as_slice();
        for group in &found.groups {
            let passed = damage.iter().take_while(|gap| gap.groups.1 < group.number).count();
            let (before, rest) = damage.split_at(passed);
            self.pass_damage(file, before);
            damage = rest;
            if let Some(own) = damage.first().filter(|own| own.groups.0 <= group.number) {
                self.losses.met(&file.path, own.range.start as u64);
            }
            for entry in &group.entries {
                let effect = bytes.get(entry.clone()).and_then(decode);
                match effect {
                    Some(effect) => {
                        self.losses.learn(&effect, &mut self.contents);
                        self.contents.apply(&effect, chunk, entry.start as u32 - 4);
                    }
                    None => self.report.unknown_entries += 1,
                }
            }
            self.last_group = group.number;
            self.report.groups_replayed += 1;
        }
        self.pass_damage(file, damage);
    }

    /// Groups that are lost keep their numbers, and what was in them is missing from here on.
    fn pass_damage(&mut self, file: &Found, damage: &[Damage]) {
        for damage in damage {
            self.losses.met(&file.path, damage.range.start as u64);
            self.losses.count(damage.missing);
            self.last_group = self.last_group.max(damage.groups.1);
        }
    }

    fn report_damage(
        &mut self,
        file: &Found,
        damage: &[Damage],
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        for damage in damage {
            let (first, last) = damage.groups;
            let (start, end) = (damage.range.start, damage.range.end);
            tracing::error!(
                file = %file.path, start, end, first, last,
                "durable groups of the journal are damaged; what can be proven is applied, the bytes are kept in lost+found"
            );
            self.keep(file, start, end, bytes)?;
            self.report.damage.push(DamageReport {
                groups: damage.groups,
                file: file.path.clone(),
                bytes: (start as u64, end as u64),
            });
        }
        Ok(())
    }

    fn start(
        self,
        options: EngineOptions,
        disk: Arc<dyn Disk>,
        waker: Waker,
        archive: Arc<Archive>,
        loaded: Loaded,
    ) -> Result<Engine, OpenError> {
        let last_group = self.last_group;
        let journal = Arc::new(JournalShared::new(last_group, waker));
        {
            let mut files = journal.files();
            files.active.extend(self.active);
            files.spares.extend(self.spares);
            files.next_spare = self.last_spare;
            files.recycle_through = loaded.previous.as_ref().map_or(0, |previous| previous.through);
            files.scrub_through = loaded.manifest.scrub_through;
            files.scrub_spares = loaded.manifest.scrub_through > 0;
        }
        let group =
            OpenGroup::new(options.seed, self.last_file + 1, last_group, options.journal_file_size);
        let hurry = Arc::new(AtomicBool::new(false));
        let progress = Progress {
            generation: loaded.manifest.generation,
            scrub_through: loaded.manifest.scrub_through,
            ..Progress::default()
        };
        let unlisted = loaded.unlisted.clone();
        let place = CrewPlace {
            disk: &disk,
            journal: &journal,
            hurry: &hurry,
            options: &options,
            archive: &archive,
        };
        let crew = place.crew(loaded, self.predecessor, last_group);
        crew.filler.first_spare();
        let background = Background::start(
            options.workers,
            options.readers,
            Arc::clone(&journal),
            Arc::clone(&archive),
            hurry,
            crew,
        )
        .map_err(OpenError::io("start the threads of the log"))?;
        for path in unlisted {
            background.maintain(Maintenance::Trash(Trash { path, scrub: false }));
        }
        options.crash_points.at("open.after");
        let mut engine = Engine {
            options,
            contents: self.contents,
            kept: None,
            group,
            journal,
            background,
            reported: Position(last_group),
            journal_bytes: self.journal_bytes,
            report: self.report,
            disk,
            archive,
            progress,
            merging: Merging::default(),
            unmergeable: BTreeSet::new(),
            next_read: 0,
            counters: Counters::default(),
        };
        engine.background.maintain(Maintenance::Index(engine.listed_files()));
        engine.merge_if_worthwhile();
        Ok(engine)
    }
}
