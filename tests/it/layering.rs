//! The order of the modules, and what `src/` must not contain. See `ARCHITECTURE.md`.

mod graph;

use std::fs;
use std::path::{Path, PathBuf};

/// Each module may use those before it and none after it.
const ORDER: [&str; 32] = [
    "setters",
    "nearest",
    "threads",
    "receive_deadline",
    "origin",
    "datetime",
    "features",
    "chan",
    "swap",
    "sched",
    "lanes",
    "message",
    "address",
    "encoding",
    "config",
    "log",
    "metrics",
    "codec",
    "transport",
    "route",
    "session",
    "driver",
    "remote",
    "provider",
    "web",
    "node",
    "load",
    "cli",
    "guide",
    "internals",
    "lib",
    "main",
];

/// Modules that a module must not use, in addition to those after it.
const STRANGERS: [(&str, &[&str]); 9] = [
    ("chan", &["message", "config", "log", "metrics"]),
    ("lanes", &["sched"]),
    ("codec", &["chan", "config", "log", "metrics"]),
    ("config", &["chan", "message"]),
    ("log", &["chan", "message", "config"]),
    ("transport", &["chan", "message", "config", "log", "metrics", "codec"]),
    ("session", &["chan", "transport", "remote", "log"]),
    ("web", &ORDER),
    // The load generator must not be built from the node's own code.
    (
        "load",
        &[
            "chan",
            "sched",
            "metrics",
            "codec",
            "transport",
            "route",
            "session",
            "driver",
            "remote",
            "provider",
            "node",
        ],
    ),
];

/// Code that a pure module must not use: tasks, sockets, files, and the clock.
const IMPURE: [&str; 8] = [
    "smol",
    "std::net",
    "std::fs",
    "std::process",
    "async_channel",
    "Instant::now",
    "SystemTime",
    "thread::",
];

/// Returns the sources of the library and the binary.
fn sources() -> Vec<(PathBuf, String)> {
    let sources = sources_in("src");
    assert!(sources.len() > 30, "found only {} sources", sources.len());
    sources
}

fn sources_in(folder: &str) -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                into.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut sources = Vec::new();
    collect(&root, &mut sources);
    for (path, _) in &mut sources {
        *path = path.strip_prefix(&root).unwrap().to_owned();
    }
    sources
}

/// Returns the module of `src/` that a file belongs to.
fn module(path: &Path) -> &str {
    path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs")
}

/// Returns the modules of this crate that a source file uses, except in tests and docs.
fn uses(text: &str) -> Vec<&str> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in lines {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            assert!(!rest.starts_with('{'), "name one module a line, so that this test can read it: {line}");
            found.push(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap());
        }
    }
    found
}

fn rank(module: &str) -> usize {
    ORDER.iter().position(|name| *name == module).unwrap_or_else(|| panic!("{module} has no place in ORDER"))
}

#[test]
fn modules_use_only_lower_modules() {
    let mut edges = 0;
    for (path, text) in sources() {
        let module = module(&path);
        for used in uses(&text).into_iter().filter(|used| *used != module && module != "lib") {
            edges += 1;
            assert!(rank(used) < rank(module), "{}: {module} must not use {used}", path.display());
            let strangers =
                STRANGERS.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, list)| list);
            assert!(!strangers.contains(&used), "{}: {module} must not know {used}", path.display());
        }
    }
    assert!(edges > 20, "found only {edges} uses: does this test still read the sources?");
}

#[test]
fn files_of_a_folder_do_not_use_each_other_in_a_circle() {
    for folder in ["src", "benches/network/src", "benches/rivals/src"] {
        let circles = graph::circles(&sources_in(folder));
        assert!(circles.is_empty(), "{folder}:\n{}", circles.join("\n"));
    }
}

#[test]
fn pure_modules_stay_pure() {
    for (path, text) in sources() {
        let code = text.split("#[cfg(test)]").next().unwrap();
        if matches!(module(&path), "codec" | "session" | "message") {
            for impure in IMPURE {
                assert!(!code.contains(impure), "{}: {impure} has no place here", path.display());
            }
        }
    }
}

#[test]
fn sources_are_the_same_on_all_platforms() {
    let words = ["windows", "unix", "target_os", "target_family", "target_arch", "target_env", "os::fd"];
    for (path, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            let conditional = line.contains("cfg(") || line.contains("cfg_attr(") || line.contains("cfg!(");
            let platform = conditional && words.iter().any(|word| line.contains(word));
            let extension = line.contains("std::os::") || line.contains("os::unix");
            assert!(!platform && !extension, "{}:{}: {line}", path.display(), at + 1);
        }
    }
}

#[test]
fn programs_are_started_in_one_place_only() {
    for (path, text) in sources() {
        if !path.starts_with("provider/program") {
            assert!(!text.contains("Command::new"), "{} starts a program", path.display());
        }
    }
}

#[test]
fn main_only_calls_the_library() {
    let (_, main) = sources().into_iter().find(|(path, _)| path == Path::new("main.rs")).unwrap();
    assert!(main.lines().count() <= 60);
}

#[test]
fn parser_finds_uses_in_the_wrong_direction() {
    assert_eq!(uses("use crate::node::Node;\n// crate::cli\nlet x = crate::cli::run;"), ["node", "cli"]);
    assert!(rank("node") > rank("session"));
}
