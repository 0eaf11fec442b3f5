//! Characters and words of a file, and where they are.

use std::sync::Arc;

use super::error::{NatsConfError, Place};

/// Walks through the text of one file.
pub(super) struct Lexer<'a> {
    rest: &'a str,
    file: Arc<str>,
    line: u32,
    column: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(file: &Arc<str>, text: &'a str) -> Self {
        // Editors of some systems write a mark of the byte order.
        let rest = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { rest, file: Arc::clone(file), line: 1, column: 1 }
    }

    pub(super) fn place(&self) -> Place {
        Place { file: Arc::clone(&self.file), line: self.line, column: self.column }
    }

    pub(super) fn wrong(&self, why: impl Into<String>) -> NatsConfError {
        NatsConfError::Syntax { place: self.place(), why: why.into() }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let found = chars.next()?;
        self.rest = chars.as_str();
        if found == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
        Some(found)
    }

    /// Takes the character if it is next.
    pub(super) fn eat(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.next();
        }
        is_next
    }

    /// What comes next, for errors.
    pub(super) fn found(&self) -> String {
        match self.peek() {
            None => "the end of the file".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(other) => format!("`{}`", other.escape_debug()),
        }
    }

    /// Skips spaces and tabs.
    pub(super) fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.next();
        }
    }

    /// Skips spaces, lines and comments.
    pub(super) fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) || self.is_at_comment() {
            if self.is_at_comment() {
                self.skip_comment();
            } else {
                self.next();
            }
        }
    }

    pub(super) fn is_at_comment(&self) -> bool {
        self.rest.starts_with('#') || self.rest.starts_with("//")
    }

    /// Skips the rest of the line.
    fn skip_comment(&mut self) {
        while self.peek().is_some_and(|next| next != '\n') {
            self.next();
        }
    }

    /// The characters up to the first that `ends`.
    pub(super) fn word(&mut self, ends: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(next) = self.peek().filter(|next| !ends(*next)) {
            word.push(next);
            self.next();
        }
        word
    }

    /// A value without quotes, which ends with a space, a line, or one of `,;]}`.
    pub(super) fn bare(&mut self) -> Result<String, NatsConfError> {
        let mut word = String::new();
        while let Some(next) = self.peek() {
            match next {
                ',' | ';' | ']' | '}' => break,
                space if space.is_whitespace() => break,
                '\\' => {
                    self.next();
                    word.push(self.escaped()?);
                }
                other => {
                    word.push(other);
                    self.next();
                }
            }
        }
        Ok(word)
    }

    /// A text in quotes, the first of which is next: between `"`, escapes are read; between `'`, all stands for
    /// itself.
    pub(super) fn quoted(&mut self) -> Result<String, NatsConfError> {
        let begin = self.place();
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => {
                    let why = "the text that begins here has no closing quote".to_owned();
                    return Err(NatsConfError::Syntax { place: begin, why });
                }
                found if found == quote => return Ok(text),
                Some('\\') if quote == Some('"') => text.push(self.escaped()?),
                Some(other) => text.push(other),
            }
        }
    }

    /// What a backslash and what follows stand for.
    fn escaped(&mut self) -> Result<char, NatsConfError> {
        let at = self.place();
        let wrong = |why: &str| NatsConfError::Syntax { place: at.clone(), why: why.to_owned() };
        match self.next() {
            Some('t') => Ok('\t'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some(same @ ('"' | '\\')) => Ok(same),
            Some('x') => {
                let mut digit = || self.next().and_then(|digit| digit.to_digit(16));
                let code =
                    digit().zip(digit()).and_then(|(high, low)| char::from_u32(high * 16 + low));
                code.ok_or_else(|| wrong("after `\\x` there must be two hexadecimal digits"))
            }
            _ => Err(wrong("only \\t, \\n, \\r, \\\", \\\\ and \\xHH can follow a backslash")),
        }
    }

    /// A block: the lines between `(` and a `)` that has a line of its own.
    pub(super) fn block(&mut self) -> Result<String, NatsConfError> {
        let begin = self.place();
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => {
                    let why =
                        "the block that begins here has no `)` on a line of its own".to_owned();
                    return Err(NatsConfError::Syntax { place: begin, why });
                }
                Some(')') if self.ends_block(&text) => return Ok(text),
                Some(other) => text.push(other),
            }
        }
    }

    fn ends_block(&self, before: &str) -> bool {
        before.ends_with('\n') && matches!(self.peek(), None | Some('\n' | '\r'))
    }
}
