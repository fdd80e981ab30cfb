//! Parses a whole configuration file.

use std::cell::RefCell;

use rustc_hash::FxHashSet;
use toml::de::DeTable;

#[cfg(feature = "grpc")]
use super::grpc;
#[cfg(feature = "nats")]
use super::nats;
use super::table::{Result, Source, Table};
use super::{Config, ConfigError, access, function, listener, offer, process, topic, workers};

/// Parses the text of a configuration file, which errors refer to as `file`.
pub(super) fn config(text: &str, file: &str) -> std::result::Result<Config, ConfigError> {
    let mistakes = RefCell::default();
    let parsed = parse(Source { text, file, mistakes: &mistakes });
    let mut mistakes = mistakes.into_inner();
    match parsed {
        Ok(config) if mistakes.is_empty() => return Ok(config),
        // It may have been the reason of others.
        Err(mistake) => mistakes = vec![*mistake],
        Ok(_) => {}
    }
    let mut errors: Vec<_> = mistakes.into_iter().map(|mistake| mistake.of_file(file)).collect();
    match errors.pop() {
        Some(only) if errors.is_empty() => Err(only),
        last => {
            errors.extend(last);
            Err(ConfigError::Several(errors))
        }
    }
}

/// Reads all parts of a file, and notes what is wrong with each.
fn parse(source: Source<'_>) -> Result<Config> {
    let root = DeTable::parse(source.text).map_err(|error| source.syntax_error(&error))?;
    let root = Table { source, heading: "", offset: 0, entries: root.get_ref() };
    root.allow(&[
        "name",
        "listen",
        "function",
        "topic",
        "offer",
        "access",
        "limits",
        "workers",
        "log",
        "process",
        "grpc",
        #[cfg(feature = "nats")]
        "nats",
    ]);

    let mut config = Config::default();
    if let Some(field) = root.get("name")
        && let Some(name) = source.note(field.visible_name("board-a"))
    {
        name.clone_into(&mut config.name);
    }
    if let Some(Some(table)) = source.note(root.table("limits", "[limits]")) {
        config.limits.parse(&table);
    }
    if let Some(Some(table)) = source.note(root.table("workers", "[workers]")) {
        config.workers = workers::parse_node(&table);
    }
    if let Some(Some(table)) = source.note(root.table("log", "[log]")) {
        table.allow(&["access"]);
        if let Some(field) = table.get("access") {
            config.access_log = source.note(field.boolean()).unwrap_or_default();
        }
    }
    #[cfg(feature = "nats")]
    if let Some(Some(table)) = source.note(root.table("nats", "[nats]")) {
        config.nats = source.note(nats::parse(&table, &config.name));
    }
    let before = source.mistakes.borrow().len();
    for table in source.note(root.tables("listen", "[[listen]]")).unwrap_or_default() {
        config.listen.push(listener::parse(&table, &config));
    }
    let are_listeners_known = source.mistakes.borrow().len() == before;
    let before = source.mistakes.borrow().len();
    for table in source.note(root.tables("process", process::HEADING)).unwrap_or_default() {
        config.processes.push(process::parse(&table, &config));
    }
    let are_processes_known = source.mistakes.borrow().len() == before;
    let mut names = FxHashSet::default();
    for table in source.note(root.tables("function", "[[function]]")).unwrap_or_default() {
        // A function may name a process whose own table has an error.
        let function = function::parse(&table, &config, are_processes_known, &mut names);
        config.functions.extend(function);
    }
    for table in source.note(root.tables("topic", "[[topic]]")).unwrap_or_default() {
        config.topics.push(topic::parse(&table, &config));
    }
    for table in source.note(root.tables("offer", offer::HEADING)).unwrap_or_default() {
        config.offers.extend(offer::parse(&table));
    }
    #[cfg(feature = "grpc")]
    if let Some(Some(table)) = source.note(root.table("grpc", grpc::HEADING)) {
        config.grpc = source.note(grpc::parse(&table));
    }
    #[cfg(not(feature = "grpc"))]
    if let Some(field) = root.get("grpc") {
        source.note::<()>(Err(field.fail("this build has no gRPC (cargo feature `grpc`)")));
    }
    for table in source.note(root.tables("access", access::HEADING)).unwrap_or_default() {
        // A rule may name a listener whose own table has an error.
        config.access.push(access::parse(&table, are_listeners_known.then_some(&config)));
    }
    Ok(config)
}
