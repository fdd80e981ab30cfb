//! The references between the files of a crate, and the circles among them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A path of names, such as `super::error::CallError`.
type Names = Vec<String>;

/// One file of a crate.
struct File {
    /// Its path below the folder of the crate's sources.
    path: Vec<String>,
    /// What its `use` declarations import, by the name in this file.
    imports: BTreeMap<String, Names>,
    /// All paths that it names.
    paths: BTreeSet<Names>,
}

/// The files of a crate by their modules.
struct Crate(BTreeMap<Names, File>);

/// One folder: which of its files and folders refers to which, and an example of each reference.
type Folder = BTreeMap<String, BTreeMap<String, String>>;

/// Describes the circles among the files of each folder. A subfolder counts as one file. A `mod.rs` does not count: it
/// is the folder itself, whose files may refer to it.
pub(super) fn circles(sources: &[(PathBuf, String)]) -> Vec<String> {
    let code = Crate::new(sources);
    let found = code.folders().into_iter().filter_map(|(folder, mut graph)| {
        // Removes files that refer to no other of the folder, until each remaining one leads to a circle.
        while let Some(end) = graph.iter().find(|(_, to)| !to.keys().any(|to| graph.contains_key(to))) {
            let end = end.0.clone();
            graph.remove(&end);
        }
        let mut chain = vec![graph.keys().next()?.clone()];
        let circle = loop {
            let next = graph[&chain[chain.len() - 1]].keys().find(|to| graph.contains_key(*to))?.clone();
            let start = chain.iter().position(|file| *file == next);
            chain.push(next);
            if let Some(start) = start {
                break &chain[start..];
            }
        };
        let reasons: String =
            circle.windows(2).map(|pair| format!("\n  {}", graph[&pair[0]][&pair[1]])).collect();
        Some(format!("circle in {}: {}{reasons}", folder.join("/"), circle.join(" -> ")))
    });
    found.collect()
}

impl Crate {
    fn new(sources: &[(PathBuf, String)]) -> Self {
        let is_root = |name: &str| sources.iter().any(|(path, _)| path == Path::new(name));
        let mut files = BTreeMap::new();
        for (path, text) in sources {
            let path: Vec<_> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            let (name, folder) = path.split_last().unwrap();
            if matches!(&**name, "tests.rs" | "loom_models.rs") || (name == "main.rs" && is_root("lib.rs")) {
                continue;
            }
            let mut module = folder.to_vec();
            if !is_module_root(name) {
                module.push(name.trim_end_matches(".rs").to_owned());
            }
            let (imports, paths) = references(text);
            files.insert(module, File { path, imports, paths });
        }
        Self(files)
    }

    /// Returns the graph of each folder.
    fn folders(&self) -> BTreeMap<Vec<String>, Folder> {
        let mut folders = BTreeMap::<_, Folder>::new();
        for (module, file) in &self.0 {
            for names in &file.paths {
                let Some(target) = self.find(module, names, 0) else { continue };
                let common = file.path.iter().zip(&target.path).take_while(|(a, b)| a == b).count();
                let (Some(from), Some(to)) = (file.path.get(common), target.path.get(common)) else {
                    continue;
                };
                if !is_module_root(from) && !is_module_root(to) {
                    let folder = folders.entry(file.path[..common].to_vec()).or_default();
                    let example = format!("{} names {}", file.path.join("/"), names.join("::"));
                    folder.entry(from.clone()).or_default().entry(to.clone()).or_insert(example);
                }
            }
        }
        folders
    }

    /// Returns the file that defines what `names` means in a module. Follows imports, and so re-exports.
    fn find(&self, module: &[String], names: &[String], depth: u32) -> Option<&File> {
        let (mut at, mut rest) = (module.to_vec(), names);
        match &*rest.first()?.clone() {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "super" | "self" => {
                while let Some(first @ ("super" | "self")) = rest.first().map(String::as_str) {
                    if first == "super" {
                        at.pop()?;
                    }
                    rest = &rest[1..];
                }
            }
            first if self.0.contains_key(&[&at[..], &[first.to_owned()]].concat()) => {}
            // Another crate, or an item of this file.
            _ => return None,
        }
        while let Some((first, after)) = rest.split_first() {
            let child = [&at[..], std::slice::from_ref(first)].concat();
            if self.0.contains_key(&child) {
                (at, rest) = (child, after);
                continue;
            }
            let file = self.0.get(&at)?;
            let imported = file.imports.get(first).filter(|import| *import != names && depth < 8);
            let imported = imported.and_then(|import| self.find(&at, &[import, after].concat(), depth + 1));
            return imported.or(Some(file));
        }
        self.0.get(&at)
    }
}

