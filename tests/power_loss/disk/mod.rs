//! What a file system holds: what programs see, and what would be left if the power failed now.
//!
//! It promises what POSIX does and no more, as the storage engine's own simulated disk: bytes
//! survive once their file was synced, and names once their directory was. What was not synced
//! survives by chance: each sector of 512 bytes is the old or the new one, a length may survive
//! without its bytes, and of the changes of names, in their order, as many of the first as chance
//! decides. That is stricter than ext4, where a sync of a file keeps its name too. New directories
//! are names like any other. It knows nothing of processes and the kernel.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::lives::payload::next;
pub use file::Survival;
use file::{File, Sync};

/// The number of the root directory.
pub const ROOT: u64 = 1;

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such name, file or directory.
    NotFound,
    /// The name is taken.
    Exists,
    /// It is no directory.
    NotADirectory,
    /// It is a directory.
    IsADirectory,
    /// The directory holds names.
    NotEmpty,
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Link { dir: u64, name: String, node: u64 },
    Unlink { dir: u64, name: String, node: u64 },
    Rename { from: u64, old: String, to: u64, new: String, node: u64 },
}

impl Change {
    fn touches(&self, place: u64) -> bool {
        match self {
            Self::Link { dir, .. } | Self::Unlink { dir, .. } => *dir == place,
            Self::Rename { from, to, .. } => *from == place || *to == place,
        }
    }

    fn node(&self) -> u64 {
        match self {
            Self::Link { node, .. } | Self::Unlink { node, .. } | Self::Rename { node, .. } => {
                *node
            }
        }
    }
}

/// A directory.
#[derive(Clone, Debug, Default)]
struct Dir {
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
enum Node {
    Dir(Dir),
    File(File),
}

/// What kind of thing a number is, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its number.
    pub node: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Its length in bytes.
    pub len: u64,
}

/// The files of a disk, by path, as they are written out for people to look at.
pub type Image = Vec<(PathBuf, Vec<u8>)>;

/// Files and directories by number.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    writes: u64,
    pending: Vec<Change>,
}

impl Default for Disk {
    fn default() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]);
        Self { nodes, next_node: ROOT + 1, writes: 0, pending: Vec::new() }
    }
}

