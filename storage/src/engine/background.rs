//! Who does the engine's slow work: threads, or the owner one step at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::options::Workers;
use crate::journal::files::Filler;
use crate::journal::shared::JournalShared;
use crate::journal::writer::JournalWriter;

/// The workers of an engine. Dropping it lets them finish what they have.
pub(super) struct Background {
    journal: Arc<JournalShared>,
    is_closed: Arc<AtomicBool>,
    inline: Option<Inline>,
    threads: Vec<JoinHandle<()>>,
}

/// Workers that the owner runs.
struct Inline {
    writer: JournalWriter,
    filler: Filler,
}

impl Background {
    pub(super) fn start(
        workers: Workers,
        journal: Arc<JournalShared>,
        writer: JournalWriter,
        filler: Filler,
    ) -> io::Result<Self> {
        let mut background = Self {
            journal,
            is_closed: Arc::new(AtomicBool::new(false)),
            inline: None,
            threads: Vec::new(),
        };
        match workers {
            Workers::Inline => background.inline = Some(Inline { writer, filler }),
            Workers::Threads => {
                background.spawn("journal", move || writer.run())?;
                let is_closed = Arc::clone(&background.is_closed);
                background
                    .spawn("filler", move || filler.run(|| is_closed.load(Ordering::Acquire)))?;
            }
        }
        Ok(background)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }

    /// One round of everything, in a fixed order.
    pub(super) fn run_inline(&mut self) {
        let Some(inline) = &mut self.inline else { return };
        inline.writer.step();
        inline.filler.step();
        inline.writer.step();
        inline.writer.idle();
    }

    /// Lets the workers finish what they have, and waits for them.
    pub(super) fn stop(&mut self) {
        if let Some(mut inline) = self.inline.take() {
            inline.writer.step();
            inline.writer.finish();
        }
        self.is_closed.store(true, Ordering::Release);
        self.journal.close();
        self.journal.files_changed();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.journal.fail("a thread of the log panicked".to_owned());
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // An engine that is dropped without being closed stops like a killed process, except that
        // groups on their way are written.
        if !self.threads.is_empty() {
            self.stop();
        }
    }
}
