//! Parses a whole configuration file.

use toml::de::DeTable;

use super::table::{Result, Source, Table};
use super::{Config, access, function, listener, process, workers};

/// Parses the text of a configuration file, which errors refer to as `file`.
pub(super) fn config(text: &str, file: &str) -> Result<Config> {
    let source = Source { text, file };
    let root = DeTable::parse(text).map_err(|error| source.syntax_error(&error))?;
    let root = Table { source, heading: "", offset: 0, entries: root.get_ref() };
    root.allow(&["name", "listen", "function", "access", "limits", "workers", "log", "process"])?;

    let mut config = Config::default();
    if let Some(field) = root.get("name") {
        config.name = field.visible_name("board-a")?.to_owned();
    }
    if let Some(table) = root.table("limits", "[limits]")? {
        config.limits.parse(&table)?;
    }
    if let Some(table) = root.table("workers", "[workers]")? {
        config.workers = workers::parse_node(&table)?;
    }
    if let Some(table) = root.table("log", "[log]")? {
        table.allow(&["access"])?;
        if let Some(field) = table.get("access") {
            config.access_log = field.boolean()?;
        }
    }
    for table in root.tables("listen", "[[listen]]")? {
        let listener = listener::parse(&table, &config)?;
        config.listen.push(listener);
    }
    for table in root.tables("process", process::HEADING)? {
        let process = process::parse(&table, &config)?;
        config.processes.push(process);
    }
    for table in root.tables("function", "[[function]]")? {
        let function = function::parse(&table, &config)?;
        config.functions.push(function);
    }
    for table in root.tables("access", access::HEADING)? {
        let rule = access::parse(&table, &config.listen)?;
        config.access.push(rule);
    }
    Ok(config)
}
