//! The bytes of a journal file: file header, group header, group trailer, and the frame around
//! each entry. What entries mean is in [`effect`](super::effect).

use crate::codec::{Fields, PutFields, checksum, checksum_with_seed};

/// First bytes of every journal file.
const MAGIC: &[u8; 8] = b"CBJOURNL";
/// Files of a newer major version are refused.
pub(crate) const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Where groups begin.
pub(crate) const FILE_HEADER: u64 = 4096;
/// The header is written twice, so that one bad sector does not take the salt with it.
const HEADER_COPIES: [usize; 2] = [0, 2048];
const HEADER_COPY: usize = 512;

const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"CBGR");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"CBGT");
/// Length of a group header, in bytes.
pub(crate) const GROUP_HEADER: usize = 32;
/// Length of a group trailer, in bytes.
pub(crate) const GROUP_TRAILER: usize = 40;
/// A closing mark: header and trailer without a body.
pub(crate) const MARK: usize = GROUP_HEADER + GROUP_TRAILER;
/// Groups begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;
/// Bytes around an entry's kind and body: length before, checksum after.
pub(crate) const ENTRY_FRAME: usize = 4 + 8;
/// In the group header: this is no group, but says that group `number` was synced.
const FLAG_MARK: u32 = 1;

/// The beginning of a journal file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// Number of this file; never reused.
    pub(crate) file: u64,
    /// Random; tells this file's groups from what lay there before.
    pub(crate) salt: u64,
    /// The file before it, or 0.
    pub(crate) predecessor: u64,
    /// Where the groups of the file before it end.
    pub(crate) predecessor_end: u64,
    /// Number of the first group in this file. All before it are durable.
    pub(crate) first_group: u64,
}

/// Why a file header is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Neither copy has a good checksum: the file was never begun, or is damaged.
    Invalid,
    /// Written by a newer version.
    Newer(u16),
}

impl FileHeader {
    /// The first [`FILE_HEADER`] bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(HEADER_COPY);
        copy.bytes(MAGIC);
        copy.u16(MAJOR);
        copy.u16(MINOR);
        copy.u32(FILE_HEADER as u32);
        copy.u64(self.file);
        copy.u64(self.salt);
        copy.u64(self.predecessor);
        copy.u64(self.predecessor_end);
        copy.u64(self.first_group);
        // Reserved for encryption: cipher, key id, nonce and tag. All zero: none.
        copy.resize(HEADER_COPY - 8, 0);
        copy.u64(checksum(&copy));
        let mut out = vec![0; FILE_HEADER as usize];
        for start in HEADER_COPIES {
            if let Some(target) = out.get_mut(start..start + HEADER_COPY) {
                target.copy_from_slice(&copy);
            }
        }
        out
    }

    /// Reads whichever copy is good.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut error = HeaderError::Invalid;
        for start in HEADER_COPIES {
            match bytes.get(start..start + HEADER_COPY).map(Self::decode_copy) {
                Some(Ok(header)) => return Ok(header),
                Some(Err(newer @ HeaderError::Newer(_))) => error = newer,
                _ => {}
            }
        }
        Err(error)
    }

    fn decode_copy(copy: &[u8]) -> Result<Self, HeaderError> {
        let invalid = HeaderError::Invalid;
        let (body, sum) = copy.split_at_checked(HEADER_COPY - 8).ok_or(invalid)?;
        if Fields::new(sum).u64() != Some(checksum(body)) {
            return Err(invalid);
        }
        let mut fields = Fields::new(body);
        if fields.take(8) != Some(MAGIC) {
            return Err(invalid);
        }
        let major = fields.u16().ok_or(invalid)?;
        if major > MAJOR {
            return Err(HeaderError::Newer(major));
        }
        let mut read = || {
            let _minor = fields.u16()?;
            let _header_length = fields.u32()?;
            Some(Self {
                file: fields.u64()?,
                salt: fields.u64()?,
                predecessor: fields.u64()?,
                predecessor_end: fields.u64()?,
                first_group: fields.u64()?,
            })
        };
        read().ok_or(invalid)
    }
}

/// What stands before the entries of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) number: u64,
    pub(crate) entries: u32,
    /// Bytes of all entries, without padding.
    pub(crate) body: u32,
    /// This is no group: it says that group `number` was synced.
    pub(crate) is_mark: bool,
}

impl GroupHeader {
    pub(crate) fn encode(&self, salt: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.u32(GROUP_MAGIC);
        out.u32(self.entries);
        out.u64(self.number);
        out.u32(self.body);
        out.u32(if self.is_mark { FLAG_MARK } else { 0 });
        let sum = checksum_with_seed(out.get(start..).unwrap_or_default(), salt);
        out.u64(sum);
    }

