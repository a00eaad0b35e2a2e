//! Documents, and what hostile names make of them: nothing.

use store_proto::LogicalPath;

use super::*;
use crate::ledger::{Action, Ending, Host, Origin};

fn head() -> Head {
    Head {
        cohort: Some(Cohort::parse("c5").unwrap()),
        from_ms: 0,
        to_ms: 86_400_000,
        made_ms: 86_400_001,
        made_by: "uid=0 pid=1".into(),
        store: "00ff".into(),
    }
}

fn record(path: &str, error: &str) -> Record {
    let origin = Origin { user: Some(UserName::parse("ada").unwrap()), ..Origin::default() };
    Record {
        ending: Some(Ending::Failed),
        path: Some(LogicalPath::parse(path).unwrap()),
        error: Some(error.into()),
        ..Record::new(Action::FileUploadedViaStream, Phase::Outcome, Host::default(), origin)
    }
}

fn document(format: Format, records: &[Record]) -> String {
    let (mut report, mut text) = Report::begin(format, &head());
    for record in records {
        text.push_str(&report.record(record));
    }
    let (foot, end) = report.end(Some("culvert/00ff\n1\nabc=\n".into()));
    assert_eq!(foot.records, records.len() as u64);
    text + &end
}

#[test]
fn json_is_json_and_holds_every_record() {
    for count in 0..3 {
        let records = vec![record("a/b.csv", "x"); count];
        let parsed: serde_json::Value = serde_json::from_str(&document(Format::Json, &records)).unwrap();
        assert_eq!(parsed["records"].as_array().unwrap().len(), count);
        assert_eq!(parsed["summary"]["records"], count as u64);
        assert!(parsed["summary"]["checkpoint"].as_str().unwrap().starts_with("culvert/"));
    }
}

/// Names as an attacker would choose them; each is a legal path.
const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "</td></tr></table><h1>all fine</h1>",
    "<svg onload=alert(1)>",
    "<!-- ",
];

#[test]
fn hostile_names_stay_text_in_html() {
    let plain = document(Format::Html, &[record("a", "b")]);
    for name in HOSTILE {
        let text = document(Format::Html, &[record(name, name)]);
        let tags = |text: &str| text.matches('<').count();
        assert_eq!(tags(&text), tags(&plain), "{name} made a tag");
        assert_eq!(text.matches('"').count(), plain.matches('"').count(), "{name} made a quote");
    }
    assert!(plain.contains("default-src 'none'"));
}

#[test]
fn a_csv_cell_is_no_formula_and_ends_no_row() {
    for name in ["=1+1", "+1", "-1", "@SUM(A1)", "a,b", "say \"hi\""] {
        let text = document(Format::Csv, &[record(name, "x\r\ny")]);
        let row = text.split("\r\n").find(|line| line.contains("file_uploaded_via_stream")).unwrap();
        let cell = row.split(',').nth(10).unwrap();
        assert!(!cell.starts_with(['=', '+', '-', '@']), "{cell}");
    }
    assert_eq!(csv::row(&["a,b".into(), "c\"d".into()]), "\"a,b\",\"c\"\"d\"\r\n");
}

#[test]
fn a_markdown_cell_ends_no_row_and_makes_no_markup() {
    for name in HOSTILE.into_iter().chain(["a|b", "`x`", "[a](javascript:x)", "**x**"]) {
        let text = document(Format::Markdown, &[record(name, "line\nbreak")]);
        let row = text.lines().find(|line| line.contains("file\\_uploaded")).unwrap();
        assert_eq!(row.replace("\\|", "").matches('|').count(), COLUMNS.len() + 1, "{row}");
        assert!(!row.contains('<') && row.contains("line break"), "{row}");
    }
}

#[test]
fn outcomes_are_counted_and_intents_are_not() {
    let mut intent = record("a", "");
    intent.phase = Phase::Intent;
    let (mut report, _) = Report::begin(Format::Csv, &head());
    report.record(&intent);
    report.record(&record("a", "x"));
    let (foot, text) = report.end(None);
    assert_eq!((foot.records, foot.intents), (2, 1));
    assert_eq!(foot.counts[&("file_uploaded_via_stream", "failed")], 1);
    assert!(text.contains("# 2 records, 1 of them intents"));
}

#[test]
fn formats_are_found_by_their_word() {
    assert!(Format::ALL.into_iter().all(|format| Format::parse(format.name()) == Some(format)));
    assert_eq!(Format::parse("pdf"), None);
}
