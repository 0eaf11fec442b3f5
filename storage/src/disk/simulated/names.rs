//! Names of files and directories, and what becomes of them in a crash.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::SimulatedDisk;
use super::file::SimulatedFile;
use super::inode::Inode;
use crate::disk::{Disk, DiskFile};

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Create { path: String, file: u64 },
    Rename { from: String, to: String },
    Remove { path: String },
}

pub(super) fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Create { path, file } => {
            names.insert(path.clone(), *file);
        }
        NameChange::Rename { from, to } => {
            for (old, new) in renamed(names, from, to) {
                if let Some(file) = names.remove(&old) {
                    names.insert(new, file);
                }
            }
        }
        NameChange::Remove { path } => {
            names.retain(|name, _| name != path && !is_inside(name, path));
        }
    }
}

/// What a renaming of `from` moves: the file, or everything in the directory.
fn renamed(names: &BTreeMap<String, u64>, from: &str, to: &str) -> Vec<(String, String)> {
    names
        .keys()
        .filter(|name| *name == from || is_inside(name, from))
        .filter_map(|name| Some((name.clone(), format!("{to}{}", name.strip_prefix(from)?))))
        .collect()
}

fn is_inside(name: &str, dir: &str) -> bool {
    name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn touches(change: &NameChange, dir: &str) -> bool {
    match change {
        NameChange::Create { path, .. } | NameChange::Remove { path } => parent(path) == dir,
        NameChange::Rename { from, to } => parent(from) == dir || parent(to) == dir,
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: no such file"))
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut contents = self.lock();
        contents.counts.names += 1;
        contents.change()?;
        contents.take_handle()?;
        if contents.names.contains_key(path) {
            let reason = format!("{path}: exists already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        let dir = parent(path);
        if !dir.is_empty() && !contents.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let file = contents.next_file;
        contents.next_file += 1;
        contents.files.insert(file, Inode::default());
        let change = NameChange::Create { path: path.to_owned(), file };
        apply(&mut contents.names, &change);
        contents.pending_names.push(change);
        Ok(Arc::new(SimulatedFile { disk: self.clone(), file, life: contents.life }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut contents = self.lock();
        contents.check_power()?;
        contents.take_handle()?;
        let file = *contents.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), file, life: contents.life }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.counts.names += 1;
        contents.change()?;
        if renamed(&contents.names, from, to).is_empty() && !contents.dirs.contains(from) {
            return Err(not_found(from));
        }
        if contents.dirs.contains(from) {
            let moved: Vec<String> = contents
                .dirs
                .iter()
                .filter(|d| *d == from || is_inside(d, from))
                .cloned()
                .collect();
            for dir in moved {
                contents.dirs.remove(&dir);
                let rest = dir.strip_prefix(from).unwrap_or_default().to_owned();
                contents.dirs.insert(format!("{to}{rest}"));
            }
        }
        let change = NameChange::Rename { from: from.to_owned(), to: to.to_owned() };
        apply(&mut contents.names, &change);
        contents.pending_names.push(change);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.counts.names += 1;
        contents.change()?;
        if !contents.names.contains_key(path) && !contents.dirs.contains(path) {
            return Err(not_found(path));
        }
        contents.dirs.retain(|dir| dir != path && !is_inside(dir, path));
        let change = NameChange::Remove { path: path.to_owned() };
        apply(&mut contents.names, &change);
        contents.pending_names.push(change);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.check_power()?;
        for (end, _) in path.match_indices('/') {
            contents.dirs.insert(path.get(..end).unwrap_or(path).to_owned());
        }
        contents.dirs.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut contents = self.lock();
        contents.check_power()?;
        contents.take_handle()?;
        if !path.is_empty() && !contents.dirs.contains(path) {
            return Err(not_found(path));
        }
        let all = contents.names.keys().chain(&contents.dirs);
        let inside = all.filter(|name| parent(name) == path && !name.is_empty());
        let names = inside.map(|name| name.rsplit_once('/').map_or(name.as_str(), |(_, n)| n));
        Ok(names.map(str::to_owned).collect())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut contents = self.lock();
        contents.counts.dir_syncs += 1;
        contents.change()?;
        contents.take_handle()?;
        let pending = std::mem::take(&mut contents.pending_names);
        let (now, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(|c| touches(c, path));
        for change in &now {
            apply(&mut contents.durable_names, change);
        }
        contents.pending_names = later;
        Ok(())
    }
}