    /// The header at the start of `bytes`, if one written under this salt stands there.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let (body, sum) = bytes.get(..GROUP_HEADER)?.split_at_checked(GROUP_HEADER - 8)?;
        let mut fields = Fields::new(body);
        if fields.u32()? != GROUP_MAGIC {
            return None;
        }
        if Fields::new(sum).u64()? != checksum_with_seed(body, salt) {
            return None;
        }
        let entries = fields.u32()?;
        let number = fields.u64()?;
        let body = fields.u32()?;
        let is_mark = fields.u32()? & FLAG_MARK != 0;
        Some(Self { number, entries, body, is_mark })
    }

    /// Where the trailer stands, counted from the header.
    pub(crate) fn trailer_at(&self) -> usize {
        GROUP_HEADER + padded(self.body as usize)
    }

    /// Bytes from this header to the next.
    pub(crate) fn total(&self) -> usize {
        self.trailer_at() + GROUP_TRAILER
    }
}

/// A length rounded up so that the next group is aligned.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

/// What stands after the entries of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupTrailer {
    pub(crate) number: u64,
    pub(crate) entries: u32,
    /// Fold of the entries' checksums; see [`fold`].
    pub(crate) digest: u64,
    /// The last group that was known to be synced when this was written.
    pub(crate) durable_through: u64,
}

impl GroupTrailer {
    pub(crate) fn encode(&self, salt: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.u32(TRAILER_MAGIC);
        out.u32(self.entries);
        out.u64(self.number);
        out.u64(self.digest);
        out.u64(self.durable_through);
        let sum = checksum_with_seed(out.get(start..).unwrap_or_default(), salt);
        out.u64(sum);
    }

    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let (body, sum) = bytes.get(..GROUP_TRAILER)?.split_at_checked(GROUP_TRAILER - 8)?;
        let mut fields = Fields::new(body);
        if fields.u32()? != TRAILER_MAGIC
            || Fields::new(sum).u64()? != checksum_with_seed(body, salt)
        {
            return None;
        }
        Some(Self {
            entries: fields.u32()?,
            number: fields.u64()?,
            digest: fields.u64()?,
            durable_through: fields.u64()?,
        })
    }
}

/// The seed of an entry's checksum: nothing else in this or any earlier file has it.
pub(crate) fn entry_seed(salt: u64, group: u64, index: u32) -> u64 {
    salt ^ group.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(index)
}

/// Adds an entry's checksum to the digest of its group; order matters.
pub(crate) fn fold(digest: u64, sum: u64) -> u64 {
    (digest.rotate_left(5) ^ sum).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The entry at the start of `bytes`: its kind and body together, its checksum, and the bytes it takes.
pub(crate) fn entry_at(bytes: &[u8], seed: u64) -> Option<(&[u8], u64, usize)> {
    let len = Fields::new(bytes).u32()? as usize;
    let framed = bytes.get(..len.checked_add(4)?)?;
    let sum = Fields::new(bytes.get(framed.len()..)?).u64()?;
    if len == 0 || checksum_with_seed(framed, seed) != sum {
        return None;
    }
    Some((framed.get(4..)?, sum, len + ENTRY_FRAME))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn header() -> FileHeader {
        FileHeader { file: 3, salt: 99, predecessor: 2, predecessor_end: 8192, first_group: 17 }
    }

    #[test]
    fn a_file_header_survives_one_bad_copy() {
        let mut bytes = header().encode();
        assert_eq!(FileHeader::decode(&bytes), Ok(header()));
        bytes[20] ^= 1;
        assert_eq!(FileHeader::decode(&bytes), Ok(header()));
        bytes[2048 + 20] ^= 1;
        assert_eq!(FileHeader::decode(&bytes), Err(HeaderError::Invalid));
        assert_eq!(FileHeader::decode(&[]), Err(HeaderError::Invalid));
    }

    #[test]
    fn a_newer_file_is_named_as_such() {
        let mut bytes = header().encode();
        for start in HEADER_COPIES {
            bytes[start + 8] = 2;
            let sum = checksum(&bytes[start..start + HEADER_COPY - 8]);
            bytes[start + HEADER_COPY - 8..start + HEADER_COPY].copy_from_slice(&sum.to_le_bytes());
        }
        assert_eq!(FileHeader::decode(&bytes), Err(HeaderError::Newer(2)));
    }

    #[test]
    fn group_frames_belong_to_their_salt() {
        let header = GroupHeader { number: 5, entries: 1, body: 13, is_mark: false };
        let trailer = GroupTrailer { number: 5, entries: 1, digest: 7, durable_through: 4 };
        let mut bytes = Vec::new();
        header.encode(1, &mut bytes);
        assert_eq!(bytes.len(), GROUP_HEADER);
        assert_eq!(GroupHeader::decode(&bytes, 1), Some(header));
        assert_eq!(GroupHeader::decode(&bytes, 2), None);
        let mut bytes = Vec::new();
        trailer.encode(1, &mut bytes);
        assert_eq!(bytes.len(), GROUP_TRAILER);
        assert_eq!(GroupTrailer::decode(&bytes, 1), Some(trailer));
        assert_eq!(GroupTrailer::decode(&bytes, 2), None);
        assert_eq!(header.total(), 32 + 16 + 40);
    }
}
