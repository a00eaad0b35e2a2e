//! One request, from its head to its answer: asks, plans, and executes the plan.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use daemon::Clock;
use daemon::drain::Drain;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use identity::Issuers;
use ipnet::IpNet;
use store_proto::{
    ClientChain, FileMeta, LockoutReason, Permission, PermissionRequest, Proof, RequestId, ServerRole,
};
use tokio::sync::Semaphore;

use crate::answer::{self, Answer, Payload};
use crate::client_body::{ClientBody, Waits};
use crate::config::Limits;
use crate::dialect::{self, Dialect};
use crate::gate::{By, Caller, Gate, Verdict};
use crate::limits::BUFFERED_BYTES;
use crate::metrics::{Handler, Metrics, method_label};
use crate::parts::Fetched;
use crate::plan::{Plan, Policy, plan};
use crate::range::ByteRange;
use crate::recent::Recent;
use crate::refusal::Refusal;
use crate::store::{Asker, Store};
use crate::stream::Inbound;
use crate::target::Target;
use crate::tls::Tls;
use crate::track::Track;
use crate::upstream::{Upstream, Upstreams, Whose};
use crate::{bearer, each, form_upload, links, page, resumable};

/// What can be exchanged while edge runs.
#[derive(Debug)]
pub struct Live {
    /// Limits from the configuration.
    pub limits: Limits,
    /// The internal key, marked as sensitive.
    pub internal_key: HeaderValue,
    /// The certificate in use; `None` on a plain listener.
    pub tls: Option<Tls>,
    /// The identity providers whose tokens are looked at before storaged is asked.
    pub issuers: Issuers,
}

/// What every request needs; one for the process.
#[derive(Debug)]
pub struct Edge {
    /// Exchanged by a reload.
    pub live: ArcSwap<Live>,
    /// The storageds, and which of them has what.
    pub upstreams: Upstreams,
    /// Stopping.
    pub drain: Drain,
    /// Counters.
    pub metrics: Metrics,
    /// Lock-outs and rates.
    pub gate: Gate,
    /// What became of the last requests.
    pub recent: Recent,
    /// Balancers that are asked whose connection they pass on.
    pub proxies: Vec<IpNet>,
    /// Places for requests under way.
    pub places: Arc<Semaphore>,
    /// The banner on answers.
    pub role: ServerRole,
    /// Time.
    pub clock: Clock,
}

/// An answer on its way out.
pub type Outcome = Response<Answer<Track>>;

