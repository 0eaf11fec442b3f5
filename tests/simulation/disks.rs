//! The disks of the machine: one, or two that hold the same files. One of two may lose and alter what
//! it holds, always the same one; both lose power at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use claudebus_storage::copies::pair;
use claudebus_storage::{Disk, DiskFile, SimulatedDisk};

use crate::chance::Chance;
use crate::world::Sabotage;

/// A machine in so many has two disks.
const TWINS: u64 = 6;

/// See the module's text.
pub struct Disks {
    sides: Vec<SimulatedDisk>,
    lies: Arc<AtomicBool>,
    /// Which side rots, if one does.
    rotten: Option<usize>,
    /// The side and its change at which power fails.
    power_off_at: Option<(usize, u64)>,
}

impl Disks {
    /// Empty disks.
    pub fn new(chance: &mut Chance, sabotage: Sabotage) -> Self {
        let has_twins = chance.one_in(TWINS);
        let count = if has_twins && sabotage != Sabotage::LoneCopies { 2 } else { 1 };
        let side = chance.index(2);
        Self {
            sides: (0..count).map(|_| SimulatedDisk::new()).collect(),
            lies: Arc::default(),
            rotten: has_twins.then(|| side.min(count - 1)),
            power_off_at: None,
        }
    }

    /// What the broker's log is opened on. Two disks are brought in line first.
    pub fn open(&self, sabotage: Sabotage, seed: u64) -> Result<Arc<dyn Disk>, String> {
        let side = |disk: &SimulatedDisk| -> Arc<dyn Disk> {
            if sabotage == Sabotage::LyingDisk {
                Arc::new(LyingDisk { disk: disk.clone(), lies: Arc::clone(&self.lies) })
            } else {
                Arc::new(disk.clone())
            }
        };
        let [first, second] = &*self.sides else { return Ok(side(&self.sides[0])) };
        let paired = pair(side(first), side(second), ("one", "other"), seed);
        paired.map(|(disk, _)| Arc::new(disk) as Arc<dyn Disk>).map_err(|error| error.to_string())
    }

    /// Whether syncs do nothing from now on, where disks lie.
    pub fn set_lying(&self, is_lying: bool) {
        self.lies.store(is_lying, Ordering::Relaxed);
    }

    /// Lets the power fail at a change of a disk within the next `within`, instead of when it was to
    /// fail before.
    pub fn arm_power_loss(&mut self, chance: &mut Chance, within: u64) {
        if self.has_lost_power() {
            return;
        }
        // That may have been a change of the other disk, which must not fail alone.
        self.keep_power();
        let side = chance.index(self.sides.len());
        let n = 1 + chance.below(within);
        let disk = &self.sides[side];
        self.power_off_at = Some((side, disk.counts().changes() + n));
        disk.power_off_after(n);
    }

    /// Lets a change of a disk within the next `within` fail.
    pub fn arm_failure(&self, chance: &mut Chance, within: u64) {
        let disk = &self.sides[chance.index(self.sides.len())];
        let n = 1 + chance.below(within);
        if chance.one_in(3) { disk.run_out_after(n) } else { disk.fail_after(n) }
    }

    /// No fault happens any more.
    pub fn disarm(&mut self) {
        self.keep_power();
        self.sides.iter().for_each(|disk| disk.fail_after(u64::MAX / 2));
    }

    /// The power does not fail any more, or is back.
    fn keep_power(&mut self) {
        if let Some((side, _)) = self.power_off_at.take() {
            self.sides[side].power_off_after(u64::MAX / 2);
        }
    }

    /// Whether the power that was to fail has failed.
    pub fn has_lost_power(&self) -> bool {
        self.power_off_at.is_some_and(|(side, at)| self.sides[side].counts().changes() >= at)
    }

    /// Forgets what was not synced, or tears it.
    pub fn crash(&self, chance: &mut Chance) {
        self.sides.iter().for_each(|disk| disk.crash(chance.next()));
    }

    /// Damages the side that rots, while the machine is switched off. Says what happened.
    pub fn rot(&self, chance: &mut Chance) -> Option<String> {
        let disk = &self.sides[self.rotten?];
        if !chance.one_in(2) {
            return None;
        }
        if chance.one_in(10) {
            disk.paths().iter().for_each(|path| lose(disk, path));
            return Some("one disk is empty".to_owned());
        }
        let mut what = Vec::new();
        for _ in 0..=chance.below(3) {
            let paths: Vec<String> =
                disk.paths().into_iter().filter(|path| !path.ends_with("COPIES")).collect();
            if paths.is_empty() {
                break;
            }
            let path = chance.pick(&paths);
            let mut bytes = disk.contents(path).unwrap_or_default();
            let at = chance.index(bytes.len().max(1));
            match chance.below(6) {
                0 => lose(disk, path),
                1 => bytes.truncate(at),
                2 => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
                _ => {
                    let bit = 1 << chance.below(8);
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
                }
            }
            disk.damage(path, bytes);
            what.push(format!("{path} at {at}"));
        }
        Some(what.join(", "))
    }
}

/// Takes a file away for good.
fn lose(disk: &SimulatedDisk, path: &str) {
    let gone = disk.remove(path);
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    gone.and_then(|()| disk.sync_dir(dir)).expect("no fault is armed");
}

/// A disk whose files sometimes do not sync.
struct LyingDisk {
    disk: SimulatedDisk,
    lies: Arc<AtomicBool>,
}

struct LyingFile {
    file: Arc<dyn DiskFile>,
    lies: Arc<AtomicBool>,
}

impl LyingDisk {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(LyingFile { file, lies: Arc::clone(&self.lies) })
    }
}

impl Disk for LyingDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.lies.load(Ordering::Relaxed) { Ok(()) } else { self.file.sync() }
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