impl Disk {
    fn dir(&self, node: u64) -> Result<&Dir, Refusal> {
        match self.nodes.get(&node) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(Refusal::NotADirectory),
            None => Err(Refusal::NotFound),
        }
    }

    fn dir_mut(&mut self, node: u64) -> Result<&mut Dir, Refusal> {
        match self.nodes.get_mut(&node) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(Refusal::NotADirectory),
            None => Err(Refusal::NotFound),
        }
    }

    fn file(&self, node: u64) -> Result<&File, Refusal> {
        match self.nodes.get(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(Refusal::IsADirectory),
            None => Err(Refusal::NotFound),
        }
    }

    fn file_mut(&mut self, node: u64) -> Result<&mut File, Refusal> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(Refusal::IsADirectory),
            None => Err(Refusal::NotFound),
        }
    }

    /// What a number is.
    pub fn look(&self, node: u64) -> Result<Look, Refusal> {
        match self.nodes.get(&node) {
            Some(Node::Dir(_)) => Ok(Look { node, is_dir: true, len: 0 }),
            Some(Node::File(file)) => {
                Ok(Look { node, is_dir: false, len: file.current.len() as u64 })
            }
            None => Err(Refusal::NotFound),
        }
    }

    /// What a name in a directory is.
    pub fn find(&self, dir: u64, name: &str) -> Result<Look, Refusal> {
        self.look(*self.dir(dir)?.names.get(name).ok_or(Refusal::NotFound)?)
    }

    /// The names in a directory.
    pub fn list(&self, dir: u64) -> Result<Vec<(String, Look)>, Refusal> {
        let names = &self.dir(dir)?.names;
        names.iter().map(|(name, node)| Ok((name.clone(), self.look(*node)?))).collect()
    }

    /// A new name for a new file or directory.
    pub fn make(&mut self, dir: u64, name: &str, is_dir: bool) -> Result<Look, Refusal> {
        let node = self.next_node;
        let names = &mut self.dir_mut(dir)?.names;
        if names.contains_key(name) {
            return Err(Refusal::Exists);
        }
        names.insert(name.to_owned(), node);
        self.next_node += 1;
        let new = if is_dir { Node::Dir(Dir::default()) } else { Node::File(File::default()) };
        self.nodes.insert(node, new);
        self.pending.push(Change::Link { dir, name: name.to_owned(), node });
        self.look(node)
    }

    /// Takes a name away.
    pub fn remove(&mut self, dir: u64, name: &str, is_dir: bool) -> Result<(), Refusal> {
        let look = self.find(dir, name)?;
        match (look.is_dir, is_dir) {
            (true, false) => return Err(Refusal::IsADirectory),
            (false, true) => return Err(Refusal::NotADirectory),
            (true, true) if !self.dir(look.node)?.names.is_empty() => {
                return Err(Refusal::NotEmpty);
            }
            _ => {}
        }
        self.dir_mut(dir)?.names.remove(name);
        self.pending.push(Change::Unlink { dir, name: name.to_owned(), node: look.node });
        Ok(())
    }

    /// Moves a name, in place of what had the new one.
    pub fn rename(&mut self, from: u64, old: &str, to: u64, new: &str) -> Result<(), Refusal> {
        let node = self.find(from, old)?.node;
        match self.find(to, new) {
            Ok(there) if there.node == node => return Ok(()),
            Ok(there) if there.is_dir && !self.dir(there.node)?.names.is_empty() => {
                return Err(Refusal::NotEmpty);
            }
            _ => {}
        }
        self.dir(to)?;
        self.dir_mut(from)?.names.remove(old);
        self.dir_mut(to)?.names.insert(new.to_owned(), node);
        let (old, new) = (old.to_owned(), new.to_owned());
        self.pending.push(Change::Rename { from, old, to, new, node });
        Ok(())
    }

    /// A file is opened.
    pub fn open(&mut self, node: u64) -> Result<(), Refusal> {
        self.file_mut(node)?.open += 1;
        Ok(())
    }

    /// It is closed.
    pub fn close(&mut self, node: u64) {
        if let Ok(file) = self.file_mut(node) {
            file.open = file.open.saturating_sub(1);
        }
    }

    /// Bytes of a file, fewer at its end.
    pub fn read(&self, node: u64, offset: usize, len: usize) -> Result<&[u8], Refusal> {
        let bytes = &self.file(node)?.current;
        let start = offset.min(bytes.len());
        Ok(&bytes[start..start.saturating_add(len).min(bytes.len())])
    }

    /// Writes into a file, which grows if need be.
    pub fn write(&mut self, node: u64, offset: usize, bytes: &[u8]) -> Result<(), Refusal> {
        self.writes += 1;
        let number = self.writes;
        self.file_mut(node)?.write(offset, bytes, number);
        Ok(())
    }

    /// Cuts a file, or adds zeros.
    pub fn set_len(&mut self, node: u64, len: usize) -> Result<(), Refusal> {
        self.writes += 1;
        let number = self.writes;
        self.file_mut(node)?.set_len(len, number);
        Ok(())
    }

    /// A sync of a file begins.
    pub fn begin_sync(&self, node: u64) -> Result<Sync, Refusal> {
        Ok(self.file(node)?.begin_sync(node, self.writes))
    }

    /// It is over.
    pub fn end_sync(&mut self, sync: Sync) {
        if let Ok(file) = self.file_mut(sync.node()) {
            file.end_sync(sync);
        }
    }

    /// Makes the names in a directory durable, and what they depend on: how the files they stand for
    /// came to be where they are.
    pub fn sync_dir(&mut self, dir: u64) -> Result<(), Refusal> {
        self.dir(dir)?;
        let mut nodes = BTreeSet::new();
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if change.touches(dir) || nodes.contains(&change.node()) {
                nodes.insert(change.node());
                now.push(change);
            } else {
                later.push(change);
            }
        }
        later.reverse();
        self.pending = later;
        now.iter().rev().for_each(|change| self.apply(change));
        self.forget_unreachable();
        Ok(())
    }

    fn apply(&mut self, change: &Change) {
        let mut durable = |dir: u64, name: &String, node: Option<u64>| {
            if let Some(Node::Dir(dir)) = self.nodes.get_mut(&dir) {
                match node {
                    Some(node) => dir.durable.insert(name.clone(), node),
                    None => dir.durable.remove(name),
                };
            }
        };
        match change {
            Change::Link { dir, name, node } => durable(*dir, name, Some(*node)),
            Change::Unlink { dir, name, .. } => durable(*dir, name, None),
            Change::Rename { from, old, to, new, node } => {
                durable(*from, old, None);
                durable(*to, new, Some(*node));
            }
        }
    }

    /// Frees what has no name, is not open, and cannot come back.
    fn forget_unreachable(&mut self) {
        let mut reached: BTreeSet<u64> = self.pending.iter().map(Change::node).collect();
        reached.insert(ROOT);
        let mut open: Vec<u64> = reached.iter().copied().collect();
        while let Some(node) = open.pop() {
            if let Some(Node::Dir(dir)) = self.nodes.get(&node) {
                let names = dir.names.values().chain(dir.durable.values()).copied();
                open.extend(names.filter(|node| reached.insert(*node)));
            }
        }
        self.nodes.retain(|number, node| {
            reached.contains(number) || matches!(node, Node::File(file) if file.open > 0)
        });
    }

    /// The power fails. What was not synced survives as `random` decides.
    pub fn lose_power(&mut self, random: &mut u64) -> Survival {
        let survival = Survival::draw(random);
        let pending = std::mem::take(&mut self.pending);
        let survivors = match survival {
            Survival::Nothing => 0,
            Survival::Everything => pending.len(),
            Survival::Some => (next(random) % (pending.len() as u64 + 1)) as usize,
        };
        pending.iter().take(survivors).for_each(|change| self.apply(change));
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir(dir) => dir.names.clone_from(&dir.durable),
                Node::File(file) => file.open = 0,
            }
        }
        self.forget_unreachable();
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.lose_power(survival, random);
            }
        }
        survival
    }

    /// All files.
    pub fn image(&self) -> Image {
        let mut image = Vec::new();
        let mut open = vec![(PathBuf::new(), ROOT)];
        while let Some((path, node)) = open.pop() {
            match self.nodes.get(&node) {
                Some(Node::Dir(dir)) => {
                    open.extend(dir.names.iter().map(|(name, node)| (path.join(name), *node)));
                }
                Some(Node::File(file)) => image.push((path, file.current.clone())),
                None => {}
            }
        }
        image
    }
}