fn is_module_root(name: &str) -> bool {
    matches!(name, "mod.rs" | "lib.rs" | "main.rs")
}

/// Returns the imports of a file and all paths that it names, except in tests and comments.
fn references(text: &str) -> (BTreeMap<String, Names>, BTreeSet<Names>) {
    let lines = code(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    let (mut imports, mut body, mut declaration) = (Vec::new(), String::new(), String::new());
    for line in lines {
        let visible = line.trim_start();
        let item = visible.strip_prefix("pub").map_or(visible, |rest| match rest.split_once(") ") {
            Some((scope, item)) if scope.starts_with('(') => item,
            _ => rest.trim_start(),
        });
        if declaration.is_empty() && !item.starts_with("use ") {
            body.push_str(line);
            body.push('\n');
            continue;
        }
        declaration.push_str(if declaration.is_empty() { &item["use ".len()..] } else { line });
        if let Some(tree) = declaration.strip_suffix(';') {
            import(tree, &[], &mut imports);
            declaration.clear();
        }
    }
    let mut paths: BTreeSet<_> = imports.iter().map(|(_, names)| names.clone()).collect();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in body.match_indices(start) {
            if !body[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                let end = body[at..].find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':'));
                let path = &body[at..end.map_or(body.len(), |end| at + end)];
                paths.insert(path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect());
            }
        }
    }
    (imports.into_iter().collect(), paths)
}

/// Returns a file up to its tests.
fn code(text: &str) -> &str {
    let tests = text.match_indices("#[cfg(test)]").find(|(at, _)| {
        let item = text[*at..].split(['{', ';']).next().unwrap();
        item.contains("mod ") && text[*at + item.len()..].starts_with('{')
    });
    tests.map_or(text, |(at, _)| &text[..at])
}

/// Adds the imports of a `use` declaration, such as `a::{self, b::C as D}`.
fn import(tree: &str, prefix: &[String], imports: &mut Vec<(String, Names)>) {
    let tree = tree.trim();
    if let Some((path, group)) = tree.strip_suffix('}').and_then(|tree| tree.split_once('{')) {
        let names = path.split("::").map(str::trim).filter(|name| !name.is_empty());
        let prefix: Names = prefix.iter().cloned().chain(names.map(str::to_owned)).collect();
        let (mut start, mut depth) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    import(&group[start..at], &prefix, imports);
                    start = at + 1;
                }
                _ => {}
            }
        }
    } else if !tree.is_empty() {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias)));
        let mut names = prefix.to_vec();
        names.extend(path.split("::").map(|name| name.trim().to_owned()));
        names.pop_if(|last| last == "self");
        let alias = alias.map_or_else(|| names[names.len() - 1].clone(), |alias| alias.trim().to_owned());
        imports.push((alias, names));
    }
}

#[test]
fn circles_are_found_through_groups_imports_and_folders() {
    let circles = |sources: &[(&str, &str)]| {
        let sources: Vec<_> = sources.iter().map(|(path, text)| (path.into(), (*text).to_owned())).collect();
        circles(&sources)
    };
    let module = ("a/mod.rs", "mod b;\nmod c;\npub(crate) use c::{\n    C,\n    d::{self, E as F},\n};\n");
    assert_eq!(
        circles(&[
            ("lib.rs", "mod a;"),
            module,
            ("a/b.rs", "use super::{d, F};\npub struct B;"),
            ("a/c/mod.rs", "pub mod d;\npub struct C;"),
            ("a/c/d.rs", "use std::fmt;\nfn e() -> crate::a::b::B {}"),
        ]),
        ["circle in a: b.rs -> c -> b.rs\n  a/b.rs names super::F\n  a/c/d.rs names crate::a::b::B"]
    );
    // Documents and tests may refer to anything, as may the file of the folder and those of its items that are its own.
    let rest = (
        "a/c/mod.rs",
        "// crate::a::b::B\nuse super::Own;\n#[cfg(test)]\nmod tests {\n    use super::b::B;\n}\n",
    );
    let own = ("a/mod.rs", "mod b;\nmod c;\nuse c::C;\npub struct Own(b::B);");
    assert_eq!(circles(&[("lib.rs", "mod a;"), own, ("a/b.rs", "use super::C;"), rest]), [""; 0]);
}