impl Edge {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, client: IpAddr, request: Request<Incoming>) -> Outcome {
        let started = self.clock.now();
        let request_id = new_request_id();
        let (head, body) = request.into_parts();
        let handler = handler(&head);
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let is_full = self.metrics.buffered_bytes.get() >= BUFFERED_BYTES;
        let refused = (place.is_none() || is_full).then_some(Refusal::Busy);
        let mut track = Track::new(
            &self.metrics,
            &self.recent,
            handler,
            method_label(&head.method),
            started,
            &request_id,
            place,
        );
        let unread = Unread(!body.is_end_stream());
        let caller = Caller::of(client, &head);
        // What is not taken lingers, and what is taken and not read to its end.
        let mut body = Some(ClientBody::new(body, head.version));
        let result = match refused.or_else(|| self.stopped(&caller, started)) {
            Some(refusal) => Err(refusal),
            None => {
                let result = self.execute(client, &caller, &head, &mut body, &request_id).await;
                self.learn(&caller, result.as_ref().err());
                result
            }
        };
        let mut response = match result {
            Ok(response) => response,
            Err(refusal) => self.refuse(&refusal, &request_id, &head.headers, unread),
        };
        dialect::stand(&head.headers, &mut response);
        track.answered(response.status());
        if self.live.load().tls.is_some() {
            answer::stand_over_tls(response.headers_mut());
        }
        if self.drain.is_draining() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Answer::new(response, &request_id, self.role, track)
    }

    /// What the gate has against it.
    fn stopped(&self, caller: &Caller, now: Instant) -> Option<Refusal> {
        match self.gate.pass(caller, &self.live.load().limits, now) {
            Verdict::Pass => None,
            Verdict::LockedOut(_, left) => Some(Refusal::LockedOut { left }),
            Verdict::TooFast { by, wait, is_news } => {
                self.metrics.rate_limited.with_label_values(&[by.label()]).inc();
                if is_news {
                    self.record(caller, by, LockoutReason::Rate, wait);
                    tracing::warn!(by = by.label(), "somebody asks faster than the rate");
                }
                Some(Refusal::RateLimited { wait })
            }
        }
    }

    /// An attempt that failed is kept by the gate.
    fn learn(&self, caller: &Caller, refusal: Option<&Refusal>) {
        if !refusal.is_some_and(Refusal::is_failed_attempt) {
            return;
        }
        let limits = self.live.load().limits;
        for by in self.gate.failed(caller, &limits, self.clock.now()) {
            self.metrics.lockouts.with_label_values(&[by.label()]).inc();
            self.record(caller, by, LockoutReason::Failures, limits.auth_cooloff);
            let seconds = limits.auth_cooloff.as_secs();
            tracing::warn!(by = by.label(), seconds, "locked out after failed attempts");
        }
    }

    /// For every storaged's ledger.
    fn record(&self, caller: &Caller, by: By, reason: LockoutReason, lasts: Duration) {
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.clock.unix_milliseconds().saturating_add(lasts_ms);
        let lockout = Gate::lockout(caller, by, reason, until_ms);
        self.upstreams.iter().for_each(|upstream| upstream.untold.add(lockout));
    }

    fn refuse(
        &self,
        refusal: &Refusal,
        request_id: &RequestId,
        asked: &HeaderMap,
        unread: Unread,
    ) -> Response<Payload> {
        self.metrics.rejected.with_label_values(&[refusal.reason().label()]).inc();
        self.recent.refused(request_id, refusal.reason().label());
        tracing::debug!(request = %request_id, kind = refusal.kind().name(), "refused");
        let mut response = answer::refusal_with(refusal, dialect::status(asked, refusal.kind()));
        if unread.0 {
            // What is left of the body would be read as the next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn policy(&self, upstream: Option<&Upstream>) -> Policy {
        Policy {
            max_body_bytes: self.live.load().limits.max_body_bytes,
            tunnel_up: upstream.is_some_and(Upstream::is_up),
            draining: self.drain.is_draining(),
        }
    }

    async fn execute(
        self: &Arc<Self>,
        client: IpAddr,
        caller: &Caller,
        head: &Parts,
        body: &mut Option<ClientBody>,
        request_id: &RequestId,
    ) -> Result<Response<Payload>, Refusal> {
        // There is one, and each plan takes it once at most.
        let mut body = || body.take().ok_or(Refusal::IncompleteBody);
        let live = self.live.load_full();
        // A target that is none is refused by the plan, whoever would be asked.
        let target = Target::parse(head.uri.path());
        let upstream = match target.as_ref().map(|target| self.upstreams.whose(target)) {
            Ok(Whose::One(upstream)) => Some(upstream),
            Ok(Whose::Each) => return self.each(client, head, &live, request_id).await,
            Ok(Whose::Unknown) => None,
            Err(_) => Some(self.upstreams.first()),
        };
        let policy = self.policy(upstream.map(AsRef::as_ref));
        // Of one that is not known the plan asks nothing: it is not up.
        let upstream = upstream.unwrap_or(self.upstreams.first());
        let store = &upstream.store;
        bearer::refuse_early(head, &live.issuers, self.clock.unix_milliseconds() / 1000)?;
        let mut granted: Option<Permission> = None;
        let mut asker = None;
        // At most two turns: the head alone, then with storaged's answer.
        loop {
            match (plan(head, granted.as_ref(), &policy), asker.take()) {
                (Plan::Refuse(refusal), _) => return Err(refusal),
                (Plan::Page { known, with_body }, _) => return Ok(page::show(known, with_body)),
                (Plan::Ask(proof, question), None) => {
                    if matches!(question, PermissionRequest::Upload { .. }) && upstream.witness.refuses() {
                        return Err(Refusal::OtherHistory);
                    }
                    let asking = Asker::new(store, &live, client, request_id, proof);
                    granted = Some(asking.permission(&question).await?);
                    self.gate.succeeded(caller, &live.limits, self.clock.now());
                    asker = Some(asking);
                }
                (Plan::List(proof, page), _) => {
                    return Asker::new(store, &live, client, request_id, proof).list(&page).await;
                }
                (Plan::Show(proof, shown), _) => {
                    return Asker::new(store, &live, client, request_id, proof).show(&shown).await;
                }
                (Plan::Delete(proof, id, reason), _) => {
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    return asker.delete(id, reason.as_deref()).await;
                }
                (Plan::Discover(allow), _) => {
                    return Ok(resumable::discover(allow, live.limits.max_body_bytes));
                }
                (Plan::Begin(..) | Plan::Append(..) | Plan::Form(..), _) if upstream.witness.refuses() => {
                    return Err(Refusal::OtherHistory);
                }
                (Plan::Begin(proof, beginning), _) => {
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    let waits = Waits::of(&head.headers);
                    return resumable::begin(&asker, *beginning, body()?, waits).await;
                }
                (Plan::Append(proof, addition), _) => {
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    return resumable::add(&asker, addition, body()?).await;
                }
                (Plan::Form(proof, form), _) => {
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    return form_upload::receive(&asker, form, body()?, live.limits.idle_timeout).await;
                }
                (Plan::Look(proof, id), _) => {
                    let dialect = Dialect::of(&head.headers)?;
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    return resumable::look(&asker, id, dialect).await;
                }
                (Plan::GiveUp(proof, id), _) => {
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    return resumable::give_up(&asker, id).await;
                }
                (Plan::Presign(proof, file), _) => {
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    return links::presign(&asker, file, body()?, live.limits.idle_timeout).await;
                }
                (Plan::Unsign(proof, id), _) => {
                    let asker = Asker::new(store, &live, client, request_id, proof);
                    return links::revoke(&asker, id).await;
                }
                (Plan::Link(visit), _) => {
                    let certificate = head.extensions.get::<Arc<ClientChain>>();
                    let certificate = certificate.map(|chain| chain.thumbprint());
                    let link = *visit.link.clone();
                    let asker = Asker::with_link(store, &live, client, request_id, link, certificate);
                    return links::visit(&asker, &visit).await;
                }
                (Plan::Receive(reception), Some(asker)) => {
                    return asker.upload(reception, Inbound::Raw(body()?), head.uri.path()).await;
                }
                (Plan::Before(before), Some(asker)) => {
                    let (body, waits) = (Inbound::Raw(body()?), Waits::of(&head.headers));
                    return Ok(asker.came_before(*before, body, waits, head.uri.path()).await);
                }
                (Plan::NotModified(file), Some(_)) => return Ok(Store::not_modified(&file)),
                (Plan::Send(transmission), Some(asker)) => {
                    let proof = bearer::proof(head)?;
                    let later = |file| later(upstream, &live, client, request_id, proof, file);
                    return asker.download(transmission, later).await;
                }
                // `plan` asks once, and gives the other plans only with an answer.
                (Plan::Ask(..), Some(_))
                | (Plan::Receive(_) | Plan::Before(_) | Plan::NotModified(_) | Plan::Send(_), None) => {
                    return Err(Refusal::StoreAnswer);
                }
            }
        }
    }
}