/// Writes an image out below a directory.
pub fn write_out(image: &Image, below: &Path) -> std::io::Result<()> {
    for (path, bytes) in image {
        let path = below.join(path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(disk: &mut Disk, node: u64) {
        let sync = disk.begin_sync(node).unwrap();
        disk.end_sync(sync);
    }

    fn named(disk: &Disk, name: &str) -> Option<Vec<u8>> {
        let node = disk.find(ROOT, name).ok()?.node;
        disk.read(node, 0, usize::MAX).ok().map(<[u8]>::to_vec)
    }

    #[test]
    fn what_was_synced_survives() {
        for seed in 0..200 {
            let mut disk = Disk::default();
            let file = disk.make(ROOT, "a", false).unwrap().node;
            disk.write(file, 0, &[1; 2_000]).unwrap();
            sync(&mut disk, file);
            disk.sync_dir(ROOT).unwrap();
            disk.write(file, 2_000, &[2; 1_000]).unwrap();
            disk.lose_power(&mut { seed });
            assert_eq!(named(&disk, "a").unwrap()[..2_000], [1; 2_000]);
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_or_torn() {
        let (mut torn, mut nameless, mut short) = (0, 0, 0);
        for seed in 0..200 {
            let mut disk = Disk::default();
            let file = disk.make(ROOT, "a", false).unwrap().node;
            disk.set_len(file, 2_048).unwrap();
            sync(&mut disk, file);
            disk.sync_dir(ROOT).unwrap();
            disk.write(file, 0, &[7; 4_096]).unwrap();
            let other = disk.make(ROOT, "b", false).unwrap().node;
            disk.write(other, 0, b"b").unwrap();
            sync(&mut disk, other);
            disk.lose_power(&mut { seed });
            let left = named(&disk, "a").unwrap();
            let sevens = left[..2_048].iter().filter(|byte| **byte == 7).count();
            torn += usize::from(sevens != 0 && sevens != 2_048);
            short += usize::from(left.len() == 2_048);
            nameless += usize::from(named(&disk, "b").is_none());
        }
        for count in [torn, nameless, short] {
            assert!((20..180).contains(&count), "{torn} {nameless} {short}");
        }
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut disk = Disk::default();
            let file = disk.make(ROOT, "a", false).unwrap().node;
            disk.sync_dir(ROOT).unwrap();
            disk.write(file, 0, &[1; 512]).unwrap();
            let first = disk.begin_sync(file).unwrap();
            disk.write(file, 0, &[2; 1_024]).unwrap();
            let second = disk.begin_sync(file).unwrap();
            disk.write(file, 512, &[3; 512]).unwrap();
            disk.end_sync(second);
            disk.end_sync(first);
            disk.lose_power(&mut { seed });
            let left = named(&disk, "a").unwrap();
            assert_eq!(left[..512], [2; 512]);
            assert!(left[512..] == [2; 512] || left[512..] == [3; 512]);
            lost += usize::from(left[512..] == [2; 512]);
        }
        assert!((20..80).contains(&lost), "{lost}");
    }

    #[test]
    fn names_survive_in_their_order() {
        for seed in 0..200 {
            let mut disk = Disk::default();
            let old = disk.make(ROOT, "old", false).unwrap().node;
            disk.write(old, 0, b"old").unwrap();
            sync(&mut disk, old);
            disk.sync_dir(ROOT).unwrap();
            let new = disk.make(ROOT, "new", false).unwrap().node;
            disk.write(new, 0, b"new").unwrap();
            sync(&mut disk, new);
            disk.rename(ROOT, "new", ROOT, "old").unwrap();
            disk.make(ROOT, "later", false).unwrap();
            disk.lose_power(&mut { seed });
            let replaced = named(&disk, "old").unwrap() == b"new";
            assert!(replaced || named(&disk, "old").unwrap() == b"old");
            assert!(!replaced || named(&disk, "new").is_none());
            assert!(replaced || named(&disk, "later").is_none());
        }
    }

    #[test]
    fn a_directory_is_a_name_of_its_parent() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut disk = Disk::default();
            let dir = disk.make(ROOT, "dir", true).unwrap().node;
            disk.make(dir, "a", false).unwrap();
            disk.sync_dir(dir).unwrap();
            assert_eq!(disk.remove(ROOT, "dir", true), Err(Refusal::NotEmpty));
            disk.lose_power(&mut { seed });
            lost += usize::from(disk.find(ROOT, "dir").is_err());
        }
        assert!((20..80).contains(&lost), "{lost}");
    }

    #[test]
    fn a_file_without_a_name_is_there_while_it_is_open() {
        let mut disk = Disk::default();
        let file = disk.make(ROOT, "a", false).unwrap().node;
        disk.open(file).unwrap();
        disk.write(file, 0, b"a").unwrap();
        disk.remove(ROOT, "a", false).unwrap();
        disk.sync_dir(ROOT).unwrap();
        assert_eq!(disk.read(file, 0, 9).unwrap(), b"a");
        disk.close(file);
        disk.sync_dir(ROOT).unwrap();
        assert_eq!(disk.look(file), Err(Refusal::NotFound));
    }
}
