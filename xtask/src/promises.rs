//! The documents' links and the specification's tests exist.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask stands in the repository").to_owned()
}

/// The targets of a line's links into this repository.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn every_promise_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/specification.md")).unwrap();
    let mut promises = 0;
    let mut missing = Vec::new();
    let mut is_held = true;
    for line in text.lines() {
        if line.starts_with("**") {
            assert!(is_held, "the promise before this one has no test: {line}");
            (promises, is_held) = (promises + 1, false);
        }
        let Some((link, tests)) = line.strip_prefix("- [").and_then(|line| line.split_once("): ")) else {
            continue;
        };
        let file = link.split("](../").nth(1).expect("a link from docs");
        let source = fs::read_to_string(root().join(file)).unwrap_or_default();
        for test in tests.split('`').skip(1).step_by(2) {
            is_held = true;
            let is_there = source.contains(&format!("fn {test}(")) || source.contains(&format!("\"{test}\""));
            if !is_there {
                missing.push(format!("{file}: {test}"));
            }
        }
    }
    assert!(is_held && promises > 30, "{promises} promises");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Every Markdown file of the documentation, below `docs`.
fn documents() -> Vec<PathBuf> {
    let mut documents = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents
}

/// A heading's name in links, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_book_has_every_document_once() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let mut listed: Vec<PathBuf> =
        summary.lines().flat_map(links).map(|target| root().join("docs").join(target)).collect();
    listed.sort();
    let mut there: Vec<PathBuf> =
        documents().into_iter().filter(|path| !path.ends_with("docs/SUMMARY.md")).collect();
    there.sort();
    assert_eq!(listed, there);
}

#[test]
fn every_link_to_a_heading_meets_one() {
    let (mut dead, mut seen) = (Vec::new(), 0);
    for document in documents().into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let Some((file, wanted)) = target.split_once('#') else { continue };
            if target.contains("://") {
                continue;
            }
            let of = if file.is_empty() { document.clone() } else { document.with_file_name("").join(file) };
            let of = fs::read_to_string(&of).unwrap_or_default();
            let headings = of.lines().filter(|line| line.starts_with('#'));
            seen += 1;
            if !headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|it| it == wanted) {
                dead.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(seen >= 8, "only {seen} links to headings");
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn no_document_has_a_dead_link() {
    let documents = documents().into_iter().chain(["README.md", "CHANGELOG.md"].map(|it| root().join(it)));
    let mut dead = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let folder = document.parent().expect("a file has a folder").to_owned();
        for target in text.lines().flat_map(links).filter(|target| !folder.join(target).exists()) {
            dead.push(format!("{}: {target}", document.display()));
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// A name of a test as documents write it: words of a sentence, not a metric's name.
fn named_tests(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(move |name| name.chars().all(is_word) && name.matches('_').count() >= 4)
        .filter(|name| !["wgd_", "edge_", "storaged_"].iter().any(|metric| name.starts_with(metric)))
}

fn rust_sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_line_of_the_threat_model_names_tests_that_exist() {
    let model = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let mut sources = String::new();
    for folder in ["crates", "culvert", "edge", "storaged", "tests", "wgd", "xtask"] {
        rust_sources(&root().join(folder), &mut sources);
    }
    let is_there =
        |name: &str| sources.contains(&format!("fn {name}(")) || sources.contains(&format!("\"{name}\""));
    let (mut named, mut missing) = (0, Vec::new());
    for name in named_tests(&model) {
        named += 1;
        if !is_there(name) {
            missing.push(name);
        }
    }
    assert!(named > 30, "only {named} tests are named");
    assert!(missing.is_empty(), "{missing:#?}");
}
