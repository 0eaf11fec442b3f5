//! The rows: scripts of one exchange each, as `rows/*.txt` has them. What the steps do is in
//! `script.rs`.

use std::path::Path;

/// A script and what it is about.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Unique among all rows.
    pub(crate) name: String,
    /// The heading of the document it counts under.
    pub(crate) area: String,
    /// How many users touch it: 1 nearly all, 2 some, 3 few.
    pub(crate) tier: u8,
    /// Whether it asks for something wrong: most such requests are refused.
    pub(crate) is_refusal: bool,
    /// Whether it needs a server on which nothing has happened yet.
    pub(crate) is_fresh: bool,
    /// Whether the bytes of answers are compared: fields of JSON in their order, and their spaces.
    pub(crate) is_verbatim: bool,
    /// The domain of that server's streams, if they have one.
    pub(crate) domain: Option<String>,
    /// What it does, in order.
    pub(crate) steps: Vec<Step>,
}

/// One line of a script.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The connection that does it; `a` unless the line names another one.
    pub(crate) connection: String,
    /// The line as it was written, without the connection.
    pub(crate) text: String,
}

impl Step {
    fn parse(line: &str) -> Self {
        let named = line.strip_prefix('@').and_then(|rest| rest.split_once(' '));
        let (connection, text) = named.unwrap_or(("a", line));
        Self { connection: connection.to_owned(), text: text.to_owned() }
    }

    /// The first word, and the rest after one space.
    pub(crate) fn verb(&self) -> (&str, &str) {
        self.text.split_once(' ').unwrap_or((self.text.as_str(), ""))
    }
}

/// All rows of a folder, by file name and then as they stand in the file.
pub(crate) fn read_all(folder: &Path) -> Vec<Row> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "txt")).collect();
    files.sort();
    let text = |path: &std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    files.iter().flat_map(|path| parse(&text(path), &path.display().to_string())).collect()
}

/// The rows of one file. What stands before the first name holds for all of them.
fn parse(text: &str, file: &str) -> Vec<Row> {
    let mut all = Row {
        name: String::new(),
        area: String::new(),
        tier: 1,
        is_refusal: false,
        is_fresh: false,
        is_verbatim: false,
        domain: None,
        steps: Vec::new(),
    };
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        // A space at the end of a line can matter.
        if line.trim().is_empty() || line.starts_with("//") {
            continue;
        }
        if let Some(name) = line.strip_prefix("# ") {
            assert!(!all.area.is_empty(), "{file}: no area: line before the first row");
            rows.push(Row { name: name.trim().to_owned(), ..all.clone() });
            continue;
        }
        let row = rows.last_mut().unwrap_or(&mut all);
        if !set(row, line) {
            assert!(!row.name.is_empty(), "{file}: a step before the first row: {line}");
            row.steps.push(Step::parse(line));
        }
    }
    let empty = rows.iter().find(|row| row.steps.is_empty());
    assert!(empty.is_none(), "{file}: nothing happens in {:?}", empty.map(|row| &row.name));
    rows
}

/// Takes a line that says something about the row. Returns whether it is one.
fn set(row: &mut Row, line: &str) -> bool {
    match line.split_once(": ").map_or((line, ""), |(key, value)| (key, value.trim())) {
        ("area", area) => row.area = area.to_owned(),
        ("tier", tier) => row.tier = tier.parse().expect("a tier is a number"),
        ("kind", "refusals") => row.is_refusal = true,
        ("kind", "works") => row.is_refusal = false,
        ("fresh", "") => row.is_fresh = true,
        ("verbatim", "") => row.is_verbatim = true,
        ("domain", domain) => {
            row.is_fresh = true;
            row.domain = Some(domain.to_owned());
        }
        _ => return false,
    }
    true
}

#[test]
fn lines_before_the_first_row_hold_for_all() {
    let rows = parse("area: X\ntier: 2\n# one\npong\n# two\nkind: refusals\n@b > PING\n", "test");
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.area == "X" && row.tier == 2));
    assert_eq!(rows.iter().map(|row| row.is_refusal).collect::<Vec<_>>(), [false, true]);
    assert_eq!(rows[1].steps[0].connection, "b");
    assert_eq!(rows[1].steps[0].verb(), (">", "PING"));
}
