//! Where something is configured, for messages about a configuration that is valid.

use toml::Spanned;
use toml::de::DeTable;

use super::table::line_of;

/// The file that a configuration comes from. All are equal: it makes no difference to a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    pub(super) file: String,
    pub(super) text: String,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

impl Origin {
    /// Reads the file for its places.
    pub(crate) fn places(&self) -> Places<'_> {
        let Self { file, text } = self;
        Places { file, text, root: DeTable::parse(text).ok() }
    }
}

/// The places of a file.
pub(crate) struct Places<'a> {
    file: &'a str,
    text: &'a str,
    root: Option<Spanned<DeTable<'a>>>,
}

/// One of the tables of a list, such as those under `[[function]]`.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// By its position in the file.
    Nth(usize),
    /// By the value of a key.
    With(&'a str, &'a str),
}

impl Places<'_> {
    /// Returns the place of a key in a table, such as `board.toml:12: exec in [[function]]`. Without a file it has no line.
    pub(crate) fn of(&self, list: &str, which: Which<'_>, key: &str) -> String {
        let place = format!("{key} in [[{list}]]");
        match self.line(list, which, key) {
            Some(line) => format!("{}:{line}: {place}", self.file),
            None => place,
        }
    }

    /// Returns the line of a key in a table, or of the table if it lacks the key.
    pub(crate) fn line(&self, list: &str, which: Which<'_>, key: &str) -> Option<usize> {
        let tables = self.root.as_ref()?.get_ref().get(list)?.get_ref().as_array()?;
        let table = match which {
            Which::Nth(index) => tables.get(index)?,
            Which::With(key, value) => tables.iter().find(|table| {
                let found = table.get_ref().as_table().and_then(|table| table.get(key)?.get_ref().as_str());
                found == Some(value)
            })?,
        };
        let value = table.get_ref().as_table()?.get(key).unwrap_or(table);
        Some(line_of(self.text, value.span().start))
    }
}
