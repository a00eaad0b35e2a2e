//! Standard output, as text for people or as JSON for programs.
//!
//! Invariant: with `--json` standard output holds JSON and nothing else: one object, or one object per
//! line where a command lists things (so that a long list needs no memory).

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    json: bool,
    quiet: bool,
}

impl Console {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// How progress is to be shown on standard error.
    pub(crate) fn progress_style(self) -> ProgressStyle {
        if self.quiet {
            ProgressStyle::None
        } else if std::io::stderr().is_terminal() {
            ProgressStyle::Bar
        } else if self.json {
            ProgressStyle::None
        } else {
            ProgressStyle::Lines
        }
    }

    /// One result: its JSON, or the text that `text` makes of it.
    pub(crate) fn report<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json { self.json_line(value) } else { self.line(&text(value)) }
    }

    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        writeln!(std::io::stdout().lock(), "{text}").map_err(|error| Failure::output(&error))
    }

    /// What a person should know meanwhile.
    #[expect(clippy::print_stderr, reason = "it is no part of the result")]
    pub(crate) fn say(self, text: &str) {
        if !self.json && !self.quiet {
            eprintln!("culvert: {text}");
        }
    }

    /// Something that should not stay as it is and stops nothing. With JSON standard error is for the one error.
    #[expect(clippy::print_stderr, reason = "a warning belongs beside the result, not into it")]
    pub(crate) fn warn(self, text: &str) {
        if !self.json && !self.quiet {
            eprintln!("culvert: warning: {text}");
        }
    }

    /// A failure of one of many; with JSON it is told at the end, by the one error.
    #[expect(clippy::print_stderr, reason = "what went wrong belongs beside the results")]
    pub(crate) fn complain(self, text: &str) {
        if !self.json {
            eprintln!("culvert: {text}");
        }
    }

    pub(crate) fn json_line<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::failed(format!("JSON: {error}")))?;
        self.line(&text)
    }
}

/// How a transfer shows that it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressStyle {
    Bar,
    Lines,
    None,
}

/// Text from elsewhere, made safe for a terminal: control characters would move the cursor or recolour it,
/// bidirectional marks would show a line in another order than it has.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_bidirectional(c) { '\u{fffd}' } else { c }).collect()
}

/// Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm, and its line separators.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1536` → `1.5 KiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Columns padded to their widest cell; the last one is left as it is.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header = header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut lines = Vec::with_capacity(rows.len() + 1);
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["long".into(), "2".into()]];
        assert_eq!(table(&["name", "n"], &rows), "name  n\na     1\nlong  2");
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!(printable("a\u{9b}31mb"), "a\u{fffd}31mb", "also as one character of C1");
        assert_eq!(printable("a\u{202e}vsc.exe"), "a\u{fffd}vsc.exe");
    }
}
