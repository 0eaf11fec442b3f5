//! The disk as a file system of the kernel (FUSE), with a switch for the power.
//!
//! The kernel keeps nothing back: files are read and written directly, and names and attributes
//! are asked for each time. What the files hold is the [`Disk`]'s part.

use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Disk, Image, Look, Refusal, Survival};
use crate::lives::payload::next;

/// The kernel must ask each time.
const NOT_KEPT: Duration = Duration::ZERO;
/// Past the kernel's page cache.
const DIRECT: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;
/// Longest time a sync takes: enough for writes to happen meanwhile, as on a device.
const SYNC_MICROS: u64 = 1_000;

/// Whether syncs do what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honesty {
    /// They do.
    Honest,
    /// They report success and make nothing durable.
    Lying,
}

#[derive(Debug)]
struct State {
    disk: Disk,
    /// Changes until the power fails.
    cut_in: Option<u64>,
    /// The power has failed.
    off: bool,
    /// Whoever waits for the disk gets an error now: its process is about to end.
    released: bool,
    random: u64,
    changes: u64,
}

/// A file system. Clones share it.
#[derive(Clone, Debug)]
pub struct FileSystem {
    honesty: Honesty,
    shared: Arc<(Mutex<State>, Condvar)>,
}

fn number(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NotFound => Errno::ENOENT,
        Refusal::Exists => Errno::EEXIST,
        Refusal::NotADirectory => Errno::ENOTDIR,
        Refusal::IsADirectory => Errno::EISDIR,
        Refusal::NotEmpty => Errno::ENOTEMPTY,
    }
}

