//! The parsed document, seen table by table and value by value.
//!
//! This walks the document instead of deriving a deserializer: that way every error, whether of syntax, of type or of
//! meaning, can name its line, its key and its table, and say what would be valid.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, units};

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

/// The text that is read, which turns an offset into a line.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) file: &'a str,
}

impl Source<'_> {
    /// The error that the text is no TOML.
    pub(super) fn broken(&self, error: &toml::de::Error) -> ConfigError {
        self.fail(error.span().map_or(0, |span| span.start), error.message().replace('\n', ", "))
    }

    pub(super) fn fail(&self, at: usize, message: String) -> ConfigError {
        ConfigError::Invalid { file: self.file.to_owned(), line: self.line(at), message }
    }

    pub(super) fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// One table of the file, with the heading that people know it by; the file's top level has none.
pub(super) struct Table<'a> {
    pub(super) source: Source<'a>,
    pub(super) heading: &'a str,
    pub(super) at: usize,
    pub(super) entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// Refuses every key but the known ones.
    pub(super) fn allow(&self, known: &[&str]) -> Result<()> {
        let Some((key, _)) = self.entries.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref()))
        else {
            return Ok(());
        };
        let key_text = format!("{:?}", key.get_ref());
        let message =
            format!("unknown key {}; known keys: {}", located(&key_text, self.heading), known.join(", "));
        Err(self.source.fail(key.span().start, message))
    }

    pub(super) fn get(&self, key: &'a str) -> Option<Field<'a>> {
        let value = self.entries.get(key)?;
        Some(Field { source: self.source, heading: self.heading, key, value })
    }

    pub(super) fn require(&self, key: &'a str, example: &str) -> Result<Field<'a>> {
        self.get(key).ok_or_else(|| self.fail(&format!("needs {key}, such as {key} = {example}")))
    }

    /// Lists the tables under a key that may appear many times.
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

    pub(super) fn size(&self, key: &'a str, range: RangeInclusive<usize>, into: &mut usize) -> Result<()> {
        let Some(field) = self.get(key) else { return Ok(()) };
        let bytes = match field.value.get_ref() {
            DeValue::String(text) => units::size(text),
            _ => field.integer(),
        };
        let Some(bytes) = bytes else {
            return Err(field.expected("a number of bytes, such as 65536, \"64 KiB\" or \"1 MB\""));
        };
        *into = field.within(usize::try_from(bytes).ok(), &range, |bytes| units::show_size(*bytes))?;
        Ok(())
    }

    pub(super) fn count<T>(&self, key: &'a str, range: RangeInclusive<T>, into: &mut T) -> Result<()>
    where
        T: TryFrom<u64> + PartialOrd + ToString,
    {
        let Some(field) = self.get(key) else { return Ok(()) };
        let count = field.integer().and_then(|count| T::try_from(count).ok());
        *into = field.within(count, &range, T::to_string)?;
        Ok(())
    }

    pub(super) fn duration(
        &self,
        key: &'a str,
        range: RangeInclusive<Duration>,
        into: &mut impl From<Duration>,
    ) -> Result<()> {
        let Some(field) = self.get(key) else { return Ok(()) };
        let duration = match field.value.get_ref() {
            DeValue::String(text) => units::duration(text),
            _ => field.integer().map(Duration::from_secs),
        };
        let Some(duration) = duration else {
            return Err(
                field.expected("a duration, such as \"250ms\", \"1.5s\", \"5m\" or 2 for two seconds")
            );
        };
        *into = field.within(Some(duration), &range, |duration| format!("{duration:?}"))?.into();
        Ok(())
    }

    pub(super) fn fail(&self, message: &str) -> ConfigError {
        self.source.fail(self.at, format!("{} {message}", self.heading))
    }
}

/// One value of the file and the key it stands under.
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

    /// The elements of a list that is not empty.
    pub(super) fn list(self, wanted: &str) -> Result<impl Iterator<Item = Field<'a>>> {
        let list = self.value.get_ref().as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| self.expected(wanted))?;
        // An error names the line of the element, which may be far below that of the key.
        Ok(list.iter().map(move |value| Field { value, ..self }))
    }

    pub(super) fn integer(self) -> Option<u64> {
        let integer = self.value.get_ref().as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    pub(super) fn table(self, heading: &'a str) -> Option<Table<'a>> {
        let entries = self.value.get_ref().as_table()?;
        Some(Table { source: self.source, heading, at: self.value.span().start, entries })
    }

    pub(super) fn within<T: PartialOrd>(
        self,
        value: Option<T>,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> Result<T> {
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            self.expected(&format!("a value from {} to {}", show(range.start()), show(range.end())))
        })
    }

    /// The error that the value is not what it has to be.
    pub(super) fn expected(self, wanted: &str) -> ConfigError {
        let typed = self.source.text.get(self.value.span()).and_then(|typed| typed.lines().next());
        // A list or table may be long, and is best looked at in its place.
        let found = match self.value.get_ref() {
            DeValue::Array(list) if list.is_empty() => "an empty list",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            _ => typed.unwrap_or_default(),
        };
        self.fail(&format!("expected {wanted}, found {found}"))
    }

    pub(super) fn fail(self, message: &str) -> ConfigError {
        self.source.fail(self.value.span().start, format!("{}: {message}", located(self.key, self.heading)))
    }
}

/// Adds to a key where it stands, unless that is the top level.
fn located(key: &str, heading: &str) -> String {
    if heading.is_empty() { key.to_owned() } else { format!("{key} in {heading}") }
}
