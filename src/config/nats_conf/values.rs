//! What a value means: numbers, sizes, addresses, true and false.

use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use super::error::NatsConfError;
use super::options::Port;
use super::tree::{Entry, Kind};

/// Letters behind a number, and what it is multiplied by.
const SUFFIXES: &[(&str, i64)] = &[
    ("", 1),
    ("k", 1000),
    ("kb", 1 << 10),
    ("ki", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1 << 20),
    ("mi", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1 << 30),
    ("gi", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1 << 40),
    ("ti", 1 << 40),
    ("tib", 1 << 40),
];

impl Entry {
    /// An error about the entry's value.
    pub(super) fn invalid(&self, why: impl Into<String>) -> NatsConfError {
        let (place, key) = (self.value.place.clone(), self.key.clone());
        NatsConfError::Invalid { place, key, why: why.into() }
    }

    /// An error about the key itself.
    pub(super) fn unsupported(&self, instead: &'static str) -> NatsConfError {
        NatsConfError::Unsupported { place: self.place.clone(), key: self.key.clone(), instead }
    }

    fn expected(&self, what: &str) -> NatsConfError {
        self.invalid(format!("{} is not {what}", self.value.what()))
    }

    /// A text, quoted or not.
    pub(super) fn string(&self) -> Result<String, NatsConfError> {
        self.value.text().map(str::to_owned).ok_or_else(|| self.expected("a text"))
    }

    pub(super) fn path(&self) -> Result<PathBuf, NatsConfError> {
        let text = self.string()?;
        if text.contains('\0') {
            return Err(self.invalid("a path cannot hold a zero byte"));
        }
        Ok(text.into())
    }

    /// True or false, as people write them.
    pub(super) fn boolean(&self) -> Result<bool, NatsConfError> {
        let word = self.value.text().unwrap_or_default().to_ascii_lowercase();
        match word.as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A whole number, perhaps with a unit: `64K`, `1MB`.
    pub(super) fn number(&self) -> Result<i64, NatsConfError> {
        let wrong = || self.expected("a number or a size; write for example 65536, 64K or 1MB");
        let text = self.value.text().ok_or_else(wrong)?;
        let end = text.trim_start_matches('-').find(|c: char| !c.is_ascii_digit());
        let sign = text.len() - text.trim_start_matches('-').len();
        let end = end.map_or(text.len(), |end| end + sign);
        let (digits, suffix) = text.split_at_checked(end).ok_or_else(wrong)?;
        let suffix = suffix.trim().to_ascii_lowercase();
        let factor = SUFFIXES.iter().find(|(known, _)| *known == suffix).ok_or_else(wrong)?.1;
        let number: i64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).ok_or_else(|| self.expected("a number that fits 64 bits"))
    }

    /// A number from `least` to `most`.
    pub(super) fn within(&self, least: i64, most: i64) -> Result<usize, NatsConfError> {
        let found = self.number()?;
        let fits = (least..=most).contains(&found).then(|| usize::try_from(found).ok()).flatten();
        fits.ok_or_else(|| {
            self.invalid(format!(
                "{found} is out of range; the least is {least}, the most is {most}"
            ))
        })
    }

    pub(super) fn duration(&self) -> Result<Duration, NatsConfError> {
        let text = self.value.text().ok_or_else(|| self.expected("a duration"))?;
        duration::duration(text).map_err(|why| self.invalid(why))
    }

    /// A duration that is not zero.
    pub(super) fn positive_duration(&self) -> Result<Duration, NatsConfError> {
        match self.duration()? {
            Duration::ZERO => Err(self.invalid("it must be longer than zero")),
            found => Ok(found),
        }
    }

    pub(super) fn port(&self) -> Result<Port, NatsConfError> {
        let text = self.value.text().ok_or_else(|| self.expected("a port"))?;
        text.parse().map_err(|why: String| self.invalid(why))
    }

    /// `host:port`, or a port alone.
    pub(super) fn listen(&self) -> Result<(Option<String>, Port), NatsConfError> {
        let text = self.value.text().ok_or_else(|| self.expected("an address"))?;
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (Some(host), port),
            None => (None, text),
        };
        let port = port.parse().map_err(|why: String| {
            self.invalid(format!("{why}; write for example 127.0.0.1:4222 or 4222"))
        })?;
        // Brackets surround the colons of an IPv6 address.
        let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
        Ok((host.filter(|host| !host.is_empty()), port))
    }

    /// The entries of a map.
    pub(super) fn map(&self) -> Result<&[Entry], NatsConfError> {
        match &self.value.kind {
            Kind::Map(entries) => Ok(entries),
            _ => Err(self.expected("a map; write { … }")),
        }
    }
}
