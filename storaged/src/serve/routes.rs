//! Which request goes where; refusals are recorded from here, once.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ALLOW, HeaderValue};
use http::{HeaderName, Method, Response, StatusCode};
use hyper::Request;
use hyper::body::Incoming;
use store_proto::{Cohort, FileId, LogicalPath, ProblemKind, ServerRole, StoreHealth, routes};

use crate::access_monitor::Access;
use crate::denial::Denial;
use crate::ledger::{Action, Ending, FileRow, Note, Origin};
use crate::live::{self, ConnectionEnd, Kind};
use crate::serve::admission::{self, Admitted, Refused};
use crate::serve::answer::{self, Answer, LiveBody, Refusal};
use crate::serve::cleanups::Which;
use crate::serve::log::{Audited, Shown};
use crate::serve::{
    capabilities, cleanups, delete, download, listing, lockouts, log, permissions, policy, upload, uploads,
    verdict,
};
use crate::store::Store;
use crate::volumes::NoPlace;

/// The routes.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Health,
    Upload,
    Permissions,
    Policy,
    File(FileId),
    Delete(FileId),
    Receipt(FileId),
    Cohort(Cohort),
    Versions(Cohort),
    Verdict(FileId),
    Uploads,
    Resumable(FileId),
    Capabilities,
    Capability(FileId),
    Cleanups(Which),
    Cleanup(u64),
    Lockouts,
    Shown(Shown),
    Audited(Audited),
    WrongMethod(&'static str),
    Nowhere,
}

/// Answers one request.
pub async fn answer(
    request: Request<Incoming>,
    source: IpAddr,
    store: &Arc<Store>,
    end: ConnectionEnd,
) -> Response<LiveBody> {
    let route = route(request.method(), request.uri().path(), request.uri().query());
    let mut live = None;
    let mut answer = if route == Route::Health {
        health(store, source).await
    } else if route == Route::Lockouts {
        match lockouts::answer(store, source, request).await {
            Ok(answer) => answer,
            Err(refused) => refuse(store, refused, false).await,
        }
    } else if let Route::Shown(shown) = route {
        match log::show(store, source, shown).await {
            Ok(answer) => answer,
            Err(refused) => refuse(store, refused, true).await,
        }
    } else {
        match admission::admit(store, source, request.headers()).await {
            Ok(admitted) => {
                let user = admitted.user().name.clone();
                let shown = match (admitted.link(), admitted.user().token) {
                    (Some(claims), _) => live::Shown::Link(claims.id),
                    (None, Some(token)) => live::Shown::Token(token),
                    (None, None) => live::Shown::Other,
                };
                live = Some(store.live.begin(user, shown, route.kind(request.method()), end));
                still_admitted(route, request, admitted, store).await
            }
            Err(refused) => refuse(store, refused, false).await,
        }
    };
    if store.role == ServerRole::Testing {
        let name = HeaderName::from_static("culvert-testing");
        answer.headers_mut().insert(name, HeaderValue::from_static("role testing: not a production store"));
    }
    answer.map(|body| LiveBody { body, _live: live })
}

/// Looks at the user's rights once more, now that whoever takes them away finds this request among the live ones.
async fn still_admitted(
    route: Route,
    mut request: Request<Incoming>,
    mut admitted: Admitted,
    store: &Arc<Store>,
) -> Answer {
    admitted.judge_by(store.policy.load_full());
    if let Err(denial) = admitted.policy().still(admitted.user()) {
        return answer::problem(deny(store, denial, admitted.origin.clone(), None, None).await);
    }
    let Some(claims) = admitted.link().cloned() else {
        return admitted_request(route, request, admitted, store).await;
    };
    let file = match &route {
        Route::File(id) => Some(*id),
        Route::Health
        | Route::Lockouts
        | Route::Delete(_)
        | Route::Receipt(_)
        | Route::Shown(_)
        | Route::Audited(_)
        | Route::Upload
        | Route::Permissions
        | Route::Policy
        | Route::Cohort(_)
        | Route::Versions(_)
        | Route::Verdict(_)
        | Route::Uploads
        | Route::Resumable(_)
        | Route::Capabilities
        | Route::Capability(_)
        | Route::Cleanups(_)
        | Route::Cleanup(_)
        | Route::WrongMethod(_)
        | Route::Nowhere => None,
    };
    let method = request.method().clone();
    let headers = request.headers_mut();
    let counted = match capabilities::begin_use(&claims, file, &method, headers, &admitted, store).await {
        Ok(counted) => counted,
        Err(refusal) => return answer::problem(refusal),
    };
    let client = admitted.origin.client_address;
    let answer = admitted_request(route, request, admitted, store).await;
    if let Some(id) = counted
        && !answer.status().is_success()
    {
        capabilities::take_back(id, client, store).await;
    }
    answer
}

