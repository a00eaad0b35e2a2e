//! The report as RFC 4180 lines.

use crate::ledger::tables::rfc3339;
use crate::report::{COLUMNS, Foot, Head, scope};

pub(super) fn head(head: &Head) -> String {
    let about = format!("# Culvert audit report: {}", scope(head));
    let made = format!("# made {} by {}, store {}", rfc3339(head.made_ms), head.made_by, head.store);
    format!("{}{}{}", line([about.as_str()]), line([made.as_str()]), line(COLUMNS))
}

pub(super) fn row(cells: &[String]) -> String {
    line(cells.iter().map(String::as_str))
}

pub(super) fn foot(foot: &Foot) -> String {
    let mut text = line([format!("# {} records, {} of them intents", foot.records, foot.intents).as_str()]);
    for ((action, result), count) in &foot.counts {
        text.push_str(&line([format!("# {action} {result}: {count}").as_str()]));
    }
    for part in foot.checkpoint.iter().flat_map(|checkpoint| checkpoint.lines()) {
        text.push_str(&line([format!("# checkpoint: {part}").as_str()]));
    }
    text
}

fn line<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<String> = cells.into_iter().map(cell).collect();
    format!("{}\r\n", cells.join(","))
}

/// Quoted where RFC 4180 asks for it. A cell that a spreadsheet would take for a formula gets an apostrophe
/// in front, as OWASP advises (CSV injection).
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
