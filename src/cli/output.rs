//! What the program prints: data on stdout, talk on stderr.

use std::io::{BufWriter, IsTerminal as _, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::exit::Failure;

/// For whom the output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people: tables and sentences.
    #[default]
    Text,
    /// For programs: JSON, one object per line where it streams.
    Json,
}

/// Where output goes. Writes are collected; whoever waits for something calls
/// [`Output::flush`] before.
pub struct Output {
    /// For whom it is.
    pub format: OutputFormat,
    /// Whether talk is left out.
    quiet: bool,
    data: Box<dyn Write + Send>,
}

impl Output {
    /// Data to stdout, talk to stderr.
    #[must_use]
    pub fn standard(format: OutputFormat, quiet: bool) -> Self {
        // As they are: a stream that drops escape sequences for pipes would alter payloads.
        let data = BufWriter::with_capacity(64 << 10, std::io::stdout());
        Self { format, quiet, data: Box::new(data) }
    }

    /// Data to `data`.
    #[cfg(test)]
    pub fn to(format: OutputFormat, data: impl Write + Send + 'static) -> Self {
        Self { format, quiet: true, data: Box::new(data) }
    }

    /// Whether programs read it.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints one line of data.
    ///
    /// # Errors
    /// [`Failure`] if nobody can read it.
    pub fn line(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        Ok(writeln!(self.data, "{line}")?)
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// [`Failure`] if nobody can read them.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.data.write_all(bytes)?)
    }

    /// Prints one JSON value on one line.
    ///
    /// # Errors
    /// [`Failure`] if nobody can read it.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.data, value).map_err(std::io::Error::from)?;
        Ok(self.data.write_all(b"\n")?)
    }

    /// Prints a table, or nothing if it has no rows.
    ///
    /// # Errors
    /// [`Failure`] if nobody can read it.
    pub fn table<const N: usize>(
        &mut self,
        headers: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Result<(), Failure> {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(headers);
        let mut any = false;
        for row in rows {
            any = true;
            table.add_row(row);
        }
        if any {
            for line in table.lines() {
                let line = line.trim_end();
                self.line(line.strip_prefix(" ").unwrap_or(line))?;
            }
        }
        Ok(())
    }

    /// Prints keys and values, one pair a line. Pairs with an empty value are left out.
    ///
    /// # Errors
    /// [`Failure`] if nobody can read them.
    pub fn pairs<'a>(
        &mut self,
        pairs: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<(), Failure> {
        let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        for (key, value) in pairs {
            self.line(format_args!("{key:>width$}: {value}"))?;
        }
        Ok(())
    }

    /// Hands what was printed to the reader.
    ///
    /// # Errors
    /// [`Failure`] if nobody can read it.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.data.flush()?)
    }

    /// Tells people something that is no data, unless they asked for quiet.
    pub fn talk(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            say(line);
        }
    }

    /// Whether a progress bar would be seen.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// Prints one line to stderr. That nobody reads there is no reason to fail.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Prints a failure and its hint to stderr.
pub fn say_failure(failure: &Failure) {
    use clap::builder::styling::{AnsiColor, Style};
    if failure.message.is_empty() {
        return;
    }
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let cyan = Style::new().fg_color(Some(AnsiColor::Cyan.into()));
    say(format_args!("{red}error:{red:#} {}", failure.message));
    if let Some(hint) = &failure.hint {
        say(format_args!("{cyan}hint:{cyan:#} {hint}"));
    }
}

/// Asks before something is destroyed. Without a terminal to ask at, only `--yes` will do.
///
/// # Errors
/// [`Failure`] if the answer is no, or there is nobody to ask.
pub fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(format_args!("{question} There is no terminal to ask at"))
            .hint("add --yes to go ahead"));
    }
    let mut stderr = anstream::stderr();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(super::exit::Exit::Failed, "nothing was changed"))
}

/// A count with commas between thousands.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size for people, rounded: `1.2 MiB`.
#[must_use]
pub fn readable_size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(in crate::cli) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(in crate::cli) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn tables_are_plain_columns() {
        let seen = Shared::default();
        let mut output = Output::to(OutputFormat::Text, seen.clone());
        output
            .table(["Name", "N"], [["a".into(), "1".into()], ["long".into(), "22".into()]])
            .unwrap();
        output
            .pairs([("Key", "v".into()), ("Longer", "w".into()), ("None", String::new())])
            .unwrap();
        assert_eq!(seen.text(), "Name  N\na     1\nlong  22\n   Key: v\nLonger: w\n");
    }

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(readable_size(1 << 20), "1.0 MiB");
    }
}
