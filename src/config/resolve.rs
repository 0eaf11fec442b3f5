//! Four sources of settings made one, and where each value comes from.
//!
//! A flag wins over the environment, which wins over the file, which wins over the default.

use std::collections::BTreeMap;

use super::error::ConfigError;
use super::file::{ConfigFile, Environment};
use super::settings::ServerSettings;
use super::table::SETTINGS;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file, as `file:line`.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => f.write_str(place),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// How errors call a flag's place.
pub const GIVEN_ON_COMMAND_LINE: &str = "command line";

/// The settings in force, each with its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The settings.
    pub settings: ServerSettings,
    origins: BTreeMap<&'static str, Origin>,
}

/// One line of `claudebus config show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Dotted path in the file.
    pub key: String,
    /// The value, or `***`.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl Resolved {
    /// Merges the four sources. `flags` are pairs of setting key and text.
    ///
    /// # Errors
    /// [`ConfigError`], about the first value that is in force and wrong.
    pub fn new(
        file: &ConfigFile,
        environment: &Environment<'_>,
        flags: &BTreeMap<&'static str, String>,
    ) -> Result<Self, ConfigError> {
        let mut settings = ServerSettings::default();
        let mut origins = BTreeMap::new();
        for setting in SETTINGS {
            let variable = setting.variable();
            let path = format!("server.{}", setting.key);
            let in_file = file.server.iter().find(|(key, _, _)| key == setting.key);
            let (value, origin, place) = if let Some(text) = flags.get(setting.key) {
                let name = setting.flag.unwrap_or(setting.key);
                let place = format!("{GIVEN_ON_COMMAND_LINE}, --{name}");
                (text.clone(), Origin::Flag(name.to_owned()), place)
            } else if let Some(text) = environment(&variable) {
                let place = format!("environment variable {variable}");
                (text, Origin::Environment(variable), place)
            } else if let Some((_, text, place)) = in_file {
                (text.clone(), Origin::File(place.clone()), place.clone())
            } else {
                file.require(&path)?;
                origins.insert(setting.key, Origin::Default);
                continue;
            };
            (setting.set)(&mut settings, &value).map_err(|why| ConfigError::Invalid {
                place,
                path,
                why,
            })?;
            origins.insert(setting.key, origin);
        }
        Ok(Self { settings, origins })
    }

    /// Where the setting's value comes from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Every value in force with its origin, the sections of `file` included.
    #[must_use]
    pub fn shown(&self, file: &ConfigFile) -> Vec<Shown> {
        let mut lines: Vec<Shown> = SETTINGS
            .iter()
            .map(|setting| {
                let value = (setting.show)(&self.settings);
                let hidden = setting.secret && !value.is_empty();
                Shown {
                    key: format!("server.{}", setting.key),
                    value: if hidden { "***".to_owned() } else { value },
                    origin: self.origin(setting.key).clone(),
                }
            })
            .collect();
        if let Ok(tree) = serde_json::to_value(&file.sections) {
            flatten(String::new(), &tree, file, &mut lines);
        }
        lines
    }
}

/// The leaves of the sections, with their lines.
fn flatten(path: String, value: &serde_json::Value, file: &ConfigFile, into: &mut Vec<Shown>) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(super::expand::join(&path, key), value, file, into);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (index, value) in list.iter().enumerate() {
                flatten(format!("{path}[{index}]"), value, file, into);
            }
        }
        _ => {
            let value = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let place = file.places.iter().find(|(at, _)| *at == path);
            let unset = file.unset.iter().find(|unset| unset.path == path);
            let (value, origin) = match (place, unset) {
                (_, Some(unset)) => (
                    format!("${{{}}} (not set)", unset.variable),
                    Origin::File(unset.place.clone()),
                ),
                (Some((_, place)), None) => (value, Origin::File(place.clone())),
                (None, None) => (value, Origin::Default),
            };
            into.push(Shown { key: path, value, origin });
        }
    }
}
