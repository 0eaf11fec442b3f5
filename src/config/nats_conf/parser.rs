//! From text to a tree: keys and values, variables, included files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sources;
use super::error::{NatsConfError, Place};
use super::lexer::Lexer;
use super::tree::{Entry, Kind, Value};

/// How deep maps, lists, variables and included files may lie in one another. 32: people write four or five,
/// and a file that includes itself ends here.
const MAX_DEPTH: usize = 32;

/// Values of one configuration, those that variables repeat counted each time. 100,000: variables that repeat one
/// another grow without bound otherwise.
const MAX_VALUES: usize = 100_000;

/// Beginning of passwords that bcrypt has hashed, which look like variables.
const HASHED: &str = "$2a$";

/// Reads a file and all that it includes.
pub(super) fn parse_file(path: &Path, sources: &Sources<'_>) -> Result<Vec<Entry>, NatsConfError> {
    let text = (sources.read)(path)
        .map_err(|source| NatsConfError::Read { path: path.to_path_buf(), source })?;
    let mut parser = Parser { sources, scopes: Vec::new(), depth: 0, values: 0, expands: true };
    parser.file(path, &text)
}

struct Parser<'a> {
    sources: &'a Sources<'a>,
    /// The maps that are being read, the innermost last. Variables are looked up in them.
    scopes: Vec<Vec<Entry>>,
    depth: usize,
    values: usize,
    /// Whether variables stand for something. What one of the environment holds is not expanded again.
    expands: bool,
}

/// How a map ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// With the file.
    Top,
    /// With its brace.
    Braces,
}

