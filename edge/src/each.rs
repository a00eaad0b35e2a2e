//! What each storaged has to tell of its own, as one answer: the cohorts that are open, one's uploads.
//!
//! **Invariant:** what one of them refuses or cannot say now is missing from the answer, which then says so; only if none
//! of them has anything to tell is the first refusal the answer.

use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use store_proto::{Proof, RequestId, routes};
use tokio::time::timeout;

use crate::answer::Payload;
use crate::limits::{EACH_BYTES, PERMISSION_TIMEOUT};
use crate::plan::Shown;
use crate::refusal::Refusal;
use crate::request::Live;
use crate::store::Asker;
use crate::upstream::Upstreams;

/// Asks each that is up, one after the other: they are few.
pub(crate) async fn show(
    upstreams: &Upstreams,
    live: &Live,
    client: IpAddr,
    request_id: &RequestId,
    (proof, shown): (Proof, Shown),
) -> Result<Response<Payload>, Refusal> {
    let (path, list) = match shown {
        Shown::Policy => (routes::POLICY, "cohorts"),
        Shown::Uploads => (routes::UPLOADS, "uploads"),
        Shown::Versions(..) | Shown::Receipt(_) | Shown::Upload(_) => return Err(Refusal::NoRoute),
    };
    let mut merged = Merged::new(list);
    for upstream in upstreams.iter() {
        let asker = Asker::new(&upstream.store, live, client, request_id, proof.clone());
        merged.add(if upstream.is_up() { told(&asker, path).await } else { Err(Refusal::TunnelUnavailable) });
    }
    let whole = Full::from(merged.finish()?.to_string());
    let mut response = Response::new(Payload::Whole(whole));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn told(asker: &Asker<'_>, path: &str) -> Result<Map<String, Value>, Refusal> {
    let exchange = asker.begin_again(Method::GET, path).await?;
    if exchange.response.status() != StatusCode::OK {
        return Err(asker.refused(exchange).await);
    }
    let collected = timeout(PERMISSION_TIMEOUT, exchange.collect_up_to(EACH_BYTES)).await;
    let collected = collected.map_err(|_| Refusal::StoreTimeout)?.map_err(|_| Refusal::StoreAnswer)?;
    let told = asker.parse(&collected);
    collected.settle().await;
    told
}

/// The answers so far.
struct Merged {
    list: &'static str,
    whole: Option<Map<String, Value>>,
    refusal: Option<Refusal>,
}

impl Merged {
    fn new(list: &'static str) -> Merged {
        Merged { list, whole: None, refusal: None }
    }

    fn add(&mut self, told: Result<Map<String, Value>, Refusal>) {
        let mut told = match told {
            Ok(told) => told,
            Err(refusal) => {
                // What can be answered later goes before what one of them will never answer.
                if self.refusal.as_ref().is_none_or(|first| !first.is_passing() && refusal.is_passing()) {
                    self.refusal = Some(refusal);
                }
                return;
            }
        };
        let Some(whole) = &mut self.whole else {
            self.whole = Some(told);
            return;
        };
        let more = told.get_mut(self.list).map(Value::take);
        if let (Some(Value::Array(all)), Some(Value::Array(more))) = (whole.get_mut(self.list), more) {
            all.extend(more);
        }
    }

    /// One of them that does not know who asks has nothing for them: that is no gap.
    fn finish(self) -> Result<Value, Refusal> {
        match (self.whole, self.refusal) {
            (None, Some(refusal)) => Err(refusal),
            (None, None) => Err(Refusal::StoreAnswer),
            (Some(mut whole), refusal) => {
                if refusal.is_some_and(|refusal| refusal.is_passing()) {
                    whole.insert("incomplete".to_owned(), json!(true));
                }
                Ok(Value::Object(whole))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use store_proto::ProblemKind;

    use super::*;

    fn told(names: &[&str]) -> Result<Map<String, Value>, Refusal> {
        Ok(Map::from_iter([("user".to_owned(), json!("ada")), ("cohorts".to_owned(), json!(names))]))
    }

    fn merged(all: Vec<Result<Map<String, Value>, Refusal>>) -> Result<Value, Refusal> {
        let mut merged = Merged::new("cohorts");
        all.into_iter().for_each(|one| merged.add(one));
        merged.finish()
    }

    #[test]
    fn what_is_missing_is_said_and_what_is_nobodys_is_not() {
        let stranger = || {
            Err(Refusal::Store {
                kind: ProblemKind::Unauthenticated,
                detail: None,
                retry_after_seconds: None,
            })
        };
        let away = || Err(Refusal::TunnelUnavailable);
        let ada = |names: Value| json!({"user": "ada", "cohorts": names});
        assert_eq!(merged(vec![told(&["a"]), told(&["b", "c"])]).unwrap(), ada(json!(["a", "b", "c"])));
        assert_eq!(merged(vec![stranger(), told(&["b"])]).unwrap(), ada(json!(["b"])));
        let partly = merged(vec![told(&["a"]), away()]).unwrap();
        assert_eq!(partly, json!({"user": "ada", "cohorts": ["a"], "incomplete": true}));
        assert_eq!(merged(vec![stranger(), away()]).unwrap_err(), Refusal::TunnelUnavailable);
        assert_eq!(merged(vec![stranger(), stranger()]).unwrap_err().kind(), ProblemKind::Unauthenticated);
    }
}
