//! Who does the engine's slow work: threads, or the owner one step at a time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::checkpointer::{CheckpointDone, CheckpointJob, Checkpointer};
use super::mailbox::Mailbox;
use super::maintenance::{Maintainer, MergeDone, MergeJob};
use super::options::{InlineWorkers, LoneWriter, Workers};
use super::reader::ReadJob;
use super::scrub::Scrubber;
use super::segments::{Archive, SegmentFile, Trash};
use crate::ids::{ReadId, StreamId};
use crate::journal::files::Filler;
use crate::journal::shared::{Group, JournalShared};
use crate::journal::writer::{self, JournalWriter};
use crate::log::{ReadBatch, ReadError};
use crate::segment::ReadStats;

/// Of the maintenance thread, from 0 to 19: under full load it has about a tenth of a processor.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// A group of at most so many entries and bytes is lone: others wait no longer for it than for being woken.
const LONE_ENTRIES: u32 = 8;
const LONE_BYTES: usize = 16 << 10;

/// What workers tell the owner.
pub(super) enum News {
    Read(ReadId, StreamId, Result<ReadBatch, ReadError>),
    Checkpoint(Result<CheckpointDone, String>),
    Merge(MergeDone),
}

/// Work on segments that nobody waits for.
pub(super) enum Maintenance {
    Merge(MergeJob),
    /// Bring the index up to date with these.
    Index(Vec<Arc<SegmentFile>>),
    Trash(Trash),
    /// Compare the copies of a segment, one of which is damaged, and make it again.
    Mend(Arc<SegmentFile>),
}

/// What the workers are made from.
pub(super) struct Crew {
    pub(super) writer: Arc<Mutex<JournalWriter>>,
    pub(super) lone_writer: LoneWriter,
    pub(super) filler: Filler,
    pub(super) checkpointer: Checkpointer,
    pub(super) maintainer: Maintainer,
    pub(super) scrubber: Scrubber,
}

/// The workers of an engine. Dropping it lets them finish what they have.
pub(super) struct Background {
    journal: Arc<JournalShared>,
    archive: Arc<Archive>,
    pub(super) checkpoints: Arc<Mailbox<Box<CheckpointJob>>>,
    pub(super) reads: Arc<Mailbox<ReadJob>>,
    pub(super) news: Arc<Mailbox<News>>,
    pub(super) read_stats: Arc<ReadStats>,
    /// Background writes should not pause.
    pub(super) hurry: Arc<AtomicBool>,
    is_closed: Arc<AtomicBool>,
    scrubber: Scrubber,
    /// Used by the journal's worker, and by the owner while that has nothing to write.
    writer: Arc<Mutex<JournalWriter>>,
    lone_writer: LoneWriter,
    inline: Option<Box<Crew>>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start(
        workers: Workers,
        readers: usize,
        journal: Arc<JournalShared>,
        archive: Arc<Archive>,
        hurry: Arc<AtomicBool>,
        crew: Crew,
    ) -> io::Result<Self> {
        let mut background = Self {
            journal,
            archive,
            checkpoints: Arc::default(),
            reads: Arc::default(),
            news: Arc::default(),
            read_stats: Arc::default(),
            hurry,
            is_closed: Arc::clone(&crew.maintainer.is_closed),
            scrubber: crew.scrubber.clone(),
            writer: Arc::clone(&crew.writer),
            lone_writer: crew.lone_writer,
            inline: None,
            threads: Vec::new(),
        };
        match workers {
            Workers::Inline => background.inline = Some(Box::new(crew)),
            Workers::Threads => background.spawn_all(crew, readers.max(1))?,
        }
        Ok(background)
    }

    fn spawn_all(&mut self, crew: Crew, readers: usize) -> io::Result<()> {
        let Crew { writer, lone_writer: _, filler, mut checkpointer, maintainer, scrubber } = crew;
        self.spawn("journal", move || writer::run(&writer))?;
        let is_closed = Arc::clone(&self.is_closed);
        self.spawn("filler", move || filler.run(|| is_closed.load(Ordering::Acquire)))?;
        let (jobs, tell) = (Arc::clone(&self.checkpoints), self.teller());
        self.spawn("checkpoint", move || {
            while let Some(job) = jobs.pop() {
                tell(News::Checkpoint(checkpointer.run(*job)));
            }
        })?;
        let (archive, tell) = (Arc::clone(&self.archive), self.teller());
        self.spawn("maintenance", move || {
            give_way();
            while let Some(work) = archive.maintenance.pop() {
                if let Some(done) = maintainer.run(work, &|| archive.maintenance.try_pop()) {
                    tell(News::Merge(done));
                }
            }
        })?;
        if let Some(options) = scrubber.options {
            self.spawn("scrub", move || {
                give_way();
                scrubber.run(options);
            })?;
        }
        for number in 0..readers {
            let (jobs, tell) = (Arc::clone(&self.reads), self.teller());
            let stats = Arc::clone(&self.read_stats);
            self.spawn(&format!("reader-{number}"), move || {
                while let Some(job) = jobs.pop() {
                    tell(answer(&job, &stats));
                }
            })?;
        }
        Ok(())
    }

