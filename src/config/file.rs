//! A configuration file as a whole: read, expanded, checked.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::decode::{DecodeError, Decoder, Problem};
use super::error::ConfigError;
use super::expand::{UnsetAt, expand, join};
use super::located::{Kind, Node};
use super::sections::Sections;
use super::table::SETTINGS;

/// The file that is read when none is named and it exists, in the user's configuration folder.
pub const DEFAULT_FILE_NAME: &str = "claudebus/claudebus.yaml";

/// Largest configuration file. 1 MiB: ten thousand streams fit.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where variables come from: the process's environment, or a test's.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A value that was left out because it names a variable that is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unset {
    /// The key, as a dotted path.
    pub path: String,
    /// File and line.
    pub place: String,
    /// The variable.
    pub variable: String,
}

/// A configuration file that was read and found right.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    /// Where it was read from, if it was.
    pub path: Option<PathBuf>,
    /// All but `server`. Values in [`ConfigFile::unset`] have their default here.
    pub sections: Sections,
    /// Values that could not be expanded. Whoever uses one asks [`ConfigFile::require`].
    pub unset: Vec<Unset>,
    /// The keys of `server`, as (dotted key without `server.`, text, place).
    pub(super) server: Vec<(String, String, String)>,
    /// The lines of all leaves and lists beside `server`, by dotted path.
    pub(super) places: Vec<(String, String)>,
}

impl ConfigFile {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the place and what to do.
    pub fn load(path: &Path, environment: &Environment<'_>) -> Result<Self, ConfigError> {
        use std::io::Read as _;
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            let why = format!("it is larger than {}", super::text::show_size(MAX_FILE_BYTES));
            return Err(unreadable(std::io::Error::other(why)));
        }
        let mut loaded = Self::parse(&text, &path.display().to_string(), environment)?;
        loaded.path = Some(path.to_owned());
        Ok(loaded)
    }

    /// Checks `yaml`, which errors call `name`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the place and what to do.
    pub fn parse(
        yaml: &str,
        name: &str,
        environment: &Environment<'_>,
    ) -> Result<Self, ConfigError> {
        let place = |line: u64| format!("{name}:{line}");
        let mut tree = Node::parse(yaml).map_err(|(line, why)| ConfigError::Syntax {
            place: line.map_or_else(|| name.to_owned(), place),
            why,
        })?;
        let unset = expand(&mut tree, environment).map_err(|malformed| ConfigError::Invalid {
            place: place(malformed.line),
            path: malformed.path,
            why: malformed.why,
        })?;
        let Kind::Map(entries) = &mut tree.kind else {
            let why = "the file must be a section of keys and values".to_owned();
            return Err(ConfigError::Syntax { place: place(tree.line), why });
        };
        let mut server = Vec::new();
        if let Some(index) = entries.iter().position(|(key, _, _)| key == "server") {
            let (_, _, node) = entries.remove(index);
            flatten_server("", &node, &place, &mut server)?;
        }
        let mut places = Vec::new();
        leaves("", &tree, &mut |path, line| places.push((path, place(line))));
        let sections = Sections::deserialize(Decoder { node: &tree, path: String::new() })
            .map_err(|error| explain(error, &place))?;
        let named =
            |at: UnsetAt| Unset { place: place(at.line), path: at.path, variable: at.variable };
        let unset = unset.into_iter().map(named).collect();
        Ok(Self { path: None, sections, unset, server, places })
    }

    /// Fails if a value at or below `path` names a variable that is not set. To be asked before a
    /// section is put to use.
    ///
    /// # Errors
    /// [`ConfigError::Unset`], about the first such value.
    pub fn require(&self, path: &str) -> Result<(), ConfigError> {
        let below = |at: &str| {
            at.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        match self.unset.iter().find(|unset| below(&unset.path)) {
            Some(unset) => Err(ConfigError::Unset {
                place: unset.place.clone(),
                path: unset.path.clone(),
                variable: unset.variable.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// The default file: [`DEFAULT_FILE_NAME`] in the user's configuration folder, if the platform has
/// one.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    dirs::config_dir().map(|folder| folder.join(DEFAULT_FILE_NAME))
}

/// Collects the leaves of `server`, each of which must be a known setting.
fn flatten_server(
    path: &str,
    node: &Node,
    place: &dyn Fn(u64) -> String,
    into: &mut Vec<(String, String, String)>,
) -> Result<(), ConfigError> {
    let full = join("server", path);
    let full = full.trim_end_matches('.');
    match &node.kind {
        // Nothing written means the default.
        Kind::Null => Ok(()),
        Kind::Scalar(text) if !path.is_empty() && is_setting(path) => {
            into.push((path.to_owned(), text.clone(), place(node.line)));
            Ok(())
        }
        Kind::Map(entries) if path.is_empty() || !is_setting(path) => {
            for (key, line, value) in entries {
                let below = join(path, key);
                let known = known_below(path);
                if !known.contains(key) {
                    return Err(ConfigError::Unknown {
                        place: place(*line),
                        what: "key",
                        word: key.clone(),
                        path: full.to_owned(),
                        known,
                    });
                }
                flatten_server(&below, value, place, into)?;
            }
            Ok(())
        }
        other => {
            let expected =
                if is_setting(path) { "one value" } else { "a section of keys and values" };
            let found = match other {
                Kind::Scalar(text) => format!("`{text}`"),
                Kind::List(_) => "a list".to_owned(),
                Kind::Map(_) | Kind::Null => "a section".to_owned(),
            };
            Err(ConfigError::Invalid {
                place: place(node.line),
                path: full.to_owned(),
                why: format!("found {found}, expected {expected}"),
            })
        }
    }
}

/// Whether a setting has this key.
fn is_setting(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key == key)
}

/// The words that may stand directly below `path` in `server`.
fn known_below(path: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for setting in SETTINGS {
        let rest = if path.is_empty() {
            Some(setting.key)
        } else {
            setting.key.strip_prefix(path).and_then(|rest| rest.strip_prefix('.'))
        };
        let word = rest.and_then(|rest| rest.split('.').next());
        if let Some(word) = word
            && !words.iter().any(|known| known == word)
        {
            words.push(word.to_owned());
        }
    }
    words
}

/// Visits every leaf and every list with its dotted path and line.
fn leaves(path: &str, node: &Node, visit: &mut dyn FnMut(String, u64)) {
    match &node.kind {
        Kind::Map(entries) => {
            for (key, _, value) in entries {
                leaves(&join(path, key), value, visit);
            }
        }
        Kind::List(list) => {
            visit(path.to_owned(), node.line);
            for (index, item) in list.iter().enumerate() {
                leaves(&format!("{path}[{index}]"), item, visit);
            }
        }
        Kind::Null | Kind::Scalar(_) => visit(path.to_owned(), node.line),
    }
}

/// The decoder's error with its place in words. The `server` section is no field of
/// [`Sections`], but a word that may stand beside the others.
fn explain(error: DecodeError, place: &dyn Fn(u64) -> String) -> ConfigError {
    let place = place(error.line.max(1));
    match error.problem {
        Problem::Unknown { what, word, mut known } => {
            if error.path.is_empty() && what == "key" {
                known.insert(0, "server".to_owned());
            }
            ConfigError::Unknown { place, what, word, path: error.path, known }
        }
        Problem::Other(why) => ConfigError::Invalid { place, path: error.path, why },
    }
}
