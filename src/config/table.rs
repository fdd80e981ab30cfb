//! Typed access to the parsed document, table by table and value by value.
//!
//! The reader walks the document instead of deriving a deserializer, so that every error, whether of syntax, of type or of
//! meaning, can name its line, its key and its table, and say what would be valid.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, units};
use crate::address::AddressError;
use crate::datetime;
use crate::nearest::nearest;

pub(super) const GIB: usize = 1 << 30;
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// The shortest plausible duration: a shorter one is most likely a mistaken unit.
pub(super) const MIN_DURATION: Duration = Duration::from_millis(1);

/// The maximum number of characters of a line that an error quotes.
const MAX_LINE: usize = 60;

/// What is wrong, and at which line of the file, counted from 1.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) message: String,
}

impl Mistake {
    pub(super) fn of_file(self, file: &str) -> ConfigError {
        ConfigError::Invalid { file: file.to_owned(), line: self.line, message: self.message }
    }
}

/// The mistake is boxed: nearly every line that reads a value may return one.
pub(super) type Result<T> = std::result::Result<T, Box<Mistake>>;

/// The text of the file, which maps byte offsets to lines.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) file: &'a str,
    /// Those so far that do not prevent reading on, by line.
    pub(super) mistakes: &'a RefCell<Vec<Mistake>>,
}

impl Source<'_> {
    /// Returns the error of a text that is not TOML.
    pub(super) fn syntax_error(&self, error: &toml::de::Error) -> Box<Mistake> {
        let span = error.span().unwrap_or_default();
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = &self.text[before.rfind('\n').map_or(0, |end| end + 1)..];
        let line: String = line.lines().next().unwrap_or_default().trim().chars().take(MAX_LINE).collect();
        let message = match (error.message(), self.text.get(span.clone())) {
            ("duplicate key", key) => {
                let place = "a key of the file as a whole is above the first [table]";
                format!("duplicate key {:?}; {place}", key.unwrap_or_default())
            }
            (message, _) => format!("cannot read `{line}`: {}", explained(message)),
        };
        self.fail(span.start, message)
    }

    /// Keeps the error of a part of the file, so that the others are checked too.
    pub(super) fn note<T>(&self, result: Result<T>) -> Option<T> {
        let note = |mistake: Box<Mistake>| {
            let mut mistakes = self.mistakes.borrow_mut();
            let at = mistakes.partition_point(|earlier| earlier.line <= mistake.line);
            mistakes.insert(at, *mistake);
        };
        result.map_err(note).ok()
    }

    /// Returns an error at a byte offset.
    #[cold]
    pub(super) fn fail(&self, offset: usize, message: String) -> Box<Mistake> {
        Box::new(Mistake { line: self.line(offset), message })
    }

    /// Returns the line of a byte offset, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// One table of the file, with the heading that errors show; the heading of the top level is empty.