async fn admitted_request(
    route: Route,
    request: Request<Incoming>,
    admitted: Admitted,
    store: &Arc<Store>,
) -> Answer {
    let result = match route {
        Route::Upload => upload::upload(request, admitted, store).await,
        Route::Permissions => permissions::permissions(request, &admitted, store).await,
        Route::Policy => policy::show(&admitted),
        Route::File(id) => download::download(&request, id, &admitted, store).await,
        Route::Delete(id) => delete::delete(request.headers(), id, &admitted, store).await,
        Route::Receipt(id) => log::receipt(id, &admitted, store).await,
        Route::Cohort(cohort) => listing::list(&request, &cohort, &admitted, store).await,
        Route::Versions(cohort) => listing::versions(&request, &cohort, &admitted, store).await,
        Route::Verdict(id) => verdict::verdict(request, id, &admitted, store).await,
        Route::Uploads => uploads::all(request, admitted, store).await,
        Route::Resumable(id) => uploads::one(request, id, admitted, store).await,
        Route::Capabilities if request.method() == Method::GET => capabilities::list(&admitted, store),
        Route::Capabilities => capabilities::create(request, &admitted, store).await,
        Route::Capability(id) => capabilities::revoke(id, &admitted, store).await,
        Route::Cleanups(which) => cleanups::list(which, &admitted, store).await,
        Route::Cleanup(id) => cleanups::verify(id, &admitted, store).await,
        Route::Audited(audited) => log::audit(store, &admitted, audited).await,
        Route::WrongMethod(allowed) => {
            let mut answer = answer::problem(Refusal::of(ProblemKind::MethodNotAllowed));
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            Ok(answer)
        }
        Route::Nowhere | Route::Health | Route::Lockouts | Route::Shown(_) => {
            Ok(answer::problem(Refusal::of(ProblemKind::NotFound)))
        }
    };
    result.unwrap_or_else(answer::problem)
}

impl Route {
    /// What such a request does with bytes.
    fn kind(&self, method: &Method) -> Kind {
        match self {
            Route::Upload => Kind::Upload,
            Route::Resumable(_) if method == Method::PATCH => Kind::Upload,
            Route::Uploads if method == Method::POST => Kind::Upload,
            Route::File(_) if method == Method::GET => Kind::Download,
            Route::File(_)
            | Route::Delete(_)
            | Route::Lockouts
            | Route::Health
            | Route::Receipt(_)
            | Route::Shown(_)
            | Route::Audited(_)
            | Route::Permissions
            | Route::Policy
            | Route::Cohort(_)
            | Route::Versions(_)
            | Route::Verdict(_)
            | Route::Uploads
            | Route::Resumable(_)
            | Route::Capabilities
            | Route::Capability(_)
            | Route::Cleanups(_)
            | Route::Cleanup(_)
            | Route::WrongMethod(_)
            | Route::Nowhere => Kind::Other,
        }
    }
}

