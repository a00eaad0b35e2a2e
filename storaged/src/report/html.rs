//! The report as one HTML page: no script, nothing fetched, and it says so to the browser.

use crate::ledger::tables::rfc3339;
use crate::report::{COLUMNS, Foot, Head, scope};

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}\
th,td{border:1px solid #bbb;padding:.2em .5em;text-align:left;vertical-align:top;overflow-wrap:anywhere}\
th{background:#eee}td:nth-child(8),td:nth-child(12),td:nth-child(14){font-family:monospace;font-size:11px}\
pre{background:#f4f4f4;padding:1em;overflow-x:auto}";

pub(super) fn head(head: &Head) -> String {
    let columns: String = COLUMNS.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Culvert audit report</title><style>{STYLE}</style></head>\n<body>\n<h1>Culvert audit report</h1>\n\
         <p>{}</p>\n<p>Made {} by {}, store {}.</p>\n<table>\n<tr>{columns}</tr>\n",
        escaped(&scope(head)),
        escaped(&rfc3339(head.made_ms)),
        escaped(&head.made_by),
        escaped(&head.store),
    )
}

pub(super) fn row(cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
    format!("<tr>{cells}</tr>\n")
}

pub(super) fn foot(foot: &Foot) -> String {
    let counts: String = foot
        .counts
        .iter()
        .map(|((action, result), count)| {
            format!("<tr><td>{action}</td><td>{result}</td><td>{count}</td></tr>\n")
        })
        .collect();
    let users: String = foot
        .users
        .iter()
        .map(|(user, count)| format!("<tr><td>{}</td><td>{count}</td></tr>\n", escaped(user.as_str())))
        .collect();
    let checkpoint = foot.checkpoint.as_deref().map_or_else(
        || "<p>The log has no checkpoint.</p>\n".to_owned(),
        |text| {
            format!(
                "<p>The log's signed checkpoint, which covers every record above:</p>\n<pre>{}</pre>\n",
                escaped(text)
            )
        },
    );
    format!(
        "</table>\n<h2>Summary</h2>\n<p>{} records, {} of them intents.</p>\n\
         <table>\n<tr><th>action</th><th>result</th><th>outcomes</th></tr>\n{counts}</table>\n\
         <table>\n<tr><th>user</th><th>outcomes</th></tr>\n{users}</table>\n{checkpoint}</body></html>\n",
        foot.records, foot.intents,
    )
}

/// Safe as text and in a quoted attribute.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