    /// Hands news to the owner and wakes it.
    fn teller(&self) -> impl Fn(News) + Send + 'static {
        let (news, journal) = (Arc::clone(&self.news), Arc::clone(&self.journal));
        move |thing| {
            news.push(thing);
            journal.wake_owner();
        }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Whether the owner may write a group itself once it has nothing else to do: a lone one, with
    /// nothing before it on its way, and a fast disk.
    pub(super) fn is_for_owner(&self, group: &Group) -> bool {
        let is_lone = group.entries <= LONE_ENTRIES
            && group.body_len() <= LONE_BYTES
            && self.journal.durable() + 1 == group.number;
        is_lone
            && match self.lone_writer {
                LoneWriter::Measured => self.journal.is_fast(),
                LoneWriter::Owner => true,
                LoneWriter::Journal => false,
            }
    }

    /// Writes such a group. Gives it back if the journal's thread is at work.
    pub(super) fn write_now(&self, group: Group) -> Option<Group> {
        let Ok(mut writer) = self.writer.try_lock() else { return Some(group) };
        let unwritten = writer.write_now(group);
        let has_more_to_do = writer.has_more_to_do();
        drop(writer);
        if unwritten.is_none() && has_more_to_do {
            self.journal.end_rest();
        }
        unwritten
    }

    pub(super) fn maintain(&self, work: Maintenance) {
        self.archive.maintenance.push(work);
    }

    /// Reads all sealed files, as fast as it goes.
    pub(super) fn scrub(&self) {
        self.scrubber.pass(None);
    }

    /// One round of everything, in a fixed order.
    pub(super) fn run_inline(&mut self) {
        self.run_some_inline(InlineWorkers::ALL);
    }

    /// One round of some workers, as if the others were slow. A checkpoint waits for the journal, so
    /// that this one works when the other does.
    pub(super) fn run_some_inline(&mut self, workers: InlineWorkers) {
        let Some(crew) = &mut self.inline else { return };
        let journal = workers.journal || workers.checkpoints;
        if journal {
            writer::lock(&crew.writer).step();
        }
        if workers.filler {
            crew.filler.step();
        }
        while workers.checkpoints
            && let Some(job) = self.checkpoints.try_pop()
        {
            self.news.push(News::Checkpoint(crew.checkpointer.run(*job)));
        }
        while workers.maintenance
            && let Some(work) = self.archive.maintenance.try_pop()
        {
            let next = || self.archive.maintenance.try_pop();
            if let Some(done) = crew.maintainer.run(work, &next) {
                self.news.push(News::Merge(done));
            }
        }
        while workers.reads
            && let Some(job) = self.reads.try_pop()
        {
            self.news.push(answer(&job, &self.read_stats));
        }
        if journal {
            let mut writer = writer::lock(&crew.writer);
            writer.step();
            writer.idle();
        }
    }

    /// Lets workers go on until there may be news.
    pub(super) fn wait_for_news(&mut self) {
        if self.inline.is_some() {
            self.run_inline();
        } else {
            self.news.wait(Duration::from_millis(10));
        }
    }

    /// Lets the workers finish what they have, and waits for them.
    pub(super) fn stop(&mut self) {
        if let Some(crew) = self.inline.take() {
            let mut writer = writer::lock(&crew.writer);
            writer.step();
            writer.finish();
        }
        self.is_closed.store(true, Ordering::Release);
        self.checkpoints.close();
        self.archive.maintenance.close();
        self.reads.close();
        self.scrubber.alarm.close();
        self.journal.close();
        self.journal.files_changed();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.journal.fail("a thread of the log panicked".to_owned());
            }
        }
    }
}

fn answer(job: &ReadJob, stats: &ReadStats) -> News {
    News::Read(job.id, job.request.stream, job.run(stats))
}

impl Drop for Background {
    fn drop(&mut self) {
        // An engine that is dropped without being closed stops like a killed process, except that
        // groups on their way are written.
        if !self.threads.is_empty() {
            self.stop();
        }
        // What was not done holds segments, and they the archive in which it waits.
        while self.archive.maintenance.try_pop().is_some() {}
    }
}

/// Lets everything else go first on this thread's processor: merging makes later reads cheaper, and
/// nobody waits for it. On Linux a priority belongs to a thread; elsewhere nothing changes.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "merging has the priority of everything else");
    }
}
