//! The report as one JSON object.

use serde_json::json;

use crate::ledger::{Record, tables::rfc3339};
use crate::report::{Foot, Head};

pub(super) fn head(head: &Head) -> String {
    let about = json!({
        "cohort": head.cohort,
        "from": rfc3339(head.from_ms),
        "made_at": rfc3339(head.made_ms),
        "made_by": head.made_by,
        "store": head.store,
        "to": rfc3339(head.to_ms),
    });
    format!("{{\"report\":\"culvert-audit/1\",\"about\":{about},\"records\":[")
}

pub(super) fn record(record: &Record, first: bool) -> String {
    let comma = if first { "" } else { "," };
    let text = serde_json::to_string(record).expect("records are JSON");
    format!("{comma}\n{text}")
}

pub(super) fn foot(foot: &Foot) -> String {
    let counts: Vec<_> = foot
        .counts
        .iter()
        .map(|((action, result), count)| json!({ "action": action, "result": result, "count": count }))
        .collect();
    let users: Vec<_> =
        foot.users.iter().map(|(user, count)| json!({ "user": user, "count": count })).collect();
    let summary = json!({
        "checkpoint": foot.checkpoint,
        "intents": foot.intents,
        "outcomes": counts,
        "records": foot.records,
        "users": users,
    });
    format!("\n],\"summary\":{summary}}}\n")
}
