//! Compares `docs/operations.md` with a daemon; each daemon's tests include this file.

/// The daemon's section, from its heading to the next.
pub(crate) fn section(daemon: &str) -> &'static str {
    let text = include_str!("../../../docs/operations.md");
    let (_, rest) = text.split_once(&format!("\n## {daemon}\n")).expect("the daemon has a section");
    rest.split("\n## ").next().unwrap_or(rest)
}

/// What stands in backquotes in the first column of the table that begins with `head`.
pub(crate) fn table(section: &str, head: &str) -> Vec<String> {
    let (_, rest) = section.split_once(&format!("\n| {head}")).expect("the section has the table");
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// The keys that a refusal of an unknown key names, each with `prefix` before it.
pub(crate) fn keys(refusal: &str, prefix: &str) -> Vec<String> {
    let (_, expected) = refusal.split_once("expected ").expect("the refusal names the known keys");
    expected.split('`').skip(1).step_by(2).map(|key| format!("{prefix}{key}")).collect()
}

/// Says what only one side has.
pub(crate) fn compare(mut documented: Vec<String>, mut real: Vec<String>) {
    documented.sort_unstable();
    real.sort_unstable();
    real.dedup();
    let missing: Vec<_> = real.iter().filter(|name| !documented.contains(name)).collect();
    let invented: Vec<_> = documented.iter().filter(|name| !real.contains(name)).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "docs/operations.md lacks {missing:?}, and has {invented:?}, which do not exist"
    );
}
