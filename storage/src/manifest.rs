//! The manifest: which files count, and from which group on the journal is needed. A checkpoint
//! happens at the moment a new manifest gets its name.
//!
//! Two generations are kept, so that one damaged manifest, or a damaged file that only the newer
//! one lists, leaves a way back.

use std::io;

use crate::codec::{Fields, PutFields, checksum};
use crate::crash::CrashPoints;
use crate::disk::Disk;
use crate::segment::SegmentId;
use crate::state::file::StateFile;

/// The directory of manifests.
pub(crate) const DIR: &str = "manifest";
const MAGIC: &[u8; 8] = b"CBMANIFE";
/// A manifest of a newer major version is refused.
pub(crate) const MAJOR: u16 = 1;
const MINOR: u16 = 0;
const TEMPORARY: &str = "manifest/next";

/// A segment as the manifest lists it; its streams are in the state files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListedSegment {
    pub(crate) id: SegmentId,
    pub(crate) length: u64,
    pub(crate) digest: u64,
}

/// A file of message ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdFile {
    pub(crate) id: u64,
    pub(crate) length: u64,
    pub(crate) digest: u64,
    /// Nothing in it is remembered after this, in nanoseconds since the Unix epoch.
    pub(crate) until: u64,
}

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) generation: u64,
    /// Everything up to this group is in the files listed here.
    pub(crate) through: u64,
    /// No segment had this number or a higher one.
    pub(crate) next_segment: u64,
    /// Journal files with groups up to this one may hold erased bytes; 0 for none.
    pub(crate) scrub_through: u64,
    /// Base first, then deltas, oldest first.
    pub(crate) states: Vec<StateFile>,
    pub(crate) ids: Vec<IdFile>,
    /// Ascending.
    pub(crate) segments: Vec<ListedSegment>,
    /// Segments that hold erased records and must be written anew. Ascending.
    pub(crate) rewrite: Vec<SegmentId>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("{file} is damaged")]
    Damaged { file: String },
    #[error("{file} has format {major}, this version knows formats up to {MAJOR}")]
    Newer { file: String, major: u16 },
    #[error("cannot read {file}: {source}")]
    Io { file: String, source: io::Error },
}

pub(crate) fn path(generation: u64) -> String {
    format!("{DIR}/{generation:016x}")
}