fn route(method: &Method, path: &str, query: Option<&str>) -> Route {
    let is_get = method == Method::GET;
    let reads = is_get || method == Method::HEAD;
    if path == routes::HEALTH {
        return if reads { Route::Health } else { Route::WrongMethod("GET, HEAD") };
    }
    if path == routes::UPLOAD {
        return if method == Method::POST { Route::Upload } else { Route::WrongMethod("POST") };
    }
    if path == routes::LOCKOUTS {
        let allowed = is_get || method == Method::POST;
        return if allowed { Route::Lockouts } else { Route::WrongMethod("GET, POST") };
    }
    if path == routes::PERMISSIONS {
        return if method == Method::POST { Route::Permissions } else { Route::WrongMethod("POST") };
    }
    if path == routes::POLICY {
        return if is_get { Route::Policy } else { Route::WrongMethod("GET") };
    }
    if let Some(id) = path.strip_prefix(routes::FILES).and_then(|id| FileId::parse(id).ok()) {
        return match *method {
            Method::DELETE => Route::Delete(id),
            _ if reads => Route::File(id),
            _ => Route::WrongMethod("GET, HEAD, DELETE"),
        };
    }
    let receipt = path.strip_prefix(routes::FILES).and_then(|rest| rest.strip_suffix("/receipt"));
    if let Some(id) = receipt.and_then(|id| FileId::parse(id).ok()) {
        return if is_get { Route::Receipt(id) } else { Route::WrongMethod("GET") };
    }
    if path.starts_with(routes::LEDGER) {
        let found = log_route(path, query);
        return if is_get || found == Route::Nowhere { found } else { Route::WrongMethod("GET") };
    }
    let below = path.strip_prefix(routes::COHORTS).and_then(|rest| rest.split_once('/'));
    if let Some((cohort, below)) = below
        && let Ok(cohort) = Cohort::parse(cohort)
    {
        return match below {
            "files" | "versions" if !is_get => Route::WrongMethod("GET"),
            "files" => Route::Cohort(cohort),
            "versions" => Route::Versions(cohort),
            _ => Route::Nowhere,
        };
    }
    if let Some(id) = path.strip_prefix(routes::STORED).and_then(|rest| rest.strip_suffix("/verdict"))
        && let Ok(id) = FileId::parse(id)
    {
        return if method == Method::POST { Route::Verdict(id) } else { Route::WrongMethod("POST") };
    }
    if path == routes::UPLOADS {
        let allowed = is_get || method == Method::POST;
        return if allowed { Route::Uploads } else { Route::WrongMethod("GET, POST") };
    }
    let upload = path.strip_prefix(routes::UPLOADS).and_then(|rest| rest.strip_prefix('/'));
    if let Some(id) = upload.and_then(|id| FileId::parse(id).ok()) {
        let allowed = reads || [Method::PATCH, Method::DELETE].contains(method);
        return if allowed { Route::Resumable(id) } else { Route::WrongMethod("GET, HEAD, PATCH, DELETE") };
    }
    if path == routes::CLEANUPS {
        return if is_get { Route::Cleanups(Which::parse(query)) } else { Route::WrongMethod("GET") };
    }
    let cleanup = path.strip_prefix(routes::CLEANUPS).and_then(|rest| rest.strip_prefix('/'));
    if let Some(id) = cleanup.and_then(|rest| rest.strip_suffix("/verify")).and_then(log::number) {
        return if method == Method::POST { Route::Cleanup(id) } else { Route::WrongMethod("POST") };
    }
    if let Some(rest) = path.strip_prefix(routes::CAPABILITIES) {
        return match rest.strip_prefix('/').map(FileId::parse) {
            None if rest.is_empty() && (is_get || method == Method::POST) => Route::Capabilities,
            None if rest.is_empty() => Route::WrongMethod("GET, POST"),
            Some(Ok(id)) if method == Method::DELETE => Route::Capability(id),
            Some(Ok(_)) => Route::WrongMethod("DELETE"),
            None | Some(Err(_)) => Route::Nowhere,
        };
    }
    Route::Nowhere
}

/// Below `/internal/v1/ledger/`.
fn log_route(path: &str, query: Option<&str>) -> Route {
    if path == routes::LEDGER_CHECKPOINT {
        return Route::Shown(Shown::Checkpoint);
    }
    if path == routes::LEDGER_CONSISTENCY {
        return Route::Shown(Shown::Consistency(log::sizes(query)));
    }
    let tile = path.strip_prefix(routes::LEDGER_TILE).and_then(log::tile_id).map(Audited::Tile);
    let proof = path.strip_prefix(routes::LEDGER_PROOF).and_then(log::number).map(Audited::Proof);
    tile.or(proof).map_or(Route::Nowhere, Route::Audited)
}

/// Needs only the first lock: edge asks each second, and learns what is wrong.
async fn health(store: &Arc<Store>, source: IpAddr) -> Answer {
    if let Err(refused) = admission::admit_edge(store, source).await {
        return refuse(store, refused, true).await;
    }
    if !store.ledger.is_usable() {
        return answer::problem(Refusal::of(ProblemKind::LedgerUnavailable));
    }
    if store.drain.is_draining() {
        return answer::problem(Refusal::because(
            ProblemKind::BackendUnavailable,
            "the store is shutting down",
        ));
    }
    if !store.has_volume() {
        return answer::problem(Refusal::of(ProblemKind::BackendUnavailable));
    }
    let health = StoreHealth { status: "ok".to_owned(), store: store.keys.store().0 };
    answer::json(StatusCode::OK, &health)
}