fn attributes(look: Look) -> FileAttr {
    FileAttr {
        ino: INodeNo(look.node),
        size: look.len,
        blocks: look.len.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if look.is_dir { FileType::Directory } else { FileType::RegularFile },
        perm: if look.is_dir { 0o700 } else { 0o600 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

impl FileSystem {
    /// An empty one, with power.
    pub fn new(honesty: Honesty, seed: u64) -> Self {
        let state = State {
            disk: Disk::default(),
            cut_in: None,
            off: false,
            released: false,
            random: seed,
            changes: 0,
        };
        Self { honesty, shared: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, held: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let woken = self.shared.1.wait_timeout(held, limit);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The power fails at the `n`-th change from now (1 is the next). Whoever uses the disk then waits until
    /// [`release`](Self::release).
    pub fn cut_in(&self, n: u64) {
        self.lock().cut_in = Some(n);
    }

    /// Waits until it has failed, for `step` at most. Says whether it has.
    pub fn is_cut(&self, step: Duration) -> bool {
        let held = self.lock();
        if held.off { true } else { self.wait(held, step).off }
    }

    /// Who waits for the disk gets an error.
    pub fn release(&self) {
        let mut held = self.lock();
        held.off = true;
        held.released = true;
        self.shared.1.notify_all();
    }

    /// The power fails now, if it has not, and is back; nobody may use the disk. Returns what
    /// survived, and what is there.
    pub fn lose_power(&self, random: &mut u64) -> (Survival, Image) {
        let mut held = self.lock();
        let survival = held.disk.lose_power(random);
        (held.off, held.released, held.cut_in) = (false, false, None);
        (survival, held.disk.image())
    }

    /// Changes and syncs so far.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// The state, if there is power.
    fn powered(&self) -> Result<MutexGuard<'_, State>, Errno> {
        let mut held = self.lock();
        if !held.off {
            return Ok(held);
        }
        // An end of its own, so that nobody waits for ever for a test that died.
        let end = Instant::now() + Duration::from_secs(60);
        while held.off && !held.released && Instant::now() < end {
            held = self.wait(held, Duration::from_secs(1));
        }
        Err(Errno::EIO)
    }

    fn look<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T, Refusal>) -> Result<T, Errno> {
        act(&mut self.powered()?.disk).map_err(number)
    }

    /// Makes a change, unless the power fails: then it may have been made.
    fn change<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T, Refusal>) -> Result<T, Errno> {
        let mut held = self.powered()?;
        held.changes += 1;
        if let Some(left) = held.cut_in.map(|n| n.saturating_sub(1)) {
            held.cut_in = Some(left);
            if left == 0 {
                if next(&mut held.random) % 2 == 1 {
                    // Nobody is told what came of it.
                    let _ = act(&mut held.disk);
                }
                held.off = true;
                self.shared.1.notify_all();
                drop(held);
                return Err(self.powered().err().unwrap_or(Errno::EIO));
            }
        }
        act(&mut held.disk).map_err(number)
    }

    fn sync(&self, node: u64) -> Result<(), Errno> {
        let honest = self.honesty == Honesty::Honest;
        let sync = self.change(|disk| disk.begin_sync(node))?;
        // The device is at work.
        let micros = next(&mut self.lock().random) % SYNC_MICROS;
        std::thread::sleep(Duration::from_micros(micros));
        let mut held = self.powered()?;
        if honest {
            held.disk.end_sync(sync);
        }
        Ok(())
    }

    fn sync_dir(&self, node: u64) -> Result<(), Errno> {
        let honest = self.honesty == Honesty::Honest;
        self.change(|disk| if honest { disk.sync_dir(node) } else { Ok(()) })
    }

    fn make(&self, dir: INodeNo, name: &OsStr, is_dir: bool) -> Result<FileAttr, Errno> {
        let name = text(name)?;
        self.change(|disk| {
            let look = disk.make(dir.0, name, is_dir)?;
            if !is_dir {
                disk.open(look.node)?;
            }
            Ok(attributes(look))
        })
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&NOT_KEPT, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for FileSystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = text(name).and_then(|name| self.look(|disk| disk.find(parent.0, name)));
        entry(reply, found.map(attributes));
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.look(|disk| disk.look(node.0)) {
            Ok(look) => reply.attr(&NOT_KEPT, &attributes(look)),
            Err(error) => reply.error(error),
        }
    }

    /// Only lengths change; owners, modes and times are as they are.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = match size {
            Some(len) => self.change(|disk| disk.set_len(node.0, len as usize)),
            None => Ok(()),
        };
        match done.and_then(|()| self.look(|disk| disk.look(node.0))) {
            Ok(look) => reply.attr(&NOT_KEPT, &attributes(look)),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.make(parent, name, true));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, false) {
            Ok(new) => reply.created(&NOT_KEPT, &new, Generation(0), FileHandle(0), DIRECT),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = |name| self.change(|disk| disk.remove(parent.0, name, false));
        empty(reply, text(name).and_then(remove));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = |name| self.change(|disk| disk.remove(parent.0, name, true));
        empty(reply, text(name).and_then(remove));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let rename = |(old, new): (&str, &str)| {
            self.change(|disk| disk.rename(parent.0, old, new_parent.0, new))
        };
        empty(reply, text(name).and_then(|old| Ok((old, text(new_name)?))).and_then(rename));
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.look(|disk| disk.open(node.0)) {
            Ok(()) => reply.opened(FileHandle(0), DIRECT),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.lock().disk.close(node.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Closing a file makes nothing durable.
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (offset, size) = (offset as usize, size as usize);
        match self.look(|disk| disk.read(node.0, offset, size).map(<[u8]>::to_vec)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.change(|disk| disk.write(node.0, offset as usize, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let end = (offset + length) as usize;
        empty(
            reply,
            self.change(|disk| match disk.look(node.0)?.len as usize {
                len if len < end => disk.set_len(node.0, end),
                _ => Ok(()),
            }),
        );
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.sync(node.0));
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.sync_dir(node.0));
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = match self.look(|disk| disk.list(node.0)) {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        for (index, (name, look)) in names.iter().enumerate().skip(offset as usize) {
            let kind = attributes(*look).kind;
            if reply.add(INodeNo(look.node), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
