//! Where something is configured, for messages about a configuration that is valid.

use std::cell::OnceCell;
use std::path::Path;

use rustc_hash::FxHashMap;
use toml::de::{DeTable, DeValue};

use crate::encoding;

/// The places of a configuration file, which is read when the first one is asked for.
pub(crate) struct Places<'a> {
    file: Option<&'a Path>,
    lists: OnceCell<FxHashMap<String, Vec<Lines>>>,
}

/// One of the tables of a list, such as those under `[[function]]`.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// By its position in the file.
    Nth(usize),
    /// By the value of a key.
    With(&'a str, &'a str),
}

/// The lines of a table and of its keys.
struct Lines {
    heading: usize,
    /// With the values that are texts.
    keys: Vec<(String, Option<String>, usize)>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(file: Option<&'a Path>) -> Self {
        Self { file, lists: OnceCell::new() }
    }

    /// Returns the place of a key in a table, such as `board.toml:12: exec in [[function]]`. Without a file it has no line.
    pub(crate) fn of(&self, list: &str, which: Which<'_>, key: &str) -> String {
        let place = format!("{key} in [[{list}]]");
        match self.file.zip(self.line(list, which, key)) {
            Some((file, line)) => format!("{}:{line}: {place}", file.display()),
            None => place,
        }
    }

    /// Returns the line of a key in a table, or of the table if it lacks the key.
    pub(crate) fn line(&self, list: &str, which: Which<'_>, key: &str) -> Option<usize> {
        let tables = self.lists.get_or_init(|| self.read()).get(list)?;
        let table = match which {
            Which::Nth(index) => tables.get(index)?,
            Which::With(key, value) => tables.iter().find(|table| {
                table.keys.iter().any(|(name, text, _)| name == key && text.as_deref() == Some(value))
            })?,
        };
        let found = table.keys.iter().find(|(name, ..)| name == key);
        Some(found.map_or(table.heading, |(.., line)| *line))
    }

    fn read(&self) -> FxHashMap<String, Vec<Lines>> {
        let text = self.file.and_then(|file| encoding::read(file).ok()).unwrap_or_default();
        let Ok(root) = DeTable::parse(&text) else { return FxHashMap::default() };
        let ends: Vec<_> = text.match_indices('\n').map(|(end, _)| end).collect();
        let line = |offset: usize| 1 + ends.partition_point(|end| *end < offset);
        let lines = |table: &toml::Spanned<DeValue<'_>>| {
            let keys = table.get_ref().as_table().into_iter().flatten();
            let key = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let name: &std::borrow::Cow<'_, str> = key.get_ref();
                (name.to_string(), value.get_ref().as_str().map(str::to_owned), line(value.span().start))
            };
            Lines { heading: line(table.span().start), keys: keys.map(key).collect() }
        };
        let lists = root.get_ref().iter().filter_map(|(name, list)| {
            let tables = list.get_ref().as_array()?;
            Some((name.get_ref().to_string(), tables.iter().map(lines).collect()))
        });
        lists.collect()
    }
}
