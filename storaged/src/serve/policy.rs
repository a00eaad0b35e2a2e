//! `GET /internal/v1/policy`: what a user may upload, and where.
//!
//! **Invariant:** tells of no cohort that is not open to whoever asks through the edge that asks.

use http::StatusCode;
use serde_json::{Value, json};
use store_proto::{Action as Asked, ProblemKind};

use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};

pub(super) fn show(admitted: &Admitted) -> Result<Answer, Refusal> {
    if admitted.link().is_some() {
        return Err(Refusal::of(ProblemKind::CohortForbidden));
    }
    let policy = admitted.policy();
    let cohorts: Vec<Value> = policy
        .book()
        .cohorts
        .keys()
        .filter_map(|name| {
            let may = |action: &Asked| admitted.authorize(name, *action).is_ok();
            let actions: Vec<&str> =
                Asked::ALL.iter().filter(|action| may(action)).map(|one| one.name()).collect();
            let rules = policy.cohort(name).filter(|_| !actions.is_empty())?;
            Some(json!({
                "cohort": name,
                "actions": actions,
                "max_file_bytes": rules.max_file_bytes,
                "content_checked": rules.content_checked,
                "extensions": rules.extensions,
                "file_types": rules.file_types,
                "attributes": rules.attributes,
                "retention_days": rules.retention_days,
                "scan_required": rules.scan_required,
            }))
        })
        .collect();
    let user = &admitted.user().name;
    Ok(answer::json(StatusCode::OK, &json!({ "user": user, "cohorts": cohorts })))
}
