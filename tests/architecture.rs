//! Holds the layers: the table below is the architecture, and the sources are read to see that
//! imports only run downward, that there is no cycle, and that pure layers name no clock, socket,
//! thread or system randomness.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One module directly under `src/`.
struct Layer {
    name: &'static str,
    level: u8,
    /// Modules of ours that it may import. `storage` is the crate beside this one.
    may_import: &'static [&'static str],
    /// Whether it must do without clock, input and output, threads and system randomness.
    pure: bool,
}

const fn layer(
    name: &'static str,
    level: u8,
    pure: bool,
    may_import: &'static [&'static str],
) -> Layer {
    Layer { name, level, may_import, pure }
}

/// The architecture, lowest level first.
const LAYERS: &[Layer] = &[
    layer("access", 1, true, &["storage"]),
    layer("model", 1, true, &["access", "storage"]),
    layer("wire", 2, true, &["model", "storage"]),
    layer("broker", 2, true, &["access", "model", "storage"]),
    layer("session", 3, true, &["access", "model", "wire", "storage"]),
    layer("client", 3, false, &["model", "wire", "storage"]),
    layer(
        "server",
        4,
        false,
        &["access", "model", "wire", "broker", "session", "client", "storage"],
    ),
    layer("config", 6, false, &["access", "model", "client", "server", "storage"]),
    layer("cli", 6, false, &["model", "client", "server", "config", "storage"]),
];

/// Names that a pure layer must not contain, with what to do instead.
const IMPURE: &[(&str, &str)] = &[
    ("Instant::now", "take `Now` as an argument"),
    ("SystemTime", "take `Now` as an argument"),
    ("Timestamp::now", "take `Now` as an argument"),
    ("std::net", "sockets belong to the server"),
    ("std::thread", "threads belong to the server"),
    ("std::fs", "files belong to storage"),
    ("std::process", "processes belong to the command line"),
    ("tokio", "the runtime belongs to the shell"),
    ("quinn", "sockets belong to the server"),
    ("rand::rng(", "take a seed as an argument"),
    ("rand::random", "take a seed as an argument"),
    ("getrandom", "take a seed as an argument"),
];

/// Files of storage without the `engine` feature: pure as well.
const PURE_STORAGE: &[&str] = &["ids.rs", "log.rs", "record.rs", "subject.rs", "memory"];

/// What may stand beside the sources.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "storage",
    "tests",
    "benches",
    "fuzz",
    "config",
    "README.md",
    "docs",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "deny.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "clippy.toml",
    "target",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .flat_map(|entry| rust_files(&entry.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    files
}

/// The files of a module: `src/<name>.rs` and everything in `src/<name>/`.
fn module_files(name: &str) -> Vec<PathBuf> {
    let src = root().join("src");
    let mut files = rust_files(&src.join(name));
    let single = src.join(format!("{name}.rs"));
    if single.is_file() {
        files.push(single);
    }
    files
}

/// Code without comments and without its test modules.
fn production_code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a listed file can be read");
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == "tests.rs" || file.components().any(|part| part.as_os_str() == "tests") {
        return String::new();
    }
    let before_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code = before_tests.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

/// Modules of ours named as `crate::x`, also within braces of one `use crate::{...}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(grouped_imports(group)),
            None => {
                let word = |c: &char| c.is_alphanumeric() || *c == '_';
                found.insert(rest.chars().take_while(word).collect());
            }
        }
    }
    if code.contains("claudebus_storage::") {
        found.insert("storage".into());
    }
    found
}

/// The first path segments within the braces of `use crate::{...}`.
fn grouped_imports(group: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut depth = 0;
    let mut word = String::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            c if depth == 0 && (c.is_alphanumeric() || c == '_') => word.push(c),
            ',' if depth == 0 => word.clear(),
            ':' if depth == 0 && !word.is_empty() => {
                found.insert(std::mem::take(&mut word));
            }
            _ => {}
        }
    }
    found
}

fn is_layer(name: &str) -> bool {
    name == "storage" || LAYERS.iter().any(|layer| layer.name == name)
}

#[test]
fn imports_only_run_downward() {
    let mut faults = Vec::new();
    for layer in LAYERS {
        for file in module_files(layer.name) {
            for import in imports(&production_code(&file)).iter().filter(|name| is_layer(name)) {
                if import != layer.name && !layer.may_import.contains(&import.as_str()) {
                    faults.push(format!(
                        "{} imports {import}; {} may import only {:?}",
                        file.display(),
                        layer.name,
                        layer.may_import
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_itself_has_no_cycle() {
    let by_name: BTreeMap<&str, &Layer> = LAYERS.iter().map(|l| (l.name, l)).collect();
    for layer in LAYERS {
        for import in layer.may_import.iter().filter(|name| **name != "storage") {
            let other = by_name.get(import).unwrap_or_else(|| panic!("{import} is not a layer"));
            // Within a level the table decides, so of two modules only one may import the other.
            let downward = other.level < layer.level
                || (other.level == layer.level && !other.may_import.contains(&layer.name));
            assert!(downward, "{} may not import {import}", layer.name);
        }
    }
}

#[test]
fn every_module_is_in_the_table() {
    for entry in fs::read_dir(root().join("src")).expect("src exists").filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_string();
        if name != "lib" && name != "main" {
            assert!(is_layer(&name), "src/{name} is not in the table of layers");
        }
    }
}

#[test]
fn pure_layers_name_nothing_impure() {
    let storage = root().join("storage/src");
    let pure = LAYERS
        .iter()
        .filter(|layer| layer.pure)
        .flat_map(|layer| module_files(layer.name))
        .chain(PURE_STORAGE.iter().flat_map(|name| rust_files(&storage.join(name))));
    let mut faults = Vec::new();
    for file in pure {
        let code = production_code(&file);
        for (word, instead) in IMPURE {
            if code.contains(word) {
                faults.push(format!("{} names {word}: {instead}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn storage_knows_neither_network_nor_async() {
    for file in rust_files(&root().join("storage/src")) {
        let code = production_code(&file);
        for word in ["tokio", "quinn", "std::net", "async fn"] {
            assert!(!code.contains(word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn the_top_level_is_what_it_should_be() {
    for entry in fs::read_dir(root()).expect("the project exists").filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().to_string();
        let expected = name.starts_with('.') || TOP_LEVEL.contains(&name.as_str());
        assert!(expected, "{name} is not expected at the top level");
    }
}

#[test]
fn imports_are_found_in_all_their_forms() {
    let code = "use crate::{broker::x, model::{self, y}};\nlet a = crate::wire::z();";
    let found: Vec<String> = imports(code).into_iter().collect();
    assert_eq!(found, ["broker", "model", "wire"]);
}
