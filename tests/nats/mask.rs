//! What a server said, as lines that can be compared: times and identifiers are masked, JSON is
//! written one value a line, in the order of the keys.
//!
//! Whether a field is there is compared even where its value is masked. Zero times stay.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::connection::Operation;

/// What stands in place of a value that differs from run to run.
const MASK: &str = "*";
/// Fields whose values are times, identifiers, places or versions.
const VOLATILE: &[&str] = &[
    "ack_time",
    "active",
    "client",
    "client_id",
    "cluster",
    "created",
    "first_ts",
    "host",
    "id",
    "last_active",
    "last_ts",
    "level",
    "pause_remaining",
    "pinned_client_id",
    "pinned_id",
    "pinned_ts",
    "port",
    "server",
    "server_id",
    "server_name",
    "time",
    "timestamp",
    "ts",
    "version",
];
/// Fields that say what the real server is built from, or which clients do not look at.
const LEFT_OUT: &[&str] = &["api_lvl", "feature_flags", "git_commit", "go", "xkey"];
/// Fields of what is not supported: it says the same whether they are false or not there.
const LEFT_OUT_IF_FALSE: &[&str] =
    &["allow_atomic", "allow_batched", "allow_msg_counter", "allow_msg_schedules"];
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
/// The longest text that is printed whole.
const LONGEST: usize = 200;

/// Names that a server made up, and what stands in their place.
#[derive(Debug, Default)]
pub(crate) struct Aliases(Vec<(String, String)>);

impl Aliases {
    /// Takes a name that the server made up, the first time it is seen.
    pub(crate) fn add(&mut self, name: &str) {
        if !self.0.iter().any(|(other, _)| other == name) {
            self.0.push((name.to_owned(), format!("<e{}>", self.0.len() + 1)));
        }
    }

    /// Puts the made up names where a row says `<e1>`.
    pub(crate) fn fill_in(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, alias)| text.replace(alias, name))
    }

    fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, alias)| text.replace(name, alias))
    }
}

/// How operations are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Whether counts of all requests to the server are shown: only where it is the row's own.
    pub(crate) shows_totals: bool,
    /// Whether JSON is shown as it came: of INFO the fields in their order, of others every byte.
    pub(crate) is_verbatim: bool,
}

impl Style {
    /// The lines for one operation.
    pub(crate) fn lines(self, operation: &Operation, aliases: &Aliases) -> Vec<String> {
        if let Some(json) = operation.line.strip_prefix("INFO ") {
            if self.is_verbatim {
                return self.info(json);
            }
            let mut lines = vec!["INFO".to_owned()];
            lines.extend(self.json(json.as_bytes()).unwrap_or_else(|| vec![json.to_owned()]));
            return lines;
        }
        let json = if self.is_verbatim { None } else { self.json(&operation.payload) };
        let (headers, is_masked) = header_lines(operation.headers.as_deref());
        let sizes = match operation.verb() {
            "MSG" => usize::from(json.is_some()),
            "HMSG" if json.is_some() || is_masked => 2,
            _ => 0,
        };
        let mut lines = vec![control_line(&operation.line, sizes)];
        lines.extend(headers);
        lines.extend(json.unwrap_or_else(|| text(&operation.payload)));
        lines.iter().map(|line| aliases.hide(line)).collect()
    }

    /// An object as lines `path = value`; none if it is something else.
    pub(crate) fn json(self, bytes: &[u8]) -> Option<Vec<String>> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let mut lines = Vec::new();
        value.as_object()?;
        self.flatten("", &value, &mut lines);
        Some(lines)
    }

    /// The fields of INFO in the order in which they came, and what stands behind them.
    fn info(self, text: &str) -> Vec<String> {
        let mut lines = vec!["INFO".to_owned()];
        let fields: InOrder = serde_json::from_str(text).expect("INFO is an object");
        for (name, value) in &fields.0 {
            self.flatten(name, value, &mut lines);
        }
        lines.push(format!("  then {:?}", &text[text.trim_end().len()..]));
        lines
    }

    fn flatten(self, path: &str, value: &Value, lines: &mut Vec<String>) {
        let key = path.rsplit('.').next().unwrap_or_default();
        if LEFT_OUT.contains(&key)
            || (LEFT_OUT_IF_FALSE.contains(&key) && *value == Value::Bool(false))
        {
            return;
        }
        if self.is_volatile(path, key) && value.as_str() != Some(ZERO_TIME) {
            lines.push(format!("  {path} = {MASK}"));
            return;
        }
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
                for (name, field) in sorted {
                    // Dots in the names of metadata must not look like levels.
                    let name = name.replace('.', "_");
                    let inner = if path.is_empty() { name } else { format!("{path}.{name}") };
                    self.flatten(&inner, field, lines);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (at, item) in items.iter().enumerate() {
                    self.flatten(&format!("{path}[{at}]"), item, lines);
                }
            }
            Value::String(text) if key == "hdrs" => {
                let (headers, _) = header_lines(BASE64_STANDARD.decode(text).ok().as_deref());
                lines.push(format!("  {path}:"));
                lines.extend(headers);
            }
            Value::String(text) if key == "description" && text.starts_with("invalid JSON") => {
                // What follows is the wording of a JSON library.
                lines.push(format!("  {path} = \"invalid JSON...\""));
            }
            other => lines.push(format!("  {path} = {other}")),
        }
    }

    fn is_volatile(self, path: &str, key: &str) -> bool {
        let counts_requests = path == "api.total" || path == "api.errors";
        VOLATILE.contains(&key)
            || key.starts_with("_nats_")
            || (counts_requests && !self.shows_totals)
    }
}

