//! Journal files: headers in both copies, and every group that no checkpoint covers.

use std::io;

use super::files::{list, read_all};
use super::{Finding, Harm, Verified};
use crate::disk::Disk;
use crate::journal::format::{FILE_HEADER, FileHeader, HeaderError};
use crate::journal::noted::has_first_group;
use crate::journal::scan::{doubt_behind, scan};
use crate::journal::{self, number_of};

/// Journal files that another copy has and this one lacks.
pub(super) fn missing(disk: &dyn Disk, copy: &dyn Disk) -> io::Result<Vec<Finding>> {
    let names = list(disk, journal::DIR, |disk| disk.list(journal::DIR))?;
    let have = list(copy, journal::DIR, |copy| copy.list(journal::DIR))?;
    let lacks = |name: &&String| number_of(name).is_some() && !have.contains(name);
    let finding = |name: &String| {
        let path = format!("{}/{name}", journal::DIR);
        Finding::new(path, "this copy of the file is missing", Harm::Groups)
    };
    Ok(names.iter().filter(lacks).map(finding).collect())
}

pub(super) fn check(
    disk: &dyn Disk,
    through: u64,
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) -> io::Result<()> {
    let names = list(disk, journal::DIR, |disk| disk.list(journal::DIR))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let mut files = Vec::new();
    for number in numbers {
        let path = journal::path(number);
        match check_header(disk, &path, number, found) {
            Ok(Some(header)) if header.file == number => files.push((path, header)),
            // It was never begun.
            Ok(_) => {}
            Err(error) => found(Finding::new(path, error, Harm::Groups)),
        }
    }
    let has_begun = |(path, header): &&(String, FileHeader)| {
        // One that cannot be read is told of below.
        let has_group = || disk.open(path).and_then(|file| has_first_group(file.as_ref(), header));
        header.first_group <= through || has_group().unwrap_or(false)
    };
    let noted = files.iter().rfind(has_begun).map_or(0, |(_, header)| header.file);
    let mut next = through + 1;
    for (index, (path, header)) in files.iter().enumerate() {
        let successor = files.get(index + 1).map(|(_, successor)| successor);
        let end = successor
            .filter(|next| next.predecessor == header.file)
            .map(|next| (next.predecessor_end, next.first_group - 1));
        let is_noted = header.file < noted;
        if is_noted && end.is_some_and(|(_, last)| last < next) {
            continue;
        }
        if header.first_group > next {
            let what = format!("groups {next} to {} before it are missing", header.first_group - 1);
            let groups = Some((next, header.first_group - 1));
            found(Finding { groups, ..Finding::new(path, what, Harm::Groups) });
        }
        verified.files += 1;
        let bytes = match read_all(disk, path) {
            Ok(bytes) => bytes,
            Err(error) => {
                found(Finding::new(path, error, Harm::Groups));
                continue;
            }
        };
        let scan = scan(&bytes, header, next, end);
        for damage in &scan.damage {
            let what = "durable groups cannot be read completely";
            let finding = Finding::new(path, what, Harm::Groups)
                .at(damage.range.start as u64, damage.range.end as u64);
            found(Finding { groups: Some(damage.groups), ..finding });
        }
        for flaw in &scan.flaws {
            let what = "the header or trailer of a group is damaged, all its entries are good";
            let (start, end) = (flaw.start as u64, flaw.end as u64);
            found(Finding::new(path, what, Harm::Nothing).at(start, end));
        }
        let unnoted = end.filter(|_| !is_noted);
        let behind = unnoted.and_then(|end| doubt_behind(&bytes, header, end));
        if let Some(doubt) = scan.doubt.as_ref().or(behind.as_ref()) {
            let what = "the last groups are not whole and may have been acknowledged";
            let (start, end) = (doubt.range.start as u64, doubt.range.end as u64);
            let finding = Finding::new(path, what, Harm::Groups).at(start, end);
            found(Finding { groups: Some(doubt.groups), ..finding });
        }
        verified.groups += scan.groups.len() as u64;
        verified.is_torn |= scan.is_torn;
        next = scan.groups.last().map_or(next, |group| group.number + 1);
        next = end.map_or(next, |(_, last)| next.max(last + 1));
    }
    Ok(())
}

/// Reads a file's header; each copy must be what the header would be written as.
fn check_header(
    disk: &dyn Disk,
    path: &str,
    number: u64,
    found: &mut dyn FnMut(Finding),
) -> io::Result<Option<FileHeader>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()?.min(FILE_HEADER) as usize];
    file.read_at(&mut bytes, 0)?;
    match FileHeader::decode(&bytes) {
        Ok(header) if header.file == number => {
            let written = header.encode();
            let differs = |(one, other): (&u8, &u8)| one != other;
            if let Some(at) = bytes.iter().zip(&written).position(differs) {
                let what = "one copy of the header is damaged, the other is good";
                found(Finding::new(path, what, Harm::Nothing).at(at as u64, at as u64 + 1));
            }
            Ok(Some(header))
        }
        Ok(_) => Ok(None),
        Err(HeaderError::Newer(major)) => {
            Err(io::Error::other(format!("format {major} is newer than this version")))
        }
        Err(HeaderError::Invalid) if bytes.iter().any(|byte| *byte != 0) => {
            Err(io::Error::other("the header is damaged in both copies"))
        }
        Err(HeaderError::Invalid) => Ok(None),
    }
}
