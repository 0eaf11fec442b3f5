//! How messages are shown: as text, JSON, raw bytes or through a template.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::exit::Failure;
use super::output::Output;
use super::template::{UnknownName, fill, unescape};
use crate::model::headers;
use crate::model::time::Timestamp;

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MessageFormat {
    /// Subject, sequence, headers and payload, for people
    Text,
    /// One JSON object per line
    Json,
    /// The payload and a line break
    Raw,
    /// What --template says
    Template,
}

/// How messages are shown, as flags.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Look {
    /// How messages are shown; json with --output json
    #[arg(long, value_name = "FORMAT")]
    format: Option<MessageFormat>,
    /// Show this: {{subject}}, {{payload}}, {{stream}}, {{seq}}, {{time}}, {{attempt}}, {{size}},
    /// {{reply}}, {{json}} and {{header:NAME}} are filled in
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
}

impl Look {
    /// The flags made complete: `default` is for people who gave none. The template is checked.
    pub(super) fn resolve(&self, default: MessageFormat, output: &Output) -> Result<Show, Failure> {
        let format = match (self.format, &self.template) {
            (Some(format), None) => format,
            (None | Some(MessageFormat::Template), Some(_)) => MessageFormat::Template,
            (None, None) if output.is_json() => MessageFormat::Json,
            (None, None) => default,
            (Some(_), Some(_)) => {
                return Err(Failure::usage("--template goes with --format template only"));
            }
        };
        let template = unescape(self.template.as_deref().unwrap_or("{{payload}}"));
        let nothing = Shown::default();
        fill(&template, |name| nothing.field(name)).map_err(unknown_name)?;
        Ok(Show { format, template })
    }
}

/// How messages are shown.
#[derive(Clone, Debug)]
pub(super) struct Show {
    format: MessageFormat,
    template: String,
}

impl Show {
    /// Prints a message.
    pub(super) fn print(&self, message: &Shown<'_>, output: &mut Output) -> Result<(), Failure> {
        message.print(self.format, &self.template, output)
    }
}

/// A message, and what is known about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown<'a> {
    pub(super) subject: &'a str,
    /// Where an answer is expected, or empty.
    pub(super) reply: &'a str,
    pub(super) headers: Vec<(&'a str, &'a str)>,
    pub(super) payload: &'a [u8],
    /// Where it is stored, if it is.
    pub(super) stored: Option<Stored<'a>>,
}

/// Where a message is stored, and which delivery of it this is.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored<'a> {
    pub(super) stream: &'a str,
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    /// The consumer, and the number of this delivery among those of the message; none outside a
    /// consumer.
    pub(super) delivery: Option<(&'a str, u64)>,
}

/// A message as JSON.
#[derive(Serialize)]
struct AsJson<'a> {
    subject: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reply: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, Vec<&'a str>>,
    /// The payload, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// The payload, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl<'a> Shown<'a> {
    /// Keys with all their values.
    fn header_map(&self) -> BTreeMap<&'a str, Vec<&'a str>> {
        let mut map: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for &(key, value) in &self.headers {
            map.entry(key).or_default().push(value);
        }
        map
    }

    fn as_json(&self) -> AsJson<'_> {
        let text = std::str::from_utf8(self.payload).ok();
        let stored = self.stored.as_ref();
        let delivery = stored.and_then(|stored| stored.delivery);
        AsJson {
            subject: self.subject,
            reply: self.reply,
            stream: stored.map(|stored| stored.stream),
            seq: stored.map(|stored| stored.seq),
            time: stored.map(|stored| stored.time),
            consumer: delivery.map(|(consumer, _)| consumer),
            attempt: delivery.map(|(_, attempt)| attempt),
            headers: self.header_map(),
            payload: text,
            payload_base64: text
                .is_none()
                .then(|| base64::engine::general_purpose::STANDARD.encode(self.payload)),
        }
    }

    /// What a name stands for in a template.
    fn field(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let text = |text: String| Some(Cow::Owned(text.into_bytes()));
        let stored = self.stored.as_ref();
        match name {
            "subject" => Some(Cow::Borrowed(self.subject.as_bytes())),
            "reply" => Some(Cow::Borrowed(self.reply.as_bytes())),
            "payload" => Some(Cow::Borrowed(self.payload)),
            "size" => text(self.payload.len().to_string()),
            "json" => text(serde_json::to_string(&self.as_json()).unwrap_or_default()),
            "stream" => Some(Cow::Borrowed(stored.map_or("", |s| s.stream).as_bytes())),
            "seq" => text(stored.map(|s| s.seq.to_string()).unwrap_or_default()),
            "time" => text(stored.map(|s| s.time.to_string()).unwrap_or_default()),
            "attempt" => {
                let delivery = stored.and_then(|s| s.delivery);
                text(delivery.map(|(_, attempt)| attempt.to_string()).unwrap_or_default())
            }
            _ => {
                let key = name.strip_prefix("header:")?;
                let found = self.headers.iter().find(|(name, _)| *name == key);
                Some(Cow::Borrowed(found.map_or("", |(_, value)| *value).as_bytes()))
            }
        }
    }

    /// Prints the message.
    pub(super) fn print(
        &self,
        format: MessageFormat,
        template: &str,
        output: &mut Output,
    ) -> Result<(), Failure> {
        match format {
            MessageFormat::Json => output.json(&self.as_json()),
            MessageFormat::Raw => {
                output.bytes(self.payload)?;
                output.bytes(b"\n")
            }
            MessageFormat::Template => {
                let filled = fill(template, |name| self.field(name)).map_err(unknown_name)?;
                output.bytes(&filled)?;
                output.bytes(b"\n")
            }
            MessageFormat::Text => self.print_text(output),
        }
    }

    fn print_text(&self, output: &mut Output) -> Result<(), Failure> {
        use clap::builder::styling::{AnsiColor, Style};
        let dim = Style::new().dimmed();
        let name = Style::new().fg_color(Some(AnsiColor::Cyan.into()));
        match &self.stored {
            Some(stored) => {
                let again = match stored.delivery {
                    Some((_, attempt)) if attempt > 1 => format!(", attempt {attempt}"),
                    _ => String::new(),
                };
                output.line(format_args!(
                    "{name}{}{name:#} {dim}{} #{} at {}{again}{dim:#}",
                    self.subject, stored.stream, stored.seq, stored.time
                ))?;
            }
            None if self.reply.is_empty() => {
                output.line(format_args!("{name}{}{name:#}", self.subject))?;
            }
            None => output.line(format_args!(
                "{name}{}{name:#} {dim}reply to {}{dim:#}",
                self.subject, self.reply
            ))?,
        }
        for (key, value) in &self.headers {
            output.line(format_args!("{dim}{key}: {value}{dim:#}"))?;
        }
        match std::str::from_utf8(self.payload) {
            // What a stranger published must not steer this terminal.
            Ok(text) => output.line(printable(text)),
            Err(_) => output.line(format_args!("{dim}({} bytes){dim:#}", self.payload.len())),
        }
    }
}

