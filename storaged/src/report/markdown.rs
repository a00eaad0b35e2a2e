//! The report as Markdown tables.

use crate::ledger::tables::rfc3339;
use crate::report::{COLUMNS, Foot, Head, scope};

pub(super) fn head(head: &Head) -> String {
    let rule = COLUMNS.map(|_| "---").join(" | ");
    format!(
        "# Culvert audit report\n\n{}\n\nMade {} by {}, store {}.\n\n| {} |\n| {rule} |\n",
        escaped(&scope(head)),
        rfc3339(head.made_ms),
        escaped(&head.made_by),
        escaped(&head.store),
        COLUMNS.join(" | "),
    )
}

pub(super) fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

pub(super) fn foot(foot: &Foot) -> String {
    let mut text = format!("\n## Summary\n\n{} records, {} of them intents.\n\n", foot.records, foot.intents);
    text.push_str("| action | result | outcomes |\n| --- | --- | --- |\n");
    for ((action, result), count) in &foot.counts {
        text.push_str(&row(&[(*action).to_owned(), (*result).to_owned(), count.to_string()]));
    }
    text.push_str("\n| user | outcomes |\n| --- | --- |\n");
    for (user, count) in &foot.users {
        text.push_str(&row(&[user.to_string(), count.to_string()]));
    }
    match &foot.checkpoint {
        None => text.push_str("\nThe log has no checkpoint.\n"),
        Some(checkpoint) => {
            text.push_str("\nThe log's signed checkpoint, which covers every record above:\n\n");
            for line in checkpoint.lines() {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    text
}

/// No cell ends its row, makes markup, or lets HTML through.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '#' | '!' | '~' => safe.extend(['\\', character]),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\r' | '\n' => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}
