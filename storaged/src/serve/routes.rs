//! Which request goes where; refusals are recorded from here, once.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ALLOW, HeaderValue};
use http::{HeaderName, Method, StatusCode};
use hyper::Request;
use hyper::body::Incoming;
use store_proto::{Cohort, FileId, LogicalPath, ProblemKind, ServerRole, routes};

use crate::denial::Denial;
use crate::ledger::Origin;
use crate::serve::admission::{self, Admitted, Refused};
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::{download, listing, permissions, upload, uploads, verdict};
use crate::store::Store;

/// The routes.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Health,
    Upload,
    Permissions,
    File(FileId),
    Cohort(Cohort),
    Versions(Cohort),
    Verdict(FileId),
    Uploads,
    Resumable(FileId),
    WrongMethod(&'static str),
    Nowhere,
}

/// Answers one request.
pub async fn answer(request: Request<Incoming>, source: IpAddr, store: &Arc<Store>) -> Answer {
    let route = route(request.method(), request.uri().path());
    let mut answer = if route == Route::Health {
        health(store, source).await
    } else {
        match admission::admit(store, source, request.headers()).await {
            Ok(admitted) => admitted_request(route, request, admitted, store).await,
            Err(refused) => refuse(store, refused, false).await,
        }
    };
    if store.role == ServerRole::Testing {
        let name = HeaderName::from_static("culvert-testing");
        answer.headers_mut().insert(name, HeaderValue::from_static("role testing: not a production store"));
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
        Route::File(id) => download::download(&request, id, &admitted, store).await,
        Route::Cohort(cohort) => listing::list(&request, &cohort, &admitted, store).await,
        Route::Versions(cohort) => listing::versions(&request, &cohort, &admitted, store).await,
        Route::Verdict(id) => verdict::verdict(request, id, &admitted, store).await,
        Route::Uploads => uploads::all(request, admitted, store).await,
        Route::Resumable(id) => uploads::one(request, id, admitted, store).await,
        Route::WrongMethod(allowed) => {
            let mut answer = answer::problem(Refusal::of(ProblemKind::MethodNotAllowed));
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            Ok(answer)
        }
        Route::Nowhere | Route::Health => Ok(answer::problem(Refusal::of(ProblemKind::NotFound))),
    };
    result.unwrap_or_else(answer::problem)
}

fn route(method: &Method, path: &str) -> Route {
    let is_get = method == Method::GET;
    let reads = is_get || method == Method::HEAD;
    if path == routes::HEALTH {
        return if reads { Route::Health } else { Route::WrongMethod("GET, HEAD") };
    }
    if path == routes::UPLOAD {
        return if method == Method::POST { Route::Upload } else { Route::WrongMethod("POST") };
    }
    if path == routes::PERMISSIONS {
        return if method == Method::POST { Route::Permissions } else { Route::WrongMethod("POST") };
    }
    if let Some(id) = path.strip_prefix(routes::FILES).and_then(|id| FileId::parse(id).ok()) {
        return if reads { Route::File(id) } else { Route::WrongMethod("GET, HEAD") };
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
    Route::Nowhere
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
    answer::json(StatusCode::OK, &serde_json::json!({"status": "ok"}))
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

#[cfg(test)]
mod tests {
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
            (Method::DELETE, routes::file(id), Route::WrongMethod("GET, HEAD")),
            (Method::GET, "/internal/storage/files/../../etc/passwd".to_owned(), Route::Nowhere),
            (Method::GET, "/internal/storage/files/".to_owned(), Route::Nowhere),
            (
                Method::GET,
                "/internal/v1/cohorts/c1/files".to_owned(),
                Route::Cohort(Cohort::parse("c1").unwrap()),
            ),
            (Method::GET, "/internal/v1/cohorts/../files".to_owned(), Route::Nowhere),
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
            (Method::GET, "/metrics".to_owned(), Route::Nowhere),
        ];
        for (method, path, expected) in table {
            assert_eq!(route(&method, &path), expected, "{method} {path}");
        }
    }
}
