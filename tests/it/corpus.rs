//! Everything that fuzzing has found worth keeping, as plain tests: `ci/fuzz` adds to it.

#[path = "../fuzz/mod.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::{fs, panic};

/// A target's inputs, in the order of their names.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn nothing_that_was_found_does_harm() {
    for target in &targets::TARGETS {
        let files = corpus(target.name);
        assert!(files.len() >= 5, "{} has only {} inputs", target.name, files.len());
        for file in files {
            let input = fs::read(&file).unwrap();
            if panic::catch_unwind(|| targets::run(target.name, &input)).is_err() {
                panic!("ci/fuzz 0 {} shows what {} does", target.name, file.display());
            }
        }
    }
}

/// A corpus without a target is never run, and a target that is not built is never looked for.
#[test]
fn every_target_has_a_corpus_and_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names: Vec<_> = targets::TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let mut folders: Vec<_> = fs::read_dir(root.join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, names);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for name in names {
        assert!(
            manifest.contains(&format!("path = \"targets/{name}.rs\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
        let program = fs::read_to_string(root.join("targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("targets::run(\"{name}\"")), "fuzz/targets/{name}.rs runs another");
    }
}
