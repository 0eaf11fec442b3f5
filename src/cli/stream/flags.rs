//! A stream's configuration as flags, or as a file of JSON.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::exit::{Exit, Failure};
use crate::config::{nearest, text};
use crate::model::fields::fields_of;
use crate::model::stream::{BlockCompression, Discard, Retention, Storage, StreamConfig};

/// For how long message ids are remembered unless told otherwise, as JetStream does.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Flags of `stream add` and `stream edit`. What is not given stays as it is.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct StreamFlags {
    /// Subjects it captures; may be given more than once, or with commas between
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    subjects: Vec<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// When messages leave
    #[arg(long, value_name = "POLICY")]
    retention: Option<RetentionWord>,
    /// How long messages are kept; 0 for ever
    #[arg(long, value_name = "DURATION", value_parser = text::duration)]
    max_age: Option<Duration>,
    /// Most messages; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    max_msgs: Option<i64>,
    /// Most bytes; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size_or_unlimited)]
    max_bytes: Option<i64>,
    /// Largest message; -1 for no limit but the server's
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size_or_unlimited)]
    max_msg_size: Option<i64>,
    /// Most messages of one subject; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    max_msgs_per_subject: Option<i64>,
    /// Most consumers; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    max_consumers: Option<i64>,
    /// What happens when it is full
    #[arg(long, value_name = "WHAT")]
    discard: Option<DiscardWord>,
    /// Where it is kept
    #[arg(long, value_name = "WHERE")]
    storage: Option<StorageWord>,
    /// How its blocks are compressed
    #[arg(long, value_name = "HOW")]
    compression: Option<CompressionWord>,
    /// For how long a message id is remembered; 2m unless given
    #[arg(long, value_name = "DURATION", value_parser = text::duration)]
    duplicate_window: Option<Duration>,
    /// Whether messages may be read by sequence or subject without a consumer
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_direct: Option<bool>,
    /// Whether messages may bring their own time to live
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_ttl: Option<bool>,
    /// Whether messages may be schedules; cannot be undone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_schedules: Option<bool>,
    /// Whether a message may replace those before it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_rollup: Option<bool>,
    /// Whether deleting single messages is refused
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    deny_delete: Option<bool>,
    /// Whether purging is refused
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    deny_purge: Option<bool>,
    /// Whether messages that consumers give up are kept in DLQ_STREAM
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dead_letters: Option<bool>,
    /// Take what this file gives, JetStream's JSON; flags win over it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// Declares words for a value of the model, so that the model stays free of the command line.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident for $model:ident { $($(#[$help:meta])* $word:ident),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, ValueEnum)]
        #[value(rename_all = "lower")]
        enum $name { $($(#[$help])* $word),* }

        impl From<$name> for $model {
            fn from(word: $name) -> Self {
                match word { $($name::$word => Self::$word),* }
            }
        }
    };
}

words! {
    /// `--retention`.
    RetentionWord for Retention {
        /// When a limit is exceeded
        Limits,
        /// When every consumer that wants it has acknowledged it
        Interest,
        /// When its one consumer has acknowledged it
        WorkQueue
    }
}
words! {
    /// `--discard`.
    DiscardWord for Discard {
        /// The oldest message makes room
        Old,
        /// The new message is refused
        New
    }
}
words! {
    /// `--storage`.
    StorageWord for Storage {
        /// On disk
        File,
        /// In memory
        Memory
    }
}
words! {
    /// `--compression`.
    CompressionWord for BlockCompression {
        /// Not at all
        Off,
        /// Fast
        Lz4,
        /// Dense
        Zstd
    }
}

/// A size, or -1.
fn size_or_unlimited(word: &str) -> Result<i64, String> {
    if word == "-1" {
        return Ok(-1);
    }
    text::size(word).map(|size| i64::try_from(size).unwrap_or(i64::MAX))
}

impl StreamFlags {
    /// A new stream of this name.
    pub(super) fn create(&self, name: &str) -> Result<StreamConfig, Failure> {
        let mut config = match &self.file {
            Some(path) => read_json(path, StreamConfig::default())?,
            None => StreamConfig::default(),
        };
        if config.name.is_empty() {
            name.clone_into(&mut config.name);
        } else if config.name != name {
            return Err(Failure::usage(format_args!(
                "the file is about stream `{}`, the command about `{name}`",
                config.name
            )));
        }
        self.apply(&mut config);
        if config.mirror.is_some() || !config.sources.is_empty() {
            return Ok(config);
        }
        if config.duplicate_window.is_zero() && self.duplicate_window.is_none() {
            // A window longer than the messages live would be refused.
            config.duplicate_window = match config.max_age {
                Duration::ZERO => DUPLICATE_WINDOW,
                age => age.min(DUPLICATE_WINDOW),
            };
        }
        if config.subjects.is_empty() {
            return Err(Failure::usage(format_args!("stream `{name}` has no subjects"))
                .hint("add --subjects, for example --subjects 'orders.>'"));
        }
        Ok(config)
    }

    /// The stream `config`, changed.
    pub(super) fn edit(&self, config: StreamConfig) -> Result<StreamConfig, Failure> {
        let mut edited = match &self.file {
            Some(path) => read_json(path, config.clone())?,
            None => config.clone(),
        };
        edited.name = config.name;
        self.apply(&mut edited);
        Ok(edited)
    }

    /// Writes what was given into `config`.
    fn apply(&self, config: &mut StreamConfig) {
        fn set<T>(to: &mut T, from: Option<impl Into<T>>) {
            if let Some(value) = from {
                *to = value.into();
            }
        }
        if !self.subjects.is_empty() {
            self.subjects.clone_into(&mut config.subjects);
        }
        if let Some(text) = &self.description {
            config.description = Some(text.clone()).filter(|text| !text.is_empty());
        }
        set(&mut config.retention, self.retention);
        set(&mut config.max_age, self.max_age);
        set(&mut config.max_msgs, self.max_msgs);
        set(&mut config.max_bytes, self.max_bytes);
        set(&mut config.max_msg_size, self.max_msg_size);
        set(&mut config.max_msgs_per_subject, self.max_msgs_per_subject);
        set(&mut config.max_consumers, self.max_consumers);
        set(&mut config.discard, self.discard);
        set(&mut config.storage, self.storage);
        set(&mut config.block_compression, self.compression);
        set(&mut config.duplicate_window, self.duplicate_window);
        set(&mut config.allow_direct, self.allow_direct);
        set(&mut config.allow_msg_ttl, self.allow_ttl);
        set(&mut config.allow_msg_schedules, self.allow_schedules);
        set(&mut config.allow_rollup_hdrs, self.allow_rollup);
        set(&mut config.deny_delete, self.deny_delete);
        set(&mut config.deny_purge, self.deny_purge);
        set(&mut config.dead_letters.enabled, self.dead_letters);
    }
}

/// Reads a configuration from a file of JSON; fields it does not give are those of `base`. Both a
/// configuration alone and what `info` prints will do. Unknown fields are refused.
pub(in crate::cli) fn read_json<T: serde::Serialize + serde::de::DeserializeOwned>(
    path: &std::path::Path,
    base: T,
) -> Result<T, Failure> {
    let text = std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Failed, format_args!("cannot read {}: {error}", path.display()))
    })?;
    let wrong = |error: serde_json::Error| {
        Failure::usage(format_args!("{} is not such a configuration: {error}", path.display()))
            .hint("`info --output json` prints one in its `config`")
    };
    let mut value: serde_json::Value = serde_json::from_slice(&text).map_err(wrong)?;
    if let Some(config) = value.get_mut("config").filter(|config| config.is_object()) {
        value = config.take();
    }
    let given: serde_json::Map<String, serde_json::Value> =
        serde_json::from_value(value).map_err(wrong)?;
    let known = fields_of::<T>();
    if let Some(unknown) = given.keys().find(|key| !known.contains(&key.as_str())) {
        let failure = Failure::usage(format_args!("{}: unknown field `{unknown}`", path.display()));
        return Err(match nearest(unknown, known.iter().copied()) {
            Some(near) => failure.hint(format_args!("did you mean `{near}`?")),
            None => failure.hint(format_args!("known are {}", known.join(", "))),
        });
    }
    let mut merged: serde_json::Map<String, serde_json::Value> =
        serde_json::to_value(base).and_then(serde_json::from_value).map_err(wrong)?;
    // One filter and several are the same thing in two fields, of which only one may be set.
    for (given_one, other) in
        [("filter_subject", "filter_subjects"), ("filter_subjects", "filter_subject")]
    {
        if given.contains_key(given_one) && !given.contains_key(other) {
            merged.remove(other);
        }
    }
    for (key, value) in given {
        if key == "metadata" {
            // A map without fields of its own: its keys could not be taken away otherwise.
            merged.insert(key, value);
        } else {
            merge(merged.entry(key).or_insert(serde_json::Value::Null), value);
        }
    }
    serde_json::from_value(merged.into()).map_err(wrong)
}