pub(super) struct Table<'a> {
    pub(super) source: Source<'a>,
    pub(super) heading: &'a str,
    pub(super) offset: usize,
    pub(super) entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// Notes the errors of every key but the known ones.
    pub(super) fn allow(&self, known: &[&str]) {
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let shown = in_heading(&format!("{name:?}"), self.heading);
            let near = nearest(name, &mut known.iter().copied());
            let near = near.map_or(String::new(), |near| format!(" did you mean {near}?"));
            let message = format!("unknown key {shown};{near} known keys: {}", known.join(", "));
            self.source.note::<()>(Err(self.source.fail(key.span().start, message)));
        }
    }

    /// Notes the errors of those of the keys in `all` that such a table does not take.
    pub(super) fn allow_of(&self, what: &str, known: &[&str], all: &[&str]) {
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if all.contains(&name) && !known.contains(&name) {
                let message = format!("{what} takes no {name}; it takes {}", known.join(", "));
                self.source.note::<()>(Err(self.source.fail(key.span().start, message)));
            }
        }
    }

    pub(super) fn get(&self, key: &'a str) -> Option<Field<'a>> {
        let value = self.entries.get(key)?;
        Some(Field { source: self.source, heading: self.heading, key, value })
    }

    /// Reads the value of a key, if there is one. An error is noted, so that the other keys are read too.
    pub(super) fn read<T>(&self, key: &'a str, read: impl FnOnce(Field<'a>) -> Result<T>) -> Option<T> {
        self.source.note(read(self.get(key)?))
    }

    /// As [`read`](Self::read), where a missing key is an error.
    pub(super) fn read_required<T>(
        &self,
        key: &'a str,
        example: &str,
        read: impl FnOnce(Field<'a>) -> Result<T>,
    ) -> Option<T> {
        self.source.note(self.require(key, example).and_then(read))
    }

    /// Reads one of several names into `into`, which is left unchanged if the key is missing. An error is noted.
    pub(super) fn choice<T: Copy>(&self, key: &'a str, choices: &[(&str, T)], into: &mut T) {
        let Some(field) = self.get(key) else { return };
        let typed = field.value.get_ref().as_str();
        match choices.iter().find(|(name, _)| typed == Some(name)) {
            Some((_, value)) => *into = *value,
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                self.note(field.expected(&one_of(&names)));
            }
        }
    }

    /// Notes an error.
    pub(super) fn note(&self, mistake: Box<Mistake>) {
        self.source.note::<()>(Err(mistake));
    }

    pub(super) fn require(&self, key: &'a str, example: &str) -> Result<Field<'a>> {
        self.get(key).ok_or_else(|| self.fail(&format!("needs {key}, such as {key} = {example}")))
    }

    /// Returns the table under a key, if any.
    pub(super) fn table(&self, key: &'a str, heading: &'a str) -> Result<Option<Table<'a>>> {
        let Some(field) = self.get(key) else { return Ok(None) };
        field.table(heading).map(Some).ok_or_else(|| field.expected(&format!("a table: {heading}")))
    }

    /// Returns the tables of an array of tables.
    pub(super) fn tables(&self, key: &'a str, heading: &'a str) -> Result<Vec<Table<'a>>> {
        let Some(field) = self.get(key) else { return Ok(Vec::new()) };
        let wanted = format!("a list of tables, each under its own {heading}");
        let list = field.value.get_ref().as_array().ok_or_else(|| field.expected(&wanted))?;
        let table = |value| {
            let field = Field { value, ..field };
            field.table(heading).ok_or_else(|| field.expected(&wanted))
        };
        list.iter().map(table).collect()
    }

    /// Reads a size in bytes into `into`, which is left unchanged if the key is missing. An error is noted.
    pub(super) fn size(&self, key: &'a str, range: RangeInclusive<usize>, into: &mut usize) {
        let Some(field) = self.get(key) else { return };
        let bytes = match field.value.get_ref() {
            DeValue::String(text) => units::parse_size(text),
            _ => field.integer(),
        };
        let bytes =
            bytes.ok_or_else(|| field.expected("a number of bytes, such as 65536, \"64 KiB\" or \"1 MB\""));
        let bytes = bytes.and_then(|bytes| {
            field.within(usize::try_from(bytes).ok(), &range, |bytes| units::format_exact(*bytes))
        });
        if let Some(bytes) = self.source.note(bytes) {
            *into = bytes;
        }
    }

    /// Reads an integer into `into`, which is left unchanged if the key is missing. An error is noted.
    pub(super) fn count<T>(&self, key: &'a str, range: RangeInclusive<T>, into: &mut T)
    where
        T: TryFrom<u64> + PartialOrd + ToString,
    {
        let Some(field) = self.get(key) else { return };
        let count = field.integer().and_then(|count| T::try_from(count).ok());
        if let Some(count) = self.source.note(field.within(count, &range, T::to_string)) {
            *into = count;
        }
    }

    /// Reads a duration into `into`, which is left unchanged if the key is missing. An error is noted.
    pub(super) fn duration(
        &self,
        key: &'a str,
        range: RangeInclusive<Duration>,
        into: &mut impl From<Duration>,
    ) {
        let Some(field) = self.get(key) else { return };
        let duration = match field.value.get_ref() {
            DeValue::String(text) => units::parse_duration(text),
            DeValue::Float(seconds) => units::parse_duration(&format!("{}s", seconds.as_str())),
            _ => field.integer().map(Duration::from_secs),
        };
        let duration = duration.ok_or_else(|| {
            field.expected("a duration, such as \"250ms\", \"1.5s\", \"5m\" or 2 for two seconds")
        });
        let duration = duration
            .and_then(|duration| field.within(Some(duration), &range, |duration| format!("{duration:?}")));
        if let Some(duration) = self.source.note(duration) {
            *into = duration.into();
        }
    }

    /// Returns an error that begins with the table's heading.
    pub(super) fn fail(&self, message: &str) -> Box<Mistake> {
        self.source.fail(self.offset, format!("{} {message}", self.heading))
    }
}

