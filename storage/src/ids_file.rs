//! Files of message ids. Each checkpoint writes the ids that are new since the last one; a file goes
//! when the last of its ids is no longer remembered.

use std::io;

use crate::codec::{Fields, PutFields, checksum};
use crate::disk::Disk;
use crate::ids::{Fingerprint, StreamId};
use crate::manifest::IdFile;
use crate::segment::Pace;
use crate::window::Remembered;

/// The directory of id files.
pub(crate) const DIR: &str = "ids";
const MAGIC: &[u8; 8] = b"CBMSGIDS";
/// Files of a newer major version are refused.
pub(crate) const MAJOR: u16 = 1;
const MINOR: u16 = 0;
const HEADER: usize = 64;
const ENTRY: usize = 40;
/// Written and synced at least this often, in bytes.
const STEP: usize = 1 << 20;

pub(crate) fn path(id: u64) -> String {
    format!("{DIR}/{id:016x}.ids")
}

/// Writes `entries` into the file `id`; its bytes are durable then.
pub(crate) fn write(
    disk: &dyn Disk,
    id: u64,
    entries: &[(StreamId, Remembered)],
    pace: Pace<'_>,
) -> io::Result<IdFile> {
    let mut out = Vec::with_capacity(HEADER + entries.len() * ENTRY + 8);
    out.bytes(MAGIC);
    out.u16(MAJOR);
    out.u16(MINOR);
    out.u32(0);
    out.u64(id);
    // Reserved for encryption: cipher, key id, nonce and tag. All zero: none.
    out.resize(HEADER, 0);
    for (stream, entry) in entries {
        out.u64(stream.0);
        out.u128(entry.id.0);
        out.u64(entry.seq);
        out.u64(entry.until);
    }
    let digest = checksum(&out);
    out.u64(digest);
    let file = disk.create(&path(id))?;
    let mut at = 0;
    for step in out.chunks(STEP) {
        file.write_at(step, at)?;
        file.sync()?;
        at += step.len() as u64;
        pace(step.len() as u64)?;
    }
    let until = entries.iter().map(|(_, entry)| entry.until).max().unwrap_or(0);
    Ok(IdFile { id, length: at, digest, until })
}

/// Reads the file that the manifest lists as `listed`.
pub(crate) fn read(disk: &dyn Disk, listed: &IdFile) -> io::Result<Vec<(StreamId, Remembered)>> {
    let name = path(listed.id);
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged"));
    let file = disk.open(&name)?;
    if file.len()? != listed.length {
        return Err(damaged());
    }
    let mut bytes = vec![0; listed.length as usize];
    file.read_at(&mut bytes, 0)?;
    decode(&bytes, listed).ok_or_else(damaged)
}

fn decode(bytes: &[u8], listed: &IdFile) -> Option<Vec<(StreamId, Remembered)>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let digest = checksum(body);
    if Fields::new(sum).u64()? != digest || digest != listed.digest {
        return None;
    }
    let mut header = Fields::new(body);
    if header.take(8)? != MAGIC || header.u16()? > MAJOR {
        return None;
    }
    let mut fields = Fields::new(body.get(HEADER..)?);
    let mut entries = Vec::with_capacity(fields.rest().len() / ENTRY);
    while !fields.is_empty() {
        let stream = StreamId(fields.u64()?);
        let id = Fingerprint(fields.u128()?);
        entries.push((stream, Remembered { id, seq: fields.u64()?, until: fields.u64()? }));
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn ids_come_back_or_the_file_is_refused() {
        let disk = SimulatedDisk::new();
        disk.create_dir(DIR).unwrap();
        let entry = |n: u64| Remembered { id: Fingerprint(n.into()), seq: n, until: n * 10 };
        let entries: Vec<_> = (1..50).map(|n| (StreamId(n % 3), entry(n))).collect();
        let listed = write(&disk, 4, &entries, &mut |_| Ok(())).unwrap();
        assert_eq!(listed.until, 490);
        assert_eq!(read(&disk, &listed).unwrap(), entries);
        let good = disk.contents(&path(4)).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 8;
            disk.damage(&path(4), bad);
            assert!(read(&disk, &listed).is_err(), "byte {at}");
        }
    }
}