/// The fields of an object in the order in which they stand.
struct InOrder(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for InOrder {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = InOrder;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<InOrder, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(InOrder(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The control line with volatile subjects masked, and as many sizes at its end as are asked for.
fn control_line(line: &str, sizes: usize) -> String {
    // The real server gives some of its own messages an empty reply subject, between two spaces.
    let words = line.split(' ').filter(|word| !word.is_empty());
    let mut words: Vec<String> = words.map(subject).collect();
    let count = words.len();
    for word in words.iter_mut().skip(count.saturating_sub(sizes)) {
        MASK.clone_into(word);
    }
    words.join(" ")
}

/// A subject without the time of an ack subject or the random end of one of flow control.
fn subject(word: &str) -> String {
    let mut tokens: Vec<&str> = word.split('.').collect();
    let volatile = match (word.starts_with("$JS.ACK."), word.starts_with("$JS.FC."), tokens.len()) {
        (true, _, 9) => 7,
        (_, true, 5) => 4,
        _ => return word.to_owned(),
    };
    tokens[volatile] = MASK;
    tokens.join(".")
}

/// The header block line by line, and whether something of it is masked, so that sizes say nothing.
fn header_lines(block: Option<&[u8]>) -> (Vec<String>, bool) {
    let Some(block) = block else { return (Vec::new(), false) };
    let block = String::from_utf8_lossy(block).into_owned();
    let Some(inner) = block.strip_suffix("\r\n\r\n") else {
        return (vec![format!("  | {block:?}, which does not end with an empty line")], false);
    };
    let mut is_masked = false;
    let mut show = |line: &str| {
        let masked = match line.split_once(": ") {
            Some((name @ ("Nats-Time-Stamp" | "Nats-UpTo-Time"), _)) => format!("{name}: {MASK}"),
            // One that the server made up.
            Some((name @ "Nats-Pin-Id", value)) if value.len() == 22 => format!("{name}: {MASK}"),
            Some(("Nats-Stream-Source", value)) => {
                // It ends with a name that the server made up.
                let known = value.rsplit_once(' ').map_or("", |(known, _)| known);
                format!("Nats-Stream-Source: {known} {MASK}")
            }
            Some((name @ ("Nats-Consumer-Stalled" | "Nats-Subject"), value)) => {
                format!("{name}: {}", subject(value))
            }
            _ => line.to_owned(),
        };
        is_masked |= masked != line;
        format!("  | {masked}")
    };
    (inner.split("\r\n").map(&mut show).collect(), is_masked)
}

fn text(payload: &[u8]) -> Vec<String> {
    if payload.is_empty() {
        return Vec::new();
    }
    let text = payload.escape_ascii().to_string();
    match text.get(..LONGEST) {
        Some(start) if text.len() > LONGEST => vec![format!("  {start}...")],
        _ => vec![format!("  {text}")],
    }
}

#[test]
fn only_what_is_volatile_is_masked() {
    let style = Style { shows_totals: false, is_verbatim: false };
    let message = |line: &str, payload: &str| Operation {
        line: line.to_owned(),
        headers: None,
        payload: payload.as_bytes().to_vec(),
    };
    let lines = |message| style.lines(&message, &Aliases::default());
    assert_eq!(
        lines(message("MSG s.1 1 $JS.ACK.S.c.1.2.3.1700000000000000000.4 2", "hi")),
        ["MSG s.1 1 $JS.ACK.S.c.1.2.3.*.4 2", "  hi"]
    );
    let json =
        r#"{"state":{"last_ts":"2026-01-01T00:00:00Z","first_ts":"0001-01-01T00:00:00Z"},"n":1}"#;
    assert_eq!(
        lines(message("MSG x 1 80", json)),
        [
            "MSG x 1 *",
            "  n = 1",
            "  state.first_ts = \"0001-01-01T00:00:00Z\"",
            "  state.last_ts = *"
        ]
    );
}

#[test]
fn verbatim_json_is_shown_as_it_came() {
    let style = Style { shows_totals: false, is_verbatim: true };
    let lines = |line: &str, payload: &str| {
        let (line, payload) = (line.to_owned(), payload.as_bytes().to_vec());
        style.lines(&Operation { line, headers: None, payload }, &Aliases::default())
    };
    let body = r#"{"stream":"S", "seq":1}"#;
    assert_eq!(lines("MSG x 1 23", body), ["MSG x 1 23", r#"  {\"stream\":\"S\", \"seq\":1}"#]);
    assert_eq!(
        lines(r#"INFO {"version":"1","proto":1,"headers":true} "#, ""),
        ["INFO", "  version = *", "  proto = 1", "  headers = true", "  then \" \""]
    );
}
