//! Files as people write them, right and wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::config::sections::{FaultType, Sections};
use crate::model::stream::{Retention, StreamConfig};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn no_variables(_: &str) -> Option<String> {
    None
}

fn parse(yaml: &str) -> Result<ConfigFile, ConfigError> {
    ConfigFile::parse(yaml, "f.yaml", &no_variables)
}

fn wrong(yaml: &str) -> String {
    match parse(yaml).and_then(|file| Resolved::new(&file, &no_variables, &BTreeMap::new())) {
        Ok(resolved) => panic!("accepted {yaml:?} as {resolved:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_written_for_jetstream_loads_unchanged() {
    let file = parse(include_str!("../../config/event-bus.yaml")).unwrap();
    let plan = StreamPlan::new(&file.sections.event_bus);
    let found: Vec<_> = plan
        .configured
        .iter()
        .map(|s| {
            (s.name.as_str(), s.subjects[0].as_str(), s.max_age, s.max_msgs, s.duplicate_window)
        })
        .collect();
    let window = Duration::from_secs(120);
    assert_eq!(
        found,
        [
            ("CLAUDE_EVENTS", "claude.>", 7 * DAY, 100_000, window),
            ("MCP_EVENTS", "mcp.>", 3 * DAY, 50_000, window),
            ("SYSTEM_EVENTS", "system.>", 30 * DAY, 1_000_000, window),
        ]
    );
    let names: Vec<_> = plan.provisional.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["AI_EVENTS"], "the file does not speak of it");
    let Sections { resilience, observability, chaos, event_bus, users } = &file.sections;
    assert!(users.is_empty());
    assert_eq!(resilience.retry.max_delay, Duration::from_secs(60));
    assert_eq!(resilience.rate_limiter.rate, 100);
    assert!(observability.tracing.enabled && !chaos.enabled);
    let experiment = &chaos.experiments[0];
    assert_eq!(experiment.duration, Duration::from_secs(300));
    assert_eq!(experiment.fault_types, [FaultType::Latency, FaultType::Error]);
    assert_eq!(event_bus.connection.url.as_deref(), Some("nats://localhost:4222"));
}

#[test]
fn an_unset_variable_matters_to_whoever_uses_it() {
    let file = parse(include_str!("../../config/event-bus.yaml")).unwrap();
    assert_eq!(file.unset[0].variable, "CLAUDE_NATS_PASSWORD");
    assert!(file.require("event_bus.streams").is_ok());
    assert!(file.require("event_bus.conn").is_ok());
    let error = file.require("event_bus.connection").unwrap_err().to_string();
    assert_eq!(
        error,
        "f.yaml:8: `event_bus.connection.auth.password` needs the environment variable \
         CLAUDE_NATS_PASSWORD, which is not set; set it, or write a fallback as \
         `${CLAUDE_NATS_PASSWORD:-value}`"
    );
    let yaml = "server:\n  quic: ${QUIC}\n";
    assert!(wrong(yaml).starts_with("f.yaml:2: `server.quic` needs the environment variable QUIC"));
    let flags = BTreeMap::from([("quic", "127.0.0.1:1".to_owned())]);
    let resolved = Resolved::new(&parse(yaml).unwrap(), &no_variables, &flags).unwrap();
    assert_eq!(resolved.settings.quic.port(), 1, "a flag makes the file's value unused");
    assert!(parse("server: {quic: \"${QUIC:-127.0.0.1:5}\"}").is_ok());
}

#[test]
fn passwords_are_never_shown() {
    let environment = |name: &str| (name == "CLAUDE_NATS_PASSWORD").then(|| "hunter2".to_owned());
    let yaml =
        include_str!("../../config/event-bus.yaml").to_owned() + "server: {auth: {token: hunter2}}";
    let file = ConfigFile::parse(&yaml, "f", &environment).unwrap();
    let resolved = Resolved::new(&file, &environment, &BTreeMap::new()).unwrap();
    assert_eq!(resolved.settings.auth_token.as_ref().unwrap().0, "hunter2");
    let shown = format!("{:?} {:?}", resolved.shown(&file), file.sections);
    assert!(!shown.contains("hunter2") && shown.contains("***"));
    assert!(!format!("{resolved:?}").contains("hunter2"));
}

#[test]
fn the_annotated_file_is_the_defaults_and_has_every_key() {
    let yaml = include_str!("../../config/claudebus.yaml");
    let file = parse(yaml).unwrap();
    assert_eq!(file.sections, Sections::default());
    let resolved = Resolved::new(&file, &no_variables, &BTreeMap::new()).unwrap();
    assert_eq!(resolved.settings, ServerSettings::default());
    let tree = Node::parse(yaml).unwrap();
    for setting in SETTINGS {
        let found =
            setting.key.split('.').try_fold(tree.get("server").unwrap(), |at, key| at.get(key));
        assert!(found.is_some(), "config/claudebus.yaml lacks server.{}", setting.key);
    }
    for shown in resolved.shown(&file) {
        let found = shown.key.split('.').try_fold(&tree, |at, key| at.get(key));
        assert!(found.is_some(), "config/claudebus.yaml lacks {}", shown.key);
    }
}

#[test]
fn every_setting_reads_what_it_shows() {
    let defaults = ServerSettings::default();
    for setting in SETTINGS {
        let shown = (setting.show)(&defaults);
        let mut read = defaults.clone();
        (setting.set)(&mut read, &shown).unwrap_or_else(|why| panic!("{}: {why}", setting.key));
        assert_eq!((setting.show)(&read), shown, "{}", setting.key);
        assert!(!setting.is_switch() || setting.flag.is_some(), "{}", setting.key);
    }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = parse("server:\n  log: a\n  quic: 127.0.0.1:1\n  http: off\n").unwrap();
    let environment = |name: &str| match name {
        "CLAUDEBUS_LOG" => Some("b".to_owned()),
        "CLAUDEBUS_QUIC" => Some("127.0.0.1:2".to_owned()),
        _ => None,
    };
    let flags = BTreeMap::from([("log", "c".to_owned())]);
    let resolved = Resolved::new(&file, &environment, &flags).unwrap();
    assert_eq!(resolved.settings.log, "c");
    assert_eq!(resolved.settings.quic.port(), 2);
    assert_eq!(resolved.settings.http, None);
    assert_eq!(resolved.settings.durability, Durability::Sync);
    let origin = |key| resolved.origin(key).to_string();
    assert_eq!(origin("log"), "--log");
    assert_eq!(origin("quic"), "environment CLAUDEBUS_QUIC");
    assert_eq!(origin("http"), "f.yaml:4");
    assert_eq!(origin("durability"), "default");
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_word() {
    for (yaml, expected) in [
        ("sever:\n  quic: x\n", "f.yaml:1: unknown key `sever`; did you mean `server`?"),
        (
            "server:\n\n  tail_bugdet: 1MiB\n",
            "f.yaml:3: unknown key `tail_bugdet` in `server`; did you mean `tail_budget`?",
        ),
        (
            "server: {limits: {max_stream: 1}}",
            "f.yaml:1: unknown key `max_stream` in `server.limits`; did you mean `max_streams`?",
        ),
        (
            "event_bus:\n  streams:\n    - name: A\n      subjects: [a]\n      retenton: 7d\n",
            "f.yaml:5: unknown key `retenton` in `event_bus.streams[0]`; did you mean `retention`?",
        ),
        (
            "observability: {tracing: {backend: jager}}",
            "f.yaml:1: unknown value `jager` in `observability.tracing.backend`; did you mean \
             `jaeger`?",
        ),
        (
            "event_bus:\n  connection:\n    auth:\n      password: ${UNSET}\n      usr: x\n",
            "f.yaml:5: unknown key `usr` in `event_bus.connection.auth`; did you mean `user`?",
        ),
        (
            "chaos: {colour: red}",
            "f.yaml:1: unknown key `colour` in `chaos`; known here: enabled, experiments",
        ),
    ] {
        assert_eq!(wrong(yaml), expected);
    }
}

#[test]
fn absurd_values_are_errors_in_words_everywhere() {
    let tree = Node::parse(include_str!("../../config/claudebus.yaml")).unwrap();
    let mut leaves = Vec::new();
    collect(String::new(), &tree, &mut leaves);
    assert!(leaves.len() > 40, "{leaves:?}");
    let text_keys = [
        "server.data",
        "server.copies_dir",
        "server.log",
        "server.nats_tls.cert",
        "server.nats_tls.key",
        "server.nats_tls.ca",
        "server.ready_file",
        "server.auth",
        "server.http_hosts",
        "event_bus.connection",
    ];
    for key in leaves.iter().filter(|key| !text_keys.iter().any(|text| key.starts_with(text))) {
        for value in ["-1", "1e308", ".nan", "-9223372036854775809", "banana", "[[]]", "{a: b}"] {
            let mut yaml = String::new();
            for (depth, word) in key.split('.').enumerate() {
                yaml += &format!("{}{word}:\n", "  ".repeat(depth));
            }
            let yaml = format!("{} {value}\n", yaml.trim_end());
            let error = wrong(&yaml);
            assert!(error.starts_with("f.yaml:"), "{yaml}{error}");
            let last = key.rsplit('.').next().unwrap();
            assert!(error.contains(last), "{yaml}{error}");
        }
    }
}

fn collect(path: String, node: &Node, into: &mut Vec<String>) {
    match &node.kind {
        Kind::Map(entries) => {
            for (key, _, value) in entries {
                collect(expand::join(&path, key), value, into);
            }
        }
        _ => into.push(path),
    }
}

#[test]
fn streams_are_checked_one_by_one() {
    let stream = |rest: &str| wrong(&format!("event_bus:\n  streams:\n  - {{{rest}}}\n"));
    assert_eq!(
        stream("name: a.b, subjects: [x]"),
        "f.yaml:3: `event_bus.streams[0].name`: `a.b` cannot name a stream; a name has no white \
         space, dots, wildcards or slashes"
    );
    assert!(stream("name: A, subjects: [x..y]").contains("`x..y` is not a subject"));
    assert!(stream("name: A, subjects: []").contains("the list is empty"));
    assert!(stream("name: A").contains("the key `subjects` is missing"));
    assert!(stream("name: A, subjects: [x], max_msgs: 0").contains("from 1 to"));
    assert!(stream("name: A, subjects: [x], retention: soon").contains("neither a duration"));
    assert!(
        wrong("event_bus: {streams: [{name: A, subjects: [x]}, {name: A, subjects: [y]}]}")
            .contains("two streams are named `A`")
    );
    let overlapping =
        "event_bus: {streams: [{name: A, subjects: [x.>]}, {name: B, subjects: [y, x.*]}]}";
    let told = wrong(overlapping);
    assert!(told.contains("`A` and `B` would both store what goes to `x.*`"), "{told}");
}

#[test]
fn a_stream_entry_becomes_a_jetstream_configuration() {
    let yaml = "event_bus:\n  default_streams: false\n  streams:\n  - name: JOBS\n    subjects: [jobs.>]\n    \
                retention: workqueue\n    max_age: 1m\n    max_bytes: 1GiB\n    discard: new\n    \
                compression: off\n    dead_letters: false\n";
    let plan = StreamPlan::new(&parse(yaml).unwrap().sections.event_bus);
    assert!(plan.provisional.is_empty());
    let mut expected = StreamConfig {
        name: "JOBS".into(),
        subjects: vec!["jobs.>".into()],
        retention: Retention::WorkQueue,
        max_age: Duration::from_secs(60),
        max_bytes: 1 << 30,
        discard: crate::model::stream::Discard::New,
        block_compression: crate::model::stream::BlockCompression::Off,
        // No longer than its messages live.
        duplicate_window: Duration::from_secs(60),
        ..StreamConfig::default()
    };
    expected.dead_letters.enabled = false;
    assert_eq!(plan.configured, [expected]);
}

#[test]
fn the_default_streams_stay_as_promised() {
    let streams = default_streams();
    let ages: Vec<_> = streams.iter().map(|s| s.max_age.as_secs() / DAY.as_secs()).collect();
    assert_eq!(ages, [7, 3, 30, 90]);
    assert!(streams.iter().all(|s| s.duplicate_window == Duration::from_secs(120)));
}

#[test]
fn what_is_no_section_or_no_yaml_says_so() {
    assert!(wrong("- a\n- b\n").contains("must be a section"));
    assert!(wrong("server: 5").contains("found `5`, expected a section"));
    assert!(wrong("server: {quic: [1]}").contains("found a list, expected one value"));
    assert!(wrong("server: {quic: ${A}").contains("f.yaml"));
    assert!(wrong("event_bus: 5").contains("event_bus"));
    assert!(wrong("a: b: c").contains("not valid YAML"));
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(256))]

    /// Whatever a hand or a disk does to a file, it is read or refused in words.
    #[test]
    fn no_damage_to_a_file_is_a_panic(
        cuts in proptest::collection::vec((0usize..8000, 0usize..40, "[ -~\n\u{0}\u{85}é]{0,12}"), 1..6),
    ) {
        for yaml in [
            include_str!("../../config/event-bus.yaml"),
            include_str!("../../config/claudebus.yaml"),
        ] {
            let mut damaged: Vec<char> = yaml.chars().collect();
            for (at, length, text) in &cuts {
                let from = at % damaged.len().max(1);
                let to = (from + length).min(damaged.len());
                damaged.splice(from..to, text.chars());
            }
            let damaged: String = damaged.into_iter().collect();
            match parse(&damaged) {
                Ok(file) => drop(Resolved::new(&file, &no_variables, &BTreeMap::new())),
                Err(error) => proptest::prop_assert!(error.to_string().contains("f.yaml")),
            }
        }
    }
}