/// Refuses somebody who could not show who they are.
async fn refuse(store: &Store, refused: Refused, health: bool) -> Answer {
    store.refuse_stranger(refused.denial, health, *refused.origin).await;
    answer::problem(refused.denial.into())
}

/// Counts and records the refusal of a known user. It stands whether or not it can be recorded.
pub(super) async fn deny(
    store: &Store,
    denial: Denial,
    origin: Origin,
    cohort: Option<&Cohort>,
    path: Option<&LogicalPath>,
) -> Refusal {
    store.metrics.denied(denial);
    store.record_refusal(denial, origin, cohort, path, 0).await;
    if denial.is_closed_cohort() && store.policy.load().masks_cohorts() {
        return Denial::UnknownCohort.into();
    }
    denial.into()
}

/// As [`deny`], about a file that is there: the record falls with the file's keys, for it holds its name.
pub(super) async fn deny_file(store: &Store, denial: Denial, origin: Origin, file: &FileRow) -> Refusal {
    store.metrics.denied(denial);
    let note = Note {
        cohort: Some(file.cohort.clone()),
        path: Some(file.path.clone()),
        file_id: Some(file.file_id),
        detail: Some(denial.name().to_owned()),
        ..Note::new(Action::AccessDenied, Ending::Denied, origin)
    };
    if store.note(note).await.is_err() {
        tracing::warn!(reason = denial.name(), "a refusal could not be recorded");
    }
    // A file that is there must look like one that is not, as its cohort does.
    if denial.is_closed_cohort() && store.policy.load().masks_cohorts() {
        return Refusal::of(ProblemKind::UnknownFile);
    }
    denial.into()
}

/// There is no place for an upload: recorded as one that failed, though nothing of it was begun.
pub(super) async fn no_place(store: &Store, error: NoPlace, origin: Origin, cohort: &Cohort) -> Refusal {
    let note = Note {
        cohort: Some(cohort.clone()),
        detail: Some(error.to_string()),
        ..Note::new(Action::FileUploadedViaStream, Ending::Failed, origin)
    };
    match store.note(note).await {
        Ok(_) => error.into(),
        Err(error) => error.into(),
    }
}

/// Counts an access that is allowed. An hour that becomes unusual is told once, and refused from then on if that
/// is the rule.
pub(super) async fn watch(store: &Store, admitted: &Admitted, cohort: &Cohort) -> Result<(), Refusal> {
    let rule = admitted.policy().rules().access;
    let access = store.access_monitor.note(&admitted.user().name, cohort, rule, store.clock.now());
    match access {
        Access::Usual => return Ok(()),
        Access::StillUnusual => {}
        Access::BecameUnusual { in_the_hour } => {
            store.metrics.access_anomalies.inc();
            tracing::warn!(
                in_the_hour,
                limit = rule.max_hourly_access,
                "unusual access pattern: see the trail"
            );
            let note = Note {
                cohort: Some(cohort.clone()),
                detail: Some(format!("{in_the_hour} within an hour, usual are {}", rule.max_hourly_access)),
                ..Note::new(Action::AccessUnusual, Ending::Succeeded, admitted.origin.clone())
            };
            store.note(note).await?;
        }
    }
    if !rule.enforce {
        return Ok(());
    }
    Err(deny(store, Denial::UnusualAccess, admitted.origin.clone(), Some(cohort), None).await)
}

#[cfg(test)]
mod tests {
    use receipt::merkle::tile::TileId;

    use super::*;

