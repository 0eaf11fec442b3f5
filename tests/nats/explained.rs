//! Lists of `name = reason`, one a line: differences that are kept, and what is not supported.

use std::path::Path;

use crate::row::Row;

/// The most differences that may be kept.
const MOST: usize = 15;

/// Names of rows that differ and should not: what is still to be mended. One that agrees must go.
pub(crate) struct Open(Vec<String>);

impl Open {
    /// Reads a file of one name a line. Empty lines and those that begin with `//` say nothing.
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().map(str::trim);
        let names = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
        Self(names.map(str::to_owned).collect())
    }

    /// Whether the row of this name is to be mended.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|other| other == name)
    }

    /// Each names a row that is there.
    pub(crate) fn check(&self, rows: &[Row]) {
        for name in &self.0 {
            assert!(rows.iter().any(|row| row.name == *name), "no row has the open name {name:?}");
        }
    }
}

/// Names with the reasons for them, in the order of their file.
pub(crate) struct Explained(pub(crate) Vec<(String, String)>);

impl Explained {
    /// Reads a file. Empty lines and those that begin with `//` say nothing.
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
        let split = |line: &str| {
            let (name, reason) = line
                .split_once(" = ")
                .unwrap_or_else(|| panic!("{}: no \" = \" in {line:?}", path.display()));
            (name.trim().to_owned(), reason.trim().to_owned())
        };
        Self(lines.map(split).collect())
    }

    /// Why the row of this name may differ.
    pub(crate) fn reason(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, reason)| reason.as_str())
    }

    /// Each explains a row that is there and not of tier 1, and they are few.
    pub(crate) fn check(&self, rows: &[Row]) {
        assert!(self.0.len() <= MOST, "{} differences are kept, at most {MOST} may", self.0.len());
        for (name, reason) in &self.0 {
            let row = rows.iter().find(|row| row.name == *name);
            let row = row.unwrap_or_else(|| panic!("no row has the explained name {name:?}"));
            assert!(row.tier > 1, "{name:?} is of tier 1, where nothing may differ");
            assert!(reason.len() > 10, "{name:?} has no reason");
        }
    }
}