impl Manifest {
    /// Every file it lists.
    pub(crate) fn files(&self) -> impl Iterator<Item = String> + '_ {
        let states = self.states.iter().map(StateFile::path);
        let ids = self.ids.iter().map(|file| crate::ids_file::path(file.id));
        states.chain(ids).chain(self.segments.iter().map(|segment| segment.id.path()))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.bytes(MAGIC);
        out.u16(MAJOR);
        out.u16(MINOR);
        out.u32(0);
        // Reserved for encryption: cipher, key id, nonce and tag. All zero: none.
        out.resize(64, 0);
        out.u64(self.generation);
        out.u64(self.through);
        out.u64(self.next_segment);
        out.u64(self.scrub_through);
        for count in [self.states.len(), self.ids.len(), self.segments.len(), self.rewrite.len()] {
            out.u32(u32::try_from(count).unwrap_or(u32::MAX));
        }
        for file in &self.states {
            out.u64(file.id);
            out.u64(file.length);
            out.u64(file.digest);
        }
        for file in &self.ids {
            out.u64(file.id);
            out.u64(file.length);
            out.u64(file.digest);
            out.u64(file.until);
        }
        for segment in &self.segments {
            out.u64(segment.id.0);
            out.u64(segment.length);
            out.u64(segment.digest);
        }
        for segment in &self.rewrite {
            out.u64(segment.0);
        }
        let sum = checksum(&out);
        out.u64(sum);
        out
    }

    /// `None` if the bytes are damaged; an error number for a newer major version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, u16> {
        let Some((body, sum)) =
            bytes.len().checked_sub(8).and_then(|end| bytes.split_at_checked(end))
        else {
            return Ok(None);
        };
        let mut fields = Fields::new(body);
        if fields.take(8) != Some(MAGIC) || Fields::new(sum).u64() != Some(checksum(body)) {
            return Ok(None);
        }
        match fields.u16() {
            Some(major) if major > MAJOR => return Err(major),
            _ => {}
        }
        Ok(Self::decode_body(body.get(64..).unwrap_or_default()))
    }

    fn decode_body(body: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(body);
        let mut manifest = Self {
            generation: fields.u64()?,
            through: fields.u64()?,
            next_segment: fields.u64()?,
            scrub_through: fields.u64()?,
            ..Self::default()
        };
        let (states, ids) = (fields.u32()?, fields.u32()?);
        let (segments, rewrite) = (fields.u32()?, fields.u32()?);
        for _ in 0..states {
            let (id, length, digest) = (fields.u64()?, fields.u64()?, fields.u64()?);
            manifest.states.push(StateFile { id, length, digest });
        }
        for _ in 0..ids {
            let (id, length, digest) = (fields.u64()?, fields.u64()?, fields.u64()?);
            manifest.ids.push(IdFile { id, length, digest, until: fields.u64()? });
        }
        for _ in 0..segments {
            let (id, length, digest) = (SegmentId(fields.u64()?), fields.u64()?, fields.u64()?);
            manifest.segments.push(ListedSegment { id, length, digest });
        }
        for _ in 0..rewrite {
            manifest.rewrite.push(SegmentId(fields.u64()?));
        }
        Some(manifest)
    }

    /// Writes the manifest under a name that does not count. The files it lists, and their names, are
    /// durable already.
    pub(crate) fn prepare(&self, disk: &dyn Disk, crash: CrashPoints) -> io::Result<()> {
        match disk.remove(TEMPORARY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(TEMPORARY)?;
        file.write_at(&self.encode(), 0)?;
        crash.at("manifest.write.before");
        file.sync()?;
        crash.at("manifest.write.after");
        Ok(())
    }

    /// Makes what [`prepare`](Self::prepare) wrote the newest manifest. After an error nobody knows
    /// whether it counts: the files it lists must stay, and its generation must not be used again.
    pub(crate) fn switch(&self, disk: &dyn Disk, crash: CrashPoints) -> io::Result<()> {
        disk.rename(TEMPORARY, &path(self.generation))?;
        crash.at("manifest.switch.named");
        disk.sync_dir(DIR)?;
        crash.at("manifest.switch.after");
        Ok(())
    }

    pub(crate) fn read(disk: &dyn Disk, generation: u64) -> Result<Self, ManifestError> {
        let file = path(generation);
        let read = || {
            let handle = disk.open(&file)?;
            let mut bytes = vec![0; handle.len()? as usize];
            handle.read_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| ManifestError::Io { file: file.clone(), source })?;
        match Self::decode(&bytes) {
            Ok(Some(manifest)) if manifest.generation == generation => Ok(manifest),
            Ok(_) => Err(ManifestError::Damaged { file }),
            Err(major) => Err(ManifestError::Newer { file, major }),
        }
    }

    /// Generations that have a file, newest first.
    pub(crate) fn generations(disk: &dyn Disk) -> io::Result<Vec<u64>> {
        let names = disk.list(DIR)?;
        let number = |name: &String| {
            (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten()
        };
        let mut generations: Vec<u64> = names.iter().filter_map(number).collect();
        generations.sort_unstable_by(|a, b| b.cmp(a));
        Ok(generations)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            generation: 3,
            through: 77,
            next_segment: 9,
            scrub_through: 5,
            states: vec![StateFile { id: 1, length: 2, digest: 3 }],
            ids: vec![IdFile { id: 1, length: 2, digest: 3, until: 4 }],
            segments: vec![ListedSegment { id: SegmentId(8), length: 1, digest: 2 }],
            rewrite: vec![SegmentId(8)],
        }
    }

    #[test]
    fn manifests_come_back_whole_or_not_at_all() {
        let bytes = sample().encode();
        assert_eq!(Manifest::decode(&bytes), Ok(Some(sample())));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Manifest::decode(&bad), Ok(None), "byte {at}");
            assert_eq!(Manifest::decode(&bytes[..at]), Ok(None));
        }
    }

    #[test]
    fn a_newer_manifest_is_named_as_such() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        let end = bytes.len() - 8;
        let sum = checksum(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&sum);
        assert_eq!(Manifest::decode(&bytes), Err(2));
    }
}
