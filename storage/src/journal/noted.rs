//! Which file's beginning shows that an earlier start noted what it found.
//!
//! A start that drops groups for doubt has the sequences left out that they may have held, and notes that in
//! the first group it writes, in a file that it begins. Until that group is on the disk, nothing but the
//! dropped bytes tells of the doubt, though the header of the file may be there already and name an end
//! before them.

use std::io;

use super::format::{FILE_HEADER, FileHeader, GROUP_HEADER, GroupHeader};
use super::scan::begins_with_whole_group;
use crate::disk::DiskFile;

/// Whether the first group of a file is there, whole.
pub(crate) fn has_first_group(file: &dyn DiskFile, header: &FileHeader) -> io::Result<bool> {
    let room = file.len()?.saturating_sub(FILE_HEADER);
    if room == 0 {
        // It may end in the midst of its header, of which one copy can be whole.
        return Ok(false);
    }
    let mut bytes = vec![0; room.min(GROUP_HEADER as u64) as usize];
    file.read_at(&mut bytes, FILE_HEADER)?;
    // A group may also be found by its trailer alone, wherever that stands.
    let total = GroupHeader::decode(&bytes, header.salt).map_or(room, |group| group.total() as u64);
    bytes.resize(room.min(total) as usize, 0);
    file.read_at(&mut bytes, FILE_HEADER)?;
    Ok(begins_with_whole_group(&bytes, header))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};

    /// A power cut may leave so much of a file that was begun.
    #[test]
    fn a_file_that_ends_within_its_header_has_no_group() {
        let header =
            FileHeader { file: 2, salt: 7, predecessor: 1, predecessor_end: 4096, first_group: 3 };
        let (bytes, disk) = (header.encode(), SimulatedDisk::new());
        for len in [512, bytes.len() - 1, bytes.len()] {
            let file = disk.create(&format!("{len}")).unwrap();
            file.write_at(bytes.get(..len).unwrap(), 0).unwrap();
            assert!(!has_first_group(file.as_ref(), &header).unwrap(), "{len}");
        }
    }
}
