//! A machine whose power fails: the file system under the broker, mounted, cut off and mounted
//! again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session};

use crate::disk::{Image, Survival, write_out};
use crate::file_system::{FileSystem, Honesty};
use crate::lives::payload::next;
use crate::lives::{Machine, Moment, Outcome};
use crate::process::Broker;

/// Threads that serve the file system, so that writes go on while syncs take their time.
const THREADS: usize = 4;
/// The power fails at one of so many changes of a broker that serves.
const RUNNING_CHANGES: u64 = 400;
/// And of one that starts.
const STARTING_CHANGES: u64 = 40;
/// Changes come in this time if a broker lives; after it, the power fails all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Images kept: a round has two losses of power.
const IMAGES: usize = 2;

/// The machine.
pub struct PowerLoss {
    file_system: FileSystem,
    point: PathBuf,
    mount: Option<BackgroundSession>,
    /// What was left after the last losses of power, the newest last.
    images: VecDeque<Image>,
    /// How often what survived.
    pub survivals: BTreeMap<Survival, u64>,
    /// Losses of power at a change of the disk, not between two.
    pub within: u64,
}

impl PowerLoss {
    /// Mounts an empty disk.
    ///
    /// # Errors
    /// What the operating system says, if this user or machine cannot mount it.
    pub fn new(honesty: Honesty, seed: u64, point: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(point)?;
        let mut machine = Self {
            file_system: FileSystem::new(honesty, seed),
            point: point.to_path_buf(),
            mount: None,
            images: VecDeque::new(),
            survivals: BTreeMap::new(),
            within: 0,
        };
        machine.mount()?;
        Ok(machine)
    }

    fn mount(&mut self) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("claudebus-power-loss".to_owned())];
        config.n_threads = Some(THREADS);
        let session = Session::new(self.file_system.clone(), &self.point, &config)?;
        self.mount = Some(session.spawn()?);
        Ok(())
    }

    /// Losses of power.
    pub fn losses(&self) -> u64 {
        self.survivals.values().sum()
    }

    /// Changes and syncs of the disk.
    pub fn changes(&self) -> u64 {
        self.file_system.changes()
    }

    /// Writes out what the last losses of power left.
    pub fn keep(&self, below: &Path) -> io::Result<()> {
        for (index, image) in self.images.iter().enumerate() {
            write_out(image, &below.join(format!("image-{}", index + 1)))?;
        }
        Ok(())
    }
}

impl Machine for PowerLoss {
    fn kill(&mut self, broker: &mut Broker, when: Moment, random: &mut u64) -> io::Result<bool> {
        let within = match when {
            Moment::Running => RUNNING_CHANGES,
            Moment::Starting => STARTING_CHANGES,
        };
        self.file_system.cut_in(1 + next(random) % within);
        let end = Instant::now() + LONGEST_WAIT;
        let mut cut = false;
        while !cut && Instant::now() < end && broker.ended()?.is_none() {
            cut = self.file_system.is_cut(Duration::from_millis(5));
        }
        self.within += u64::from(cut);
        // Its calls are answered only now, when it cannot tell anybody any more.
        broker.send_kill()?;
        self.file_system.release();
        broker.kill()
    }

    fn died(&mut self, random: &mut u64) -> Outcome<()> {
        // Nothing the kernel knows of the files may live on.
        match self.mount.take().map(BackgroundSession::umount_and_join) {
            // Linux says so to some of the threads that wait for a call while the file system goes.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Some(gone) => gone?,
            None => {}
        }
        let (survival, image) = self.file_system.lose_power(random);
        *self.survivals.entry(survival).or_default() += 1;
        self.images.push_back(image);
        if self.images.len() > IMAGES {
            self.images.pop_front();
        }
        self.mount()?;
        Ok(())
    }
}