impl Edge {
    /// Answers what every storaged has something to tell of.
    async fn each(
        &self,
        client: IpAddr,
        head: &Parts,
        live: &Live,
        request_id: &RequestId,
    ) -> Result<Response<Payload>, Refusal> {
        bearer::refuse_early(head, &live.issuers, self.clock.unix_milliseconds() / 1000)?;
        let policy = Policy { tunnel_up: self.upstreams.any_up(), ..self.policy(None) };
        let (proof, shown) = match plan(head, None, &policy) {
            Plan::Show(proof, shown) => (proof, shown),
            Plan::Refuse(refusal) => return Err(refusal),
            Plan::Discover(allow) => return Ok(resumable::discover(allow, live.limits.max_body_bytes)),
            // `Whose::Each` is said of nothing else.
            Plan::Page { .. }
            | Plan::Ask(..)
            | Plan::Presign(..)
            | Plan::Unsign(..)
            | Plan::Link(_)
            | Plan::List(..)
            | Plan::Delete(..)
            | Plan::Begin(..)
            | Plan::Append(..)
            | Plan::Look(..)
            | Plan::GiveUp(..)
            | Plan::Form(..)
            | Plan::Receive(_)
            | Plan::Before(_)
            | Plan::NotModified(_)
            | Plan::Send(_) => return Err(Refusal::NoRoute),
        };
        each::show(&self.upstreams, live, client, request_id, (proof, shown)).await
    }
}

/// Asks for a stretch of a file when the stretches before it have been sent.
fn later(
    upstream: &Arc<Upstream>,
    live: &Arc<Live>,
    client: IpAddr,
    request_id: &RequestId,
    proof: Proof,
    file: FileMeta,
) -> Box<dyn Fn(ByteRange) -> Fetched + Send> {
    let (upstream, live, request_id) = (Arc::clone(upstream), Arc::clone(live), request_id.clone());
    Box::new(move |range| {
        let (upstream, live, request_id) = (Arc::clone(&upstream), Arc::clone(&live), request_id.clone());
        let (proof, file) = (proof.clone(), file.clone());
        Box::pin(async move {
            let asker = Asker::new(&upstream.store, &live, client, &request_id, proof);
            asker.stretch(&file, Some(range)).await
        })
    })
}

/// Whether a part of the body is still to come.
struct Unread(bool);

/// A fresh request id: UUID v7, so that ids sort by time.
pub fn new_request_id() -> RequestId {
    RequestId::parse(&uuid::Uuid::now_v7().to_string()).expect("a UUID is 36 characters of 0-9, a-f and -")
}

/// The label for a request, from its shape alone.
fn handler(head: &Parts) -> Handler {
    match Target::parse(head.uri.path()) {
        Ok(Target::Files(_)) if head.method == Method::POST => Handler::Upload,
        Ok(Target::Files(_) | Target::Versions(..) | Target::MyUploads) => Handler::List,
        Ok(Target::File(..)) if head.method == Method::PUT => Handler::Upload,
        Ok(Target::Uploads(_) | Target::Upload(_)) => Handler::Upload,
        Ok(Target::File(..) | Target::Stored(_) | Target::Link(_)) => Handler::Download,
        Ok(
            Target::Page | Target::Receipt(_) | Target::Policy | Target::Presign(_) | Target::Presigned(_),
        )
        | Err(_) => Handler::Other,
    }
}