/// `text` without control characters but for line breaks and tabs.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// A template names something that messages do not have.
fn unknown_name(UnknownName(name): UnknownName) -> Failure {
    Failure::usage(format_args!("`{{{{{name}}}}}` in the template stands for nothing")).hint(
        "known are subject, reply, payload, size, stream, seq, time, attempt, json and header:NAME",
    )
}

/// `KEY:VALUE` of `-H`.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("`{text}` is not a header; write `Key: value`");
    let (key, value) = text.split_once(':').ok_or_else(wrong)?;
    let (key, value) = (key.trim(), value.trim());
    if !headers::is_key(key) || !headers::is_value(value) {
        return Err(wrong());
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::output::OutputFormat;
    use super::super::output::tests::Shared;
    use super::*;

    fn shown<'a>() -> Shown<'a> {
        Shown {
            subject: "orders.new",
            reply: "",
            headers: vec![("A", "1"), ("A", "2")],
            payload: b"hello",
            stored: Some(Stored {
                stream: "ORDERS",
                seq: 7,
                time: Timestamp(1_700_000_000_000_000_000),
                delivery: Some(("c", 2)),
            }),
        }
    }

    fn print(shown: &Shown<'_>, format: MessageFormat, template: &str) -> String {
        let seen = Shared::default();
        let mut output = Output::to(OutputFormat::Text, seen.clone());
        shown.print(format, template, &mut output).unwrap();
        seen.text()
    }

    #[test]
    fn the_four_formats() {
        let message = shown();
        assert_eq!(print(&message, MessageFormat::Raw, ""), "hello\n");
        assert_eq!(
            print(&message, MessageFormat::Json, ""),
            "{\"subject\":\"orders.new\",\"stream\":\"ORDERS\",\"seq\":7,\
             \"time\":\"2023-11-14T22:13:20Z\",\"consumer\":\"c\",\"attempt\":2,\
             \"headers\":{\"A\":[\"1\",\"2\"]},\"payload\":\"hello\"}\n"
        );
        let template = "{{seq}} {{header:A}} {{header:B}}{{payload}} {{size}} {{attempt}}";
        assert_eq!(print(&message, MessageFormat::Template, template), "7 1 hello 5 2\n");
        let text = print(&message, MessageFormat::Text, "");
        assert!(text.contains("orders.new") && text.contains("#7") && text.contains("A: 2"));
    }

    #[test]
    fn payloads_that_are_no_text() {
        let message = Shown { payload: &[0xff, 0], ..shown() };
        assert!(print(&message, MessageFormat::Json, "").contains("\"payload_base64\":\"/wA=\""));
        assert!(print(&message, MessageFormat::Text, "").contains("(2 bytes)"));
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\n");
    }

    #[test]
    fn a_template_is_a_format_and_is_checked() {
        let output = Output::to(OutputFormat::Json, Vec::new());
        let resolve = |format, template: Option<&str>| {
            let look = Look { format, template: template.map(str::to_owned) };
            look.resolve(MessageFormat::Text, &output).map(|show| show.format)
        };
        assert_eq!(resolve(None, None), Ok(MessageFormat::Json));
        assert_eq!(resolve(Some(MessageFormat::Raw), None), Ok(MessageFormat::Raw));
        assert_eq!(resolve(None, Some("{{seq}} {{header:X}}")), Ok(MessageFormat::Template));
        assert!(resolve(Some(MessageFormat::Raw), Some("x")).is_err());
        assert!(resolve(None, Some("{{sequence}}")).unwrap_err().message.contains("sequence"));
    }

    #[test]
    fn headers_on_the_command_line() {
        assert_eq!(header("A: b:c"), Ok(("A".into(), "b:c".into())));
        for bad in ["A", ": b", "A b: c", "A: \n"] {
            assert_eq!(header(bad).is_ok(), bad == "A: \n", "{bad:?}");
        }
    }
}
