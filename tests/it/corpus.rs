//! Runs the inputs kept from fuzzing as plain tests; `ci/fuzz` adds to them.

#[path = "../fuzz/mod.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::{fs, panic};

/// Returns a target's inputs, sorted by name.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn all_corpus_inputs_are_harmless() {
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

/// A corpus without a target would never run, and a target without a program would never be fuzzed.
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