/// One value of the file, and its key.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) source: Source<'a>,
    pub(super) heading: &'a str,
    pub(super) key: &'a str,
    pub(super) value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    pub(super) fn string(self) -> Result<&'a str> {
        self.value.get_ref().as_str().ok_or_else(|| self.expected("a string in quotes"))
    }

    pub(super) fn boolean(self) -> Result<bool> {
        self.value.get_ref().as_bool().ok_or_else(|| self.expected("true or false"))
    }

    /// Returns a name of visible characters, which needs no quotes in messages, logs and shells.
    pub(super) fn visible_name(self, example: &str) -> Result<&'a str> {
        let name = self.string()?;
        if (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(name);
        }
        Err(self.expected(&format!("1 to 128 visible ASCII characters without spaces, such as {example:?}")))
    }

    /// Returns the names in a list; an error in one of them is noted.
    pub(super) fn names(self, example: &str, several: &str) -> Result<Vec<String>> {
        let names = self.list(&format!("a list of names such as [{several}]"))?;
        Ok(names
            .filter_map(|field| self.source.note(field.visible_name(example)).map(str::to_owned))
            .collect())
    }

    pub(super) fn path(self) -> Result<PathBuf> {
        let path = self.string()?;
        if path.is_empty() || path.contains('\0') {
            return Err(self.expected("a path such as \"/var/lib/board\""));
        }
        Ok(PathBuf::from(path))
    }

    /// Returns an address as typed, and parsed.
    pub(super) fn address<T: FromStr<Err = AddressError>>(self) -> Result<(&'a str, T)> {
        let text = self.string()?;
        text.parse()
            .map(|address| (text, address))
            .map_err(|error: AddressError| self.expected(&error.to_string()))
    }

    pub(super) fn datetime(self) -> Result<SystemTime> {
        self.value.get_ref().as_datetime().and_then(datetime::to_system_time).ok_or_else(|| {
            self.expected("a date and time with its offset, without quotes: 2027-01-01T00:00:00Z")
        })
    }

    /// Returns the elements of a list that must not be empty. An error in an element names the element's line, which may
    /// be far below that of the key.
    pub(super) fn list(self, wanted: &str) -> Result<impl Iterator<Item = Field<'a>> + use<'a>> {
        let list = self.value.get_ref().as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| self.expected(wanted))?;
        Ok(list.iter().map(move |value| Field { value, ..self }))
    }

    pub(super) fn integer(self) -> Option<u64> {
        let integer = self.value.get_ref().as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    pub(super) fn table(self, heading: &'a str) -> Option<Table<'a>> {
        let entries = self.value.get_ref().as_table()?;
        Some(Table { source: self.source, heading, offset: self.value.span().start, entries })
    }

    /// Checks that a value is present and in a range.
    pub(super) fn within<T: PartialOrd>(
        self,
        value: Option<T>,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> Result<T> {
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            // A number is often written as a text.
            let is_quoted = self.value.get_ref().as_str().is_some_and(|text| text.parse::<u64>().is_ok());
            let hint = if is_quoted { ", without quotes" } else { "" };
            self.expected(&format!("a value from {} to {}{hint}", show(range.start()), show(range.end())))
        })
    }

    /// Returns the error that another value was expected.
    pub(super) fn expected(self, wanted: &str) -> Box<Mistake> {
        let typed = self.source.text.get(self.value.span()).and_then(|typed| typed.lines().next());
        // Lists and tables may be too long to quote.
        let found = match self.value.get_ref() {
            DeValue::Array(list) if list.is_empty() => "an empty list",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            _ => typed.unwrap_or_default(),
        };
        self.fail(&format!("expected {wanted}, found {found}"))
    }

    /// Returns an error that begins with the key.
    pub(super) fn fail(self, message: &str) -> Box<Mistake> {
        self.source
            .fail(self.value.span().start, format!("{}: {message}", in_heading(self.key, self.heading)))
    }
}

/// Returns what to do about a violation of TOML's rules, of which toml tells what it expected of its grammar.
fn explained(message: &str) -> String {
    let hint = match message.split(['\n', ',']).next().unwrap_or_default() {
        "string values must be quoted" => "expected a value; a text needs quotes, such as \"text\"",
        "invalid boolean" => "expected true or false; a text needs quotes, such as \"text\"",
        "invalid float" | "invalid fraction" | "invalid integer" => {
            "expected a number; a text needs quotes, such as \"127.0.0.1:7300\""
        }
        "invalid basic string" | "invalid literal string" | "invalid multi-line basic string" => {
            "a quote is not closed"
        }
        "missing escaped value" | "too few unicode value digits" => {
            "a \\ in double quotes is written \\\\, or the text in single quotes"
        }
        "extra `=`" | "key with no value" | "unquoted keys cannot be empty" | "unexpected key or value" => {
            "expected key = value, one on each line"
        }
        "unclosed array" => "a [ is not closed by ]",
        "unclosed inline table" => "a { is not closed by }",
        "unclosed table" | "unclosed array table" => "the heading of a table is [name] or [[name]]",
        _ => return message.replace('\n', ", "),
    };
    hint.to_owned()
}

/// Returns names in quotes: `"a", "b" or "c"`.
fn one_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

/// Returns the key with the heading of its table, if it has one.
fn in_heading(key: &str, heading: &str) -> String {
    if heading.is_empty() { key.to_owned() } else { format!("{key} in {heading}") }
}