impl Parser<'_> {
    /// The entries of a file. Its variables are its own.
    fn file(&mut self, path: &Path, text: &str) -> Result<Vec<Entry>, NatsConfError> {
        let outer = std::mem::take(&mut self.scopes);
        let file: Arc<str> = path.display().to_string().into();
        let mut lexer = Lexer::new(&file, text);
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        lexer.skip_space();
        // As in JSON, braces may surround all.
        let has_braces = lexer.eat('{');
        let level = if has_braces { Level::Braces } else { Level::Top };
        let entries = self.map(&mut lexer, &folder, level)?;
        lexer.skip_space();
        if lexer.peek().is_some() {
            return Err(
                lexer.wrong(format!("expected the end of the file, found {}", lexer.found()))
            );
        }
        self.scopes = outer;
        Ok(entries)
    }

    /// Goes one level down, unless that is too deep.
    fn descend<T>(
        &mut self,
        place: Place,
        inner: impl FnOnce(&mut Self) -> Result<T, NatsConfError>,
    ) -> Result<T, NatsConfError> {
        if self.depth >= MAX_DEPTH {
            let why =
                format!("more than {MAX_DEPTH} values, variables or files lie in one another");
            return Err(NatsConfError::Syntax { place, why });
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Counts values, unless there are too many.
    fn count(&mut self, place: &Place, values: usize) -> Result<(), NatsConfError> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            let why = format!("there are more than {MAX_VALUES} values");
            return Err(NatsConfError::Syntax { place: place.clone(), why });
        }
        Ok(())
    }

    /// The entries of a map, and its end.
    fn map(
        &mut self,
        lexer: &mut Lexer<'_>,
        folder: &Path,
        level: Level,
    ) -> Result<Vec<Entry>, NatsConfError> {
        self.scopes.push(Vec::new());
        loop {
            lexer.skip_space();
            match (lexer.peek(), level) {
                (None, Level::Top) => break,
                (None, Level::Braces) => return Err(lexer.wrong("a `}` is missing")),
                (Some('}'), Level::Braces) => {
                    lexer.next();
                    break;
                }
                _ => self.entry(lexer, folder, level)?,
            }
        }
        Ok(self.scopes.pop().unwrap_or_default())
    }

    /// One entry, or an included file, and what ends it.
    fn entry(
        &mut self,
        lexer: &mut Lexer<'_>,
        folder: &Path,
        level: Level,
    ) -> Result<(), NatsConfError> {
        let place = lexer.place();
        let is_quoted = matches!(lexer.peek(), Some('"' | '\''));
        let key = if is_quoted { lexer.quoted()? } else { lexer.word(ends_key) };
        if key.is_empty() {
            return Err(lexer.wrong(format!("expected a key, found {}", lexer.found())));
        }
        let is_include = !is_quoted && key.eq_ignore_ascii_case("include");
        if is_include && matches!(lexer.peek(), Some(' ' | '\t')) {
            self.include(lexer, folder, &place)?;
        } else {
            lexer.skip_space();
            if matches!(lexer.peek(), Some(':' | '=')) {
                lexer.next();
                lexer.skip_space();
            }
            let value = self.value(lexer, folder)?;
            self.add(Entry { key, place, value, is_used: false });
        }
        end_of_entry(lexer, level)
    }

    fn add(&mut self, entry: Entry) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(entry);
        }
    }

    /// A file in the place of entries.
    fn include(
        &mut self,
        lexer: &mut Lexer<'_>,
        folder: &Path,
        place: &Place,
    ) -> Result<(), NatsConfError> {
        lexer.skip_blanks();
        let name = match lexer.peek() {
            Some('"' | '\'') => lexer.quoted()?,
            _ => lexer.bare()?,
        };
        if name.is_empty() {
            return Err(
                lexer.wrong(format!("expected the name of a file, found {}", lexer.found()))
            );
        }
        let path: PathBuf = folder.join(name);
        let text = (self.sources.read)(&path).map_err(|source| NatsConfError::Include {
            place: place.clone(),
            path: path.clone(),
            source,
        })?;
        let entries = self.descend(place.clone(), |parser| parser.file(&path, &text))?;
        entries.into_iter().for_each(|entry| self.add(entry));
        Ok(())
    }

    fn value(&mut self, lexer: &mut Lexer<'_>, folder: &Path) -> Result<Value, NatsConfError> {
        let place = lexer.place();
        self.count(&place, 1)?;
        let kind = match lexer.peek() {
            Some('{') => {
                lexer.next();
                let map = |parser: &mut Self| parser.map(lexer, folder, Level::Braces);
                Kind::Map(self.descend(place.clone(), map)?)
            }
            Some('[') => {
                lexer.next();
                let list = |parser: &mut Self| parser.list(lexer, folder);
                Kind::List(self.descend(place.clone(), list)?)
            }
            Some('"' | '\'') => Kind::Text(lexer.quoted()?),
            Some('(') => Kind::Text(lexer.block()?),
            _ => {
                let word = lexer.bare()?;
                match word.strip_prefix('$') {
                    _ if word.is_empty() => {
                        return Err(
                            lexer.wrong(format!("expected a value, found {}", lexer.found()))
                        );
                    }
                    Some(name) if self.expands && !word.starts_with(HASHED) => {
                        self.variable(name, &place)?
                    }
                    _ => Kind::Word(word),
                }
            }
        };
        Ok(Value { place, kind })
    }

    /// The values of a list, and its end.
    fn list(&mut self, lexer: &mut Lexer<'_>, folder: &Path) -> Result<Vec<Value>, NatsConfError> {
        let mut list = Vec::new();
        loop {
            lexer.skip_space();
            if lexer.eat(']') {
                return Ok(list);
            }
            if lexer.peek().is_none() {
                return Err(lexer.wrong("a `]` is missing"));
            }
            list.push(self.value(lexer, folder)?);
            lexer.skip_blanks();
            let ends = lexer.eat(',')
                || lexer.is_at_comment()
                || matches!(lexer.peek(), Some('\n' | '\r' | ']'));
            if !ends {
                let found = lexer.found();
                return Err(lexer.wrong(format!("expected `,` or `]` in the list, found {found}")));
            }
        }
    }

    /// What a variable stands for: an entry further up, or a variable of the environment, which is read like a value
    /// of the file.
    fn variable(&mut self, name: &str, place: &Place) -> Result<Kind, NatsConfError> {
        let mut entries = self.scopes.iter_mut().rev().flat_map(|scope| scope.iter_mut().rev());
        if let Some(entry) = entries.find(|entry| entry.key == name) {
            entry.is_used = true;
            let kind = entry.value.kind.clone();
            let values = entry.value.count();
            self.count(place, values)?;
            return Ok(kind);
        }
        let Some(text) = (self.sources.variable)(name) else {
            return Err(NatsConfError::NoVariable { place: place.clone(), name: name.to_owned() });
        };
        let kind = self.environment_value(name, &text);
        Ok(kind.unwrap_or(Kind::Text(text)))
    }

    /// What a variable of the environment holds, if that is a value of the format and not a text that only looks
    /// like one, such as a password.
    fn environment_value(&mut self, name: &str, text: &str) -> Option<Kind> {
        let file: Arc<str> = format!("${name}").into();
        let mut lexer = Lexer::new(&file, text.trim());
        let mut parser = Parser {
            sources: self.sources,
            scopes: Vec::new(),
            depth: self.depth,
            values: self.values,
            expands: false,
        };
        let value = parser.value(&mut lexer, Path::new("")).ok()?;
        self.values = parser.values;
        lexer.peek().is_none().then_some(value.kind)
    }
}

/// What ends a key without quotes.
fn ends_key(next: char) -> bool {
    next.is_whitespace() || matches!(next, ':' | '=' | '{' | '}' | '[' | ']' | ',' | ';')
}

/// Takes what must stand between two entries.
fn end_of_entry(lexer: &mut Lexer<'_>, level: Level) -> Result<(), NatsConfError> {
    lexer.skip_blanks();
    let ends = lexer.eat(',')
        || lexer.eat(';')
        || lexer.is_at_comment()
        || match lexer.peek() {
            None | Some('\n' | '\r') => true,
            other => level == Level::Braces && other == Some('}'),
        };
    if ends {
        return Ok(());
    }
    let found = lexer.found();
    Err(lexer.wrong(format!("expected a new line, `,` or `;` after a value, found {found}")))
}