    #[test]
    fn only_the_documented_routes_lead_somewhere() {
        let id = FileId::from_bytes([1; 16]);
        let table = [
            (Method::GET, "/internal/storage/health".to_owned(), Route::Health),
            (Method::POST, "/internal/storage/upload".to_owned(), Route::Upload),
            (Method::PUT, "/internal/storage/upload".to_owned(), Route::WrongMethod("POST")),
            (Method::POST, "/internal/v1/permissions".to_owned(), Route::Permissions),
            (Method::GET, routes::file(id), Route::File(id)),
            (Method::HEAD, routes::file(id), Route::File(id)),
            (Method::DELETE, routes::file(id), Route::Delete(id)),
            (Method::PUT, routes::file(id), Route::WrongMethod("GET, HEAD, DELETE")),
            (Method::GET, "/internal/storage/files/../../etc/passwd".to_owned(), Route::Nowhere),
            (Method::GET, "/internal/storage/files/".to_owned(), Route::Nowhere),
            (
                Method::GET,
                "/internal/v1/cohorts/c1/files".to_owned(),
                Route::Cohort(Cohort::parse("c1").unwrap()),
            ),
            (Method::GET, "/internal/v1/cohorts/../files".to_owned(), Route::Nowhere),
            (Method::GET, routes::file_receipt(id), Route::Receipt(id)),
            (Method::DELETE, routes::file_receipt(id), Route::WrongMethod("GET")),
            (Method::GET, "/internal/storage/files/x/receipt".to_owned(), Route::Nowhere),
            (Method::GET, "/internal/v1/ledger/checkpoint".to_owned(), Route::Shown(Shown::Checkpoint)),
            (Method::PUT, "/internal/v1/ledger/checkpoint".to_owned(), Route::WrongMethod("GET")),
            (
                Method::GET,
                "/internal/v1/ledger/consistency".to_owned(),
                Route::Shown(Shown::Consistency(None)),
            ),
            (Method::GET, "/internal/v1/ledger/proof/17".to_owned(), Route::Audited(Audited::Proof(17))),
            (Method::GET, "/internal/v1/ledger/proof/x".to_owned(), Route::Nowhere),
            (
                Method::GET,
                "/internal/v1/ledger/tile/1/2".to_owned(),
                Route::Audited(Audited::Tile(TileId { level: 1, index: 2 })),
            ),
            (Method::GET, "/internal/v1/ledger/".to_owned(), Route::Nowhere),
            (Method::GET, "/internal/v1/cohorts/c1".to_owned(), Route::Nowhere),
            (
                Method::GET,
                "/internal/v1/cohorts/c1/versions".to_owned(),
                Route::Versions(Cohort::parse("c1").unwrap()),
            ),
            (Method::POST, routes::verdict(id), Route::Verdict(id)),
            (Method::GET, routes::verdict(id), Route::WrongMethod("POST")),
            (Method::POST, "/internal/v1/uploads".to_owned(), Route::Uploads),
            (Method::PUT, "/internal/v1/uploads".to_owned(), Route::WrongMethod("GET, POST")),
            (Method::PATCH, routes::upload(id), Route::Resumable(id)),
            (Method::POST, routes::upload(id), Route::WrongMethod("GET, HEAD, PATCH, DELETE")),
            (Method::PATCH, "/internal/v1/uploads/../../etc".to_owned(), Route::Nowhere),
            (Method::PATCH, "/internal/v1/uploads/".to_owned(), Route::Nowhere),
            (Method::POST, "/internal/v1/capabilities".to_owned(), Route::Capabilities),
            (Method::GET, "/internal/v1/capabilities".to_owned(), Route::Capabilities),
            (Method::PUT, "/internal/v1/capabilities".to_owned(), Route::WrongMethod("GET, POST")),
            (Method::DELETE, format!("/internal/v1/capabilities/{id}"), Route::Capability(id)),
            (Method::GET, format!("/internal/v1/capabilities/{id}"), Route::WrongMethod("DELETE")),
            (Method::DELETE, "/internal/v1/capabilities/x".to_owned(), Route::Nowhere),
            (Method::POST, "/internal/v1/lockouts".to_owned(), Route::Lockouts),
            (Method::DELETE, "/internal/v1/lockouts".to_owned(), Route::WrongMethod("GET, POST")),
            (Method::GET, "/internal/v1/cleanups".to_owned(), Route::Cleanups(Which::Pending)),
            (Method::POST, "/internal/v1/cleanups/12/verify".to_owned(), Route::Cleanup(12)),
            (Method::GET, "/internal/v1/cleanups/12/verify".to_owned(), Route::WrongMethod("POST")),
            (Method::POST, "/internal/v1/cleanups/-1/verify".to_owned(), Route::Nowhere),
            (Method::GET, "/metrics".to_owned(), Route::Nowhere),
        ];
        for (method, path, expected) in table {
            assert_eq!(route(&method, &path, None), expected, "{method} {path}");
        }
    }
}
