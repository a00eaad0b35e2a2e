//! Facts about `deploy/prometheus`, by Prometheus's own checker.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::{packages, steps};

const PREFIXES: [&str; 5] = ["wgd_", "edge_", "storaged_", "wireguard_", "process_"];

fn directory() -> PathBuf {
    steps::root().join("deploy/prometheus")
}

fn read(path: &str) -> String {
    fs::read_to_string(steps::root().join(path)).unwrap()
}

/// The one that `cargo xtask test` unpacks, or the system's.
fn promtool(arguments: &[&str], file: &Path) -> Output {
    let unpacked = packages::tools_directory().join("prometheus/usr/bin/promtool");
    let program = if unpacked.is_file() { unpacked.into_os_string() } else { OsString::from("promtool") };
    let output = Command::new(program).args(arguments).arg(file).current_dir(directory()).output();
    output.expect("promtool, of Debian's package prometheus")
}

fn passes(output: &Output) {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
}

/// The words of an expression that are metrics of ours or of a recording rule.
fn metrics(expression: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    expression
        .split(|c| !is_word(c))
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)) || word.starts_with("instance"))
        .filter(|word| !["instance", "process_name"].contains(word))
        .map(str::to_owned)
        .collect()
}

/// What the daemons export, as the document says that each daemon's own test compares with it.
fn exported() -> BTreeSet<String> {
    let document = read("docs/operations.md");
    let mut names: BTreeSet<String> = document
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|quoted| quoted.split('{').next().unwrap_or(quoted).to_owned())
        .filter(|quoted| PREFIXES.iter().any(|prefix| quoted.starts_with(prefix)))
        .collect();
    for daemon in ["wgd", "edge", "storaged"] {
        names.extend(["build_info", "lockdown", "lockdown_info"].map(|name| format!("{daemon}_{name}")));
    }
    for name in names.clone() {
        names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
    }
    names.extend(recorded());
    names
}

fn rules() -> String {
    read("deploy/prometheus/culvert.rules.yml")
}

/// The values of `key: value` lines.
fn values(text: &str, key: &str) -> Vec<String> {
    let key = format!("{key}: ");
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(&key))
        .map(str::to_owned)
        .collect()
}

fn recorded() -> Vec<String> {
    values(&rules(), "record")
}

/// Every `expr` and variable of a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| expressions(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn dashboards() -> Vec<(String, Vec<String>)> {
    let mut all: Vec<_> = fs::read_dir(directory().join("dashboards"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let mut found = Vec::new();
            expressions(&dashboard, &mut found);
            (path.file_name().unwrap().to_string_lossy().into_owned(), found)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn the_rules_are_good_and_do_what_their_tests_say() {
    passes(&promtool(&["check", "rules", "--lint-fatal"], Path::new("culvert.rules.yml")));
    passes(&promtool(&["test", "rules"], Path::new("culvert.test.yml")));
}

#[test]
fn every_alert_has_its_texts_and_a_page() {
    let rules = rules();
    let alerts = values(&rules, "alert");
    assert!(alerts.len() > 25, "{}", alerts.len());
    for key in ["summary", "description"] {
        assert_eq!(values(&rules, key).len(), alerts.len(), "{key}");
    }
    let pages: Vec<String> = alerts.iter().map(|alert| format!("docs/runbooks/{alert}.md")).collect();
    assert_eq!(values(&rules, "runbook_url"), pages);
    let index = read("docs/runbooks/index.md");
    for (alert, page) in alerts.iter().zip(&pages) {
        let text = read(page);
        for part in ["**Meaning.**", "**Impact.**", "**Look.**", "**Do.**", "**What must not be done.**"] {
            assert!(text.contains(part), "{page} without {part}");
        }
        assert!(index.contains(&format!("({alert}.md)")), "{alert} is not in the index");
    }
    let files = fs::read_dir(steps::root().join("docs/runbooks")).unwrap().count();
    assert_eq!(files, alerts.len() + 1, "a page of an alert that does not exist");
}

#[test]
fn every_dashboard_expression_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let dashboards = dashboards();
    assert_eq!(
        dashboards.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["edge.json", "storage.json", "tunnel.json"]
    );
    for (name, expressions) in dashboards {
        assert!(expressions.len() >= 12, "{name}: {}", expressions.len());
        let mut text = "groups:\n- name: dashboard\n  rules:\n".to_owned();
        for (number, expression) in expressions.iter().enumerate() {
            let filled =
                expression.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*");
            assert!(!filled.contains('$'), "{name}: {filled}");
            text.push_str(&format!(
                "  - record: panel:{number}\n    expr: {}\n",
                serde_json::to_string(&filled).unwrap()
            ));
        }
        let file = folder.path().join(&name);
        fs::write(&file, text).unwrap();
        passes(&promtool(&["check", "rules"], &file));
    }
}

#[test]
fn what_is_asked_for_is_exported() {
    let exported = exported();
    let asked = dashboards().into_iter().flat_map(|(_, expressions)| expressions).chain([rules()]);
    let mut seen = 0;
    for text in asked {
        for name in metrics(&text) {
            // Words of labels, texts and group names that begin like a daemon.
            if ["instance_handler", "instance_peer"].contains(&name.as_str()) {
                continue;
            }
            assert!(exported.contains(&name), "nobody exports {name}: {text:.200}");
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}
