//! `cargo xtask book`: the documentation as an mdBook in `target/book`, with every link of every page followed.
//!
//! Invariant: a link in the book leads to a page of it, to the heading that it names, or to the network; what the
//! documents link of the repository is named there and no link.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{steps, tools};

/// Builds the book; false if it does not build or has dead links.
pub(crate) fn build() -> Result<bool> {
    let folder = steps::target_directory().join("book");
    let mut command = std::process::Command::new(tools::mdbook()?);
    command.args(["build", "--dest-dir"]).arg(&folder).current_dir(steps::root());
    if !steps::run(&mut command)? {
        return Ok(false);
    }
    let mut pages = HashMap::new();
    collect(&folder, &mut pages)?;
    let mut dead = Vec::new();
    for (path, text) in &pages {
        let (kept, found) = followed(&folder, path, text, &pages);
        dead.extend(found);
        if kept != *text {
            fs::write(path, kept).with_context(|| format!("write {}", path.display()))?;
        }
    }
    for link in &dead {
        println!("dead link: {link}");
    }
    println!("{} pages in {}", pages.len(), folder.display());
    Ok(dead.is_empty())
}

fn collect(folder: &Path, pages: &mut HashMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// A page without the links that leave the book, and its dead ones.
fn followed(book: &Path, page: &Path, text: &str, pages: &HashMap<PathBuf, String>) -> (String, Vec<String>) {
    let (mut kept, mut dead) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while let Some(at) = rest.find("<a href=\"") {
        let (before, link) = rest.split_at(at);
        kept.push_str(before);
        let target = link["<a href=\"".len()..].split('"').next().unwrap_or_default();
        let end = link.find("</a>").map_or(link.len(), |end| end + "</a>".len());
        match lead(book, page, target, pages) {
            Lead::There => kept.push_str(&link[..end]),
            Lead::Repository(path) => {
                let words = link[..end].split_once('>').map_or("", |(_, words)| words);
                let words = words.strip_suffix("</a>").unwrap_or(words);
                kept.push_str(&format!(
                    "<span title=\"{} in the repository\">{words}</span>",
                    path.display()
                ));
            }
            Lead::Nowhere => {
                dead.push(format!("{}: {target}", page.strip_prefix(book).unwrap_or(page).display()));
                kept.push_str(&link[..end]);
            }
        }
        rest = &link[end..];
    }
    kept.push_str(rest);
    (kept, dead)
}

/// Where a link leads.
#[derive(Debug, PartialEq)]
enum Lead {
    There,
    Repository(PathBuf),
    Nowhere,
}

fn lead(book: &Path, page: &Path, target: &str, pages: &HashMap<PathBuf, String>) -> Lead {
    if target.contains("://") || target.starts_with("mailto:") {
        return Lead::There;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { page.to_owned() } else { flat(&page.with_file_name("").join(file)) };
    let Ok(within) = path.strip_prefix(book) else {
        // The book stands where `docs` does.
        let docs = steps::root().join("docs");
        let inside = page.strip_prefix(book).unwrap_or(page);
        let mut path = flat(&docs.join(inside).with_file_name("").join(file));
        if !path.exists() {
            // Whatever was Markdown is a page in the eyes of the book.
            path.set_extension("md");
        }
        let Ok(named) = path.strip_prefix(steps::root()) else { return Lead::Nowhere };
        return if path.exists() { Lead::Repository(named.to_owned()) } else { Lead::Nowhere };
    };
    match pages.get(&path) {
        Some(text) if heading.is_empty() || text.contains(&format!("id=\"{heading}\"")) => Lead::There,
        Some(_) => Lead::Nowhere,
        None if path.is_file() || within.as_os_str().is_empty() => Lead::There,
        None => Lead::Nowhere,
    }
}

/// A path without `..`, whether it exists or not.
fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                flat.pop();
            }
            Component::CurDir => (),
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => flat.push(part),
        }
    }
    flat
}

/// Fails unless the book builds and its links lead somewhere.
pub(crate) fn run() -> Result<()> {
    ensure!(build()?, "the book is not in order");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_to_pages_headings_and_the_repository() {
        let book = Path::new("/no/such/book");
        let page = book.join("decisions/0001.html");
        let other = (book.join("install.html"), "<h2 id=\"units\">".to_owned());
        let pages = HashMap::from([other, (page.clone(), String::new())]);
        for (target, expected) in [
            ("https://example.com/x", Lead::There),
            ("../install.html", Lead::There),
            ("../install.html#units", Lead::There),
            ("../install.html#none", Lead::Nowhere),
            ("../gone.html", Lead::Nowhere),
            ("../../README.md", Lead::Repository("README.md".into())),
            ("../../README.html", Lead::Repository("README.md".into())),
            ("../../gone.rs", Lead::Nowhere),
            ("../../../../../../../etc/passwd", Lead::Nowhere),
        ] {
            assert_eq!(lead(book, &page, target, &pages), expected, "{target}");
        }
    }

    #[test]
    fn a_link_out_of_the_book_becomes_words() {
        let book = Path::new("/no/such/book");
        let page = book.join("index.html");
        let text = "a <a href=\"../README.md\"><code>it</code></a> <a href=\"#x\">y</a> b";
        let (kept, dead) = followed(book, &page, text, &HashMap::from([(page.clone(), text.to_owned())]));
        assert_eq!(
            kept,
            "a <span title=\"README.md in the repository\"><code>it</code></span> <a href=\"#x\">y</a> b"
        );
        assert_eq!(dead, ["index.html: #x"]);
    }
}
