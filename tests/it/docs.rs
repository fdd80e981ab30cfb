//! Checks that the documents are correct. `ci/docs` runs their commands.

use std::fs;
use std::path::Path;

use chanrpc::config::{Config, Limits};

const DOCUMENTS: [&str; 19] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "docs/cli.md",
    "docs/configuration.md",
    "docs/development.md",
    "docs/embedding.md",
    "docs/fleet.md",
    "docs/footprint.md",
    "docs/from-grpc.md",
    "docs/from-leaf.md",
    "docs/grpc.md",
    "docs/offers.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/processes.md",
    "docs/protocol.md",
    "docs/topics.md",
    "targets/README.md",
];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the anchors of a document's headings, as web renderers generate them.
fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|&c| c.is_alphanumeric() || c == ' ' || c == '-');
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Returns the fenced blocks of a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn readme_contains_the_example_verbatim() {
    let example = read("examples/counter.rs");
    let shown = &blocks(&read("README.md"), "rust")[0];
    assert!(example.ends_with(shown.as_str()), "README.md shows another program than examples/counter.rs");
}

#[test]
fn configurations_in_documents_are_valid() {
    let mut seen = 0;
    for document in DOCUMENTS {
        for toml in blocks(&read(document), "toml") {
            // The dependency lines of a program that embeds the library.
            if toml.starts_with("[dependencies]") {
                continue;
            }
            // The feature's own tests start nodes with these.
            if toml.contains("[nats]") && !cfg!(feature = "nats") {
                continue;
            }
            seen += 1;
            if let Err(error) = Config::parse(&toml, document) {
                panic!("{error}\n{toml}");
            }
        }
    }
    assert!(seen >= 2);
}

/// To publish the project elsewhere, change `repository` in Cargo.toml; this test lists the other places.
#[test]
fn all_urls_match_the_repository_of_the_manifest() {
    let repository = env!("CARGO_PKG_REPOSITORY");
    let place = repository.strip_prefix("https://github.com/").expect("a repository on GitHub");
    let raw = format!("https://raw.githubusercontent.com/{place}/main/scripts");
    let expected = [
        ("scripts/install.sh", format!("\nrepository={repository}\n")),
        ("scripts/systemd/chanrpc.service", format!("={repository}/blob/main/docs/operations.md\n")),
        ("README.md", format!("{raw}/install.sh | sh\n")),
        ("docs/operations.md", format!("{raw}/install.sh\n")),
        ("docs/operations.md", format!("\nrelease={repository}/releases/download/")),
        ("docs/operations.md", format!(" --repo {place}\n")),
        ("src/guide.rs", format!("]: {repository}/blob/main/docs/protocol.md\n")),
    ];
    for (file, text) in expected {
        assert!(read(file).contains(&text), "{file} has no {text:?}");
    }
}

#[test]
fn table_of_limits_is_complete() {
    let table = read("docs/configuration.md");
    let debug = format!("{:?}", Limits::default());
    let names: Vec<_> = debug
        .trim_start_matches("Limits { ")
        .split(", ")
        .map(|field| field.split(':').next().unwrap().trim())
        .collect();
    assert!(names.len() >= 13, "{names:?}");
    for name in names {
        assert!(
            table.contains(&format!("| `{name}` |")),
            "docs/configuration.md has no row for limits.{name}"
        );
    }
}

/// In the documentation of the library, the links of a guide need definitions of their own.
#[test]
fn links_of_guides_are_defined_for_the_library() {
    let guide = read("src/guide.rs");
    let definitions = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.trim_start_matches("/// "));
        lines.filter_map(|line| Some(line.strip_prefix('[')?.split_once("]: ")?.0.to_owned())).collect()
    };
    for part in guide.split("pub mod ").filter(|part| part.contains("include_str!")) {
        let file = part.split("include_str!(\"../").nth(1).unwrap().split('"').next().unwrap();
        let text = read(file);
        assert_eq!(definitions(part), definitions(&text), "{file}");
        let inline =
            |(at, _): (usize, _)| text[at + 2..].starts_with('#') || text[at + 2..].starts_with("http");
        assert!(text.match_indices("](").all(inline), "{file} has a link that leads nowhere on docs.rs");
    }
}

#[test]
fn architecture_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for row in read("ARCHITECTURE.md").lines().filter(|line| line.starts_with('|')) {
        // A name without a folder is in the folder of the name before it.
        let mut folder = String::new();
        for name in row.split('`').skip(1).step_by(2) {
            if !name.ends_with(".rs") && !name.ends_with('/') || name.contains("NAME") {
                continue;
            }
            seen += 1;
            let places = [name.to_owned(), format!("src/{name}"), format!("src/{folder}/{name}")];
            assert!(places.iter().any(|place| root.join(place).exists()), "ARCHITECTURE.md: {name}");
            if let Some((parent, _)) = name.rsplit_once('/') {
                folder = parent.to_owned();
            }
        }
    }
    assert!(seen >= 80, "only {seen}");
}

#[test]
fn links_between_documents_are_valid() {
    let mut seen = 0;
    for document in DOCUMENTS {
        let text = read(document);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join(document).parent().unwrap().to_owned();
        let inline = text.match_indices("](").map(|(at, _)| text[at + 2..].split(')').next().unwrap());
        let defined =
            text.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: "));
        for target in inline.chain(defined.map(|(_, target)| target)) {
            if target.contains("://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root.join(document) } else { folder.join(file) };
            assert!(file.exists(), "{document}: {target}");
            if !anchor.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                assert!(anchors(&text).iter().any(|there| there == anchor), "{document}: {target}");
            }
        }
    }
    assert!(seen >= 60, "only {seen}");
}