/// Writes `given` over `base`. Of objects, fields that are not given stay.
fn merge(base: &mut serde_json::Value, given: serde_json::Value) {
    match (base, given) {
        (serde_json::Value::Object(base), serde_json::Value::Object(given)) => {
            for (key, value) in given {
                merge(base.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, given) => *base = given,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_changed_and_nothing_else() {
        let flags = StreamFlags {
            subjects: vec!["a.>".into()],
            max_age: Some(Duration::from_secs(60)),
            max_bytes: Some(-1),
            ..StreamFlags::default()
        };
        let created = flags.create("A").unwrap();
        assert_eq!((created.name.as_str(), created.max_bytes), ("A", -1));
        assert_eq!(created.duplicate_window, Duration::from_secs(60));
        let flags = StreamFlags { max_msgs: Some(5), ..StreamFlags::default() };
        let edited = flags.edit(created.clone()).unwrap();
        assert_eq!(edited, StreamConfig { max_msgs: 5, ..created });
        assert_eq!(StreamFlags::default().create("A").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_file_may_be_a_configuration_or_an_info() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream.json");
        for text in [
            r#"{"name":"A","subjects":["x"],"max_msgs":7}"#,
            r#"{"config":{"name":"A","subjects":["x"],"max_msgs":7},"state":{}}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let flags = StreamFlags { file: Some(path.clone()), ..StreamFlags::default() };
            assert_eq!(flags.create("A").unwrap().max_msgs, 7);
            assert_eq!(flags.create("B").unwrap_err().exit, Exit::Usage);
        }
        std::fs::write(&path, r#"{"max_msg":7}"#).unwrap();
        let flags = StreamFlags { file: Some(path.clone()), ..StreamFlags::default() };
        let failure = flags.create("A").unwrap_err();
        assert!(failure.message.contains("unknown field `max_msg`"), "{failure:?}");
        assert_eq!(failure.hint.as_deref(), Some("did you mean `max_msgs`?"));
        std::fs::write(&path, "[").unwrap();
        let flags = StreamFlags { file: Some(path), ..StreamFlags::default() };
        assert!(flags.create("A").unwrap_err().message.contains("stream.json"));
    }

    #[test]
    fn a_file_changes_only_what_it_gives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream.json");
        std::fs::write(&path, r#"{"max_msgs":7,"dead_letters":{"max_msgs":3}}"#).unwrap();
        let mut before = StreamConfig {
            name: "A".into(),
            subjects: vec!["x".into()],
            max_age: Duration::from_secs(60),
            ..StreamConfig::default()
        };
        before.dead_letters.max_bytes = 9;
        let flags = StreamFlags { file: Some(path), ..StreamFlags::default() };
        let edited = flags.edit(before.clone()).unwrap();
        before.max_msgs = 7;
        before.dead_letters.max_msgs = 3;
        assert_eq!(edited, before);
    }

    #[test]
    fn sizes_may_be_unlimited() {
        assert_eq!(size_or_unlimited("-1"), Ok(-1));
        assert_eq!(size_or_unlimited("1KiB"), Ok(1024));
        assert!(size_or_unlimited("-2").is_err());
    }
}
