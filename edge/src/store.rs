//! What edge asks storaged, in storaged's words: permission, upload, download, listing, health.
//!
//! storaged's problems are passed on by type and status; its other errors become ours.

mod told;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use daemon::Clock;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Builder;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use store_proto::headers::{
    CONTENT_DIGEST, CULVERT_ATTRIBUTE, CULVERT_COHORT, CULVERT_CONTEXT, CULVERT_FILE_TYPE, CULVERT_PATH,
    CULVERT_REASON, CULVERT_STORE, IDEMPOTENCY_KEY, REPR_DIGEST, X_INTERNAL_KEY,
};
use store_proto::{
    Capability, ContentDigest, EdgeName, FileId, FileMeta, Permission, PermissionRequest, ProblemBody,
    ProblemKind, Proof, RequestContext, RequestId, ServerRole, StoreHealth, StoredBefore, UploadReceipt,
    routes,
};
use tokio::time::{sleep, timeout};

use crate::answer::Payload;
use crate::client_body::Waits;
use crate::limits::{COMMIT_TIMEOUT, PERMISSION_TIMEOUT, PROOF_OF_LIFE};
use crate::metrics::{Metrics, Side, UpstreamFailure, UpstreamMetrics};
use crate::parts::{Fetched, Layout, PartsBody};
use crate::plan::{Announced, Page, Reception, Shown, Transmission};
use crate::range::ByteRange;
use crate::refusal::Refusal;
use crate::request::Live;
use crate::store_client::{Collected, Exchange, StoreClient, StoreError};
use crate::stream::{DownloadBody, Inbound, Outgoing, UploadBody, pass_over};

use told::{describe, digest_field, json_answer, stored, stored_before};

pub(crate) use told::insert;

/// storaged, as edge sees it.
#[derive(Debug)]
pub struct Store {
    /// The connections.
    pub client: Arc<StoreClient>,
    /// Who we are to storaged.
    pub name: EdgeName,
    /// What we are to storaged.
    pub role: ServerRole,
    /// Our process, for storaged's records.
    pub process_id: u32,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Those of this one.
    pub counts: UpstreamMetrics,
    mark: AtomicU64,
}

/// Asks on behalf of one request of one user.
pub struct Asker<'a> {
    store: &'a Store,
    live: &'a Live,
    client: IpAddr,
    request_id: &'a RequestId,
    /// Of one who shows a link.
    certificate: Option<ContentDigest>,
    proof: Proof,
}

/// A body for storaged, and where it goes.
pub(crate) struct Bringing {
    /// The request's head.
    pub(crate) builder: Builder,
    /// The client's bytes.
    pub(crate) body: Inbound,
    /// Whether a digest may follow the bytes.
    pub(crate) trailing: bool,
    /// The longest body that is taken.
    pub(crate) max_bytes: u64,
}

/// What a health request found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// storaged is there and usable.
    Well,
    /// It is there and refuses.
    Unwell {
        /// With which status.
        status: u16,
        /// Why, if it says so in our words.
        problem: Option<ProblemKind>,
    },
    /// It is not there.
    Away,
}

/// No store's mark: they have 32 bits.
const UNKNOWN_MARK: u64 = u64::MAX;

impl Store {
    /// One that was not asked anything yet.
    pub fn new(
        client: Arc<StoreClient>,
        name: EdgeName,
        role: ServerRole,
        metrics: Metrics,
        counts: UpstreamMetrics,
    ) -> Store {
        let mark = AtomicU64::new(UNKNOWN_MARK);
        Store { client, name, role, process_id: std::process::id(), clock: Clock, metrics, counts, mark }
    }

    /// What the ids that it makes begin with, once it has said so.
    pub fn mark(&self) -> Option<[u8; 4]> {
        u32::try_from(self.mark.load(Ordering::Acquire)).ok().map(u32::to_be_bytes)
    }

    fn learn_mark(&self, store: FileId) {
        let mark = u64::from(u32::from_be_bytes(store.mark()));
        let before = self.mark.swap(mark, Ordering::AcqRel);
        if before != mark && before != UNKNOWN_MARK {
            tracing::error!(address = %self.client.address(), "ANOTHER STORE answers here than before");
        }
    }

    /// Asks whether storaged is usable. Any complete answer is a proof of life.
    pub async fn health(&self) -> Health {
        let live_enough = async {
            let request = || self.request(Method::GET, routes::HEALTH).body(empty());
            let collected = self.ask(request).await?.collect().await?;
            let health = health_of(collected.head.status, &collected.body);
            if let Ok(told) = serde_json::from_slice::<StoreHealth>(&collected.body) {
                self.learn_mark(told.store);
            }
            self.client.note_answer();
            collected.settle().await;
            Ok::<_, StoreError>(health)
        };
        match timeout(PROOF_OF_LIFE, live_enough).await {
            Ok(Ok(health)) => health,
            Ok(Err(_)) | Err(_) => Health::Away,
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Builder {
        Request::builder().method(method).uri(path).header(header::HOST, self.client.address().to_string())
    }

    async fn send(&self, request: Request<Outgoing>) -> Result<Exchange, StoreError> {
        let started = self.clock.now();
        let result = self.client.send(request).await;
        let elapsed = self.clock.now().saturating_duration_since(started);
        self.counts.request_duration.observe(elapsed.as_secs_f64());
        result
    }

    /// Sends a request that changes nothing, a second time if the connection broke under it: a pooled
    /// connection may have been closed in the moment in which it was used. Not when the circuit broke it:
    /// storaged is away, and another try would only keep the client waiting.
    pub(crate) async fn ask(
        &self,
        build: impl Fn() -> http::Result<Request<Outgoing>>,
    ) -> Result<Exchange, StoreError> {
        let request = || build().map_err(|_| StoreError::Answer);
        let generation = self.client.generation();
        match self.send(request()?).await {
            Err(StoreError::Broken(error)) if self.client.generation() == generation => {
                tracing::debug!(%error, "a connection to storaged broke; asking again");
                self.send(request()?).await
            }
            done => done,
        }
    }

    fn failed(&self, error: &StoreError) -> Refusal {
        self.counts.failed(error.failure());
        tracing::debug!(%error, "request to storaged");
        match error {
            StoreError::Connect(_) | StoreError::Broken(_) => Refusal::TunnelUnavailable,
            StoreError::Answer => Refusal::StoreAnswer,
        }
    }

    fn slow(&self) -> Refusal {
        self.counts.failed(UpstreamFailure::Timeout);
        Refusal::StoreTimeout
    }

    fn not_understood(&self, what: &'static str) -> Refusal {
        self.counts.failed(UpstreamFailure::Answer);
        tracing::warn!(what, "storaged's answer is not understood");
        Refusal::StoreAnswer
    }

    fn parse<T: DeserializeOwned>(&self, collected: &Collected) -> Result<T, Refusal> {
        serde_json::from_slice(&collected.body)
            .map_err(|_| self.not_understood("the JSON is not the expected one"))
    }

    /// Passes a problem of storaged's on.
    fn problem(&self, collected: &Collected) -> Refusal {
        let status = collected.head.status;
        let Ok(body) = serde_json::from_slice::<ProblemBody>(&collected.body) else {
            return self.not_understood("neither the expected status nor a problem");
        };
        let Some(kind) = body.known_kind().filter(|kind| kind.status() == status.as_u16()) else {
            return self.not_understood("a problem of no known type");
        };
        if kind == store_proto::ProblemKind::EdgeForbidden {
            tracing::warn!(
                "storaged does not accept this edge: check its name, its peer and the internal key"
            );
        }
        if kind == store_proto::ProblemKind::WrongStore {
            // It is not asked of another: which one has a cohort is said by the configuration alone.
            self.counts.failed(UpstreamFailure::Misdirected);
            tracing::warn!(address = %self.client.address(), "storaged says that the request is not for it");
        }
        // What speaks about the request is for the client; what speaks about storaged's insides is not.
        let about_the_request = status.is_client_error() || status == StatusCode::INSUFFICIENT_STORAGE;
        let retry_after = collected.head.headers.get(header::RETRY_AFTER);
        Refusal::Store {
            kind,
            detail: body.detail.filter(|_| about_the_request),
            retry_after_seconds: retry_after.and_then(|value| value.to_str().ok()?.parse().ok()),
        }
    }

    /// 304 for a file that the client has.
    pub fn not_modified(file: &FileMeta) -> Response<Payload> {
        let mut response = Response::new(Payload::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        insert(response.headers_mut(), header::ETAG, &file.etag);
        response
    }
}

impl<'a> Asker<'a> {
    /// Asks with what the user shows.
    pub fn new(
        store: &'a Store,
        live: &'a Live,
        client: IpAddr,
        request_id: &'a RequestId,
        proof: Proof,
    ) -> Self {
        Asker { store, live, client, request_id, certificate: None, proof }
    }

    /// Asks with a link as the only proof, which may be bound to the certificate that was proven beside it.
    pub fn with_link(
        store: &'a Store,
        live: &'a Live,
        client: IpAddr,
        request_id: &'a RequestId,
        link: Capability,
        certificate: Option<ContentDigest>,
    ) -> Self {
        Asker { certificate, ..Self::new(store, live, client, request_id, Proof::Capability(Box::new(link))) }
    }

    /// The request, as far as every question of this user goes.
    pub(crate) fn request(&self, method: Method, path: &str) -> Builder {
        let context = RequestContext {
            edge: self.store.name.clone(),
            role: self.store.role,
            process_id: self.store.process_id,
            timestamp_ms: self.store.clock.unix_milliseconds(),
            request_id: self.request_id.clone(),
            client_address: self.client,
            certificate: self.certificate,
            proof: self.proof.clone(),
        };
        let mut builder = self.store.request(method, path).header(X_INTERNAL_KEY, &self.live.internal_key);
        if let Some(mark) = self.store.mark() {
            builder = builder.header(CULVERT_STORE, FileId::mark_text(mark));
        }
        if let (Ok(mut value), Some(headers)) =
            (HeaderValue::try_from(context.encode()), builder.headers_mut())
        {
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(CULVERT_CONTEXT), value);
        }
        builder
    }

    /// The round trip before any body.
    pub async fn permission(&self, question: &PermissionRequest) -> Result<Permission, Refusal> {
        let body = serde_json::to_vec(question).map_err(|_| Refusal::StoreAnswer)?;
        let body = Bytes::from(body);
        let request = || {
            self.request(Method::POST, routes::PERMISSIONS)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Outgoing::Message(Full::new(body.clone())))
        };
        let asked = async { self.store.ask(request).await?.collect().await };
        let collected = timeout(PERMISSION_TIMEOUT, asked).await.map_err(|_| self.store.slow())?;
        let collected = collected.map_err(|error| self.store.failed(&error))?;
        let answer = match collected.head.status {
            StatusCode::OK => self.store.parse(&collected),
            _ => Err(self.store.problem(&collected)),
        };
        collected.settle().await;
        answer
    }

    /// storaged's time of day is ours within a minute: good enough to say how long something lasts.
    pub(crate) fn unix_milliseconds(&self) -> u64 {
        self.store.clock.unix_milliseconds()
    }

    /// Passes a problem of storaged's on.
    pub(crate) fn problem(&self, collected: &Collected) -> Refusal {
        self.store.problem(collected)
    }

    /// Reads an answer of the protocol.
    pub(crate) fn parse<T: DeserializeOwned>(&self, collected: &Collected) -> Result<T, Refusal> {
        self.store.parse(collected)
    }

    /// Streams a body to storaged and waits for its answer, which comes when the bytes are durable.
    pub(crate) async fn bring(&self, bringing: Bringing) -> Result<Collected, Refusal> {
        let Bringing { builder, body, trailing, max_bytes } = bringing;
        let metrics = &self.store.metrics;
        let (body, verdict, mut wanted) =
            UploadBody::new(body, trailing, max_bytes, self.live.limits.idle_timeout, metrics);
        let request = builder.body(Outgoing::Upload(body)).map_err(|_| Refusal::StoreAnswer)?;
        let aborted = |side: Side| metrics.upload_aborted.with_label_values(&[side.label()]).inc();
        let answered = async { self.store.send(request).await?.collect().await };
        let committing = async {
            wanted.ended().await;
            sleep(COMMIT_TIMEOUT).await;
        };
        let answered = tokio::select! {
            answered = answered => answered,
            () = committing => return Err(self.store.slow()),
        };
        match (answered, verdict.error()) {
            (Ok(collected), None) => Ok(collected),
            // The client's fault goes before storaged's, which only follows from it.
            (_, Some(error)) => {
                aborted(Side::Client);
                Err(error.refusal())
            }
            (Err(error), None) => {
                aborted(Side::Upstream);
                Err(self.store.failed(&error))
            }
        }
    }

    /// The answer to a request that came before. Its bytes are there: a client that waits to be asked for them keeps them, and
    /// any other is heard to the end.
    pub(crate) async fn came_before(
        &self,
        before: StoredBefore,
        body: Inbound,
        waits: Waits,
        location: &str,
    ) -> Response<Payload> {
        let size = before.receipt.size;
        let mut response = stored_before(before, location);
        if waits == Waits::ToBeAsked || !self.passed_over(body, size).await {
            // What is left of the body would be read as the next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Takes a body that is not needed; `false`: not to its end.
    pub(crate) async fn passed_over(&self, body: Inbound, max_bytes: u64) -> bool {
        pass_over(body, max_bytes, self.live.limits.idle_timeout, &self.store.metrics).await
    }

    /// Streams a body to storaged; `location` is the client's own name for the file.
    pub async fn upload(
        &self,
        reception: Reception,
        body: Inbound,
        location: &str,
    ) -> Result<Response<Payload>, Refusal> {
        let Reception { cohort, path, announced, max_bytes } = reception;
        let Announced { length, digest, replaces, file_type, attributes, key, trailing } = announced;
        let mut builder = self
            .request(Method::POST, routes::UPLOAD)
            .header(CULVERT_COHORT, cohort.as_str())
            .header(CULVERT_PATH, path.to_percent_encoded())
            .header(header::CONTENT_TYPE, "application/octet-stream");
        // Trailers need a chunked body.
        match length {
            _ if trailing => builder = builder.header(header::TRAILER, REPR_DIGEST),
            Some(length) => builder = builder.header(header::CONTENT_LENGTH, length),
            None => {}
        }
        if let Some(digest) = &digest {
            builder = builder.header(REPR_DIGEST, digest.to_repr_digest());
        }
        if let Some(file_type) = &file_type {
            builder = builder.header(CULVERT_FILE_TYPE, file_type.as_str());
        }
        if !attributes.is_empty() {
            builder = builder.header(CULVERT_ATTRIBUTE, attributes.to_list());
        }
        if let Some(key) = &key {
            builder = builder.header(IDEMPOTENCY_KEY, key.to_field());
        }
        if let Some(replaced) = &replaces {
            builder = builder.header(header::IF_MATCH, replaced.to_etag());
        }
        let bringing = Bringing { builder, body, trailing, max_bytes };
        let collected = self.bring(bringing).await?;
        let status = collected.head.status;
        if !matches!(status, StatusCode::CREATED | StatusCode::OK) {
            return Err(self.store.problem(&collected));
        }
        let receipt: UploadReceipt = self.store.parse(&collected)?;
        let json = collected.body.clone();
        collected.settle().await;
        Ok(stored(json, status, &receipt, location))
    }

    /// Streams a file, or parts of it, from storaged. `later` fetches what is not begun here.
    pub async fn download(
        &self,
        transmission: Transmission,
        later: impl FnOnce(FileMeta) -> Box<dyn Fn(ByteRange) -> Fetched + Send>,
    ) -> Result<Response<Payload>, Refusal> {
        let Transmission { file, ranges, with_body, digests } = transmission;
        let mut response = Response::new(Payload::empty());
        let fields = response.headers_mut();
        describe(&file, digests, fields);
        if !with_body {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(file.size));
            return Ok(response);
        }
        let first = self.stretch(&file, ranges.first().copied()).await?;
        if !ranges.is_empty() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        } else if digests.content {
            insert(
                response.headers_mut(),
                HeaderName::from_static(CONTENT_DIGEST),
                &digest_field(&file.sha256),
            );
        }
        let fields = response.headers_mut();
        let (payload, length) = match ranges[..] {
            [] => (Payload::Passed(first), file.size),
            [range] => {
                let content_range = format!("bytes {}-{}/{}", range.first(), range.last(), file.size);
                insert(fields, header::CONTENT_RANGE, &content_range);
                (Payload::Passed(first), range.length())
            }
            _ => {
                let layout = Layout::new(file.size);
                insert(fields, header::CONTENT_TYPE, &layout.content_type());
                let length = layout.length(&ranges);
                let body = PartsBody::new(layout, ranges, first, later(file));
                (Payload::Parts(Box::new(body), length), length)
            }
        };
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response.map(|_| payload))
    }

    /// A file's bytes, or a stretch of them, of which the first are there.
    pub async fn stretch(&self, file: &FileMeta, range: Option<ByteRange>) -> Result<DownloadBody, Refusal> {
        let length = range.map_or(file.size, |range| range.length());
        let mut builder = self.request(Method::GET, &routes::file(file.file_id));
        let mut expected = StatusCode::OK;
        if let Some(range) = range {
            expected = StatusCode::PARTIAL_CONTENT;
            builder = builder.header(header::RANGE, format!("bytes={}-{}", range.first(), range.last()));
        }
        let exchange = self.begin(builder).await?;
        if exchange.response.status() != expected {
            return Err(self.refused(exchange).await);
        }
        let announced = exchange.response.headers().get(header::CONTENT_LENGTH);
        if announced
            .is_none_or(|value| value.to_str().ok().and_then(|text| text.parse().ok()) != Some(length))
        {
            return Err(self.store.not_understood("a file of another length than permitted"));
        }
        if exchange.response.headers().get(header::ETAG).is_none_or(|tag| tag != file.etag.as_str()) {
            return Err(self.store.not_understood("another file than permitted"));
        }
        Ok(self.passing(exchange, Some(length)))
    }

    /// Passes a page of a listing on.
    pub async fn list(&self, page: &Page) -> Result<Response<Payload>, Refusal> {
        let mut path = routes::cohort_files(&page.cohort);
        let cursor = page.cursor.as_ref().map(|cursor| format!("cursor={cursor}"));
        let limit = page.limit.map(|limit| format!("limit={limit}"));
        let file_type = page.file_type.as_ref().map(|file_type| format!("type={file_type}"));
        let attributes = page.attributes.iter().map(|attribute| format!("attribute={attribute}"));
        let from = page.from.as_ref().map(|day| format!("from={day}"));
        let to = page.to.as_ref().map(|day| format!("to={day}"));
        let query: Vec<String> =
            [cursor, limit, file_type, from, to].into_iter().flatten().chain(attributes).collect();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        self.json(Method::GET, &path).await
    }

    /// Passes on what storaged tells in a small answer.
    pub async fn show(&self, shown: &Shown) -> Result<Response<Payload>, Refusal> {
        let path = match shown {
            Shown::Versions(cohort, path) => {
                format!("{}?path={}", routes::versions(cohort), path.to_percent_encoded())
            }
            Shown::Receipt(id) => routes::file_receipt(*id),
            Shown::Policy => routes::POLICY.to_owned(),
            Shown::Uploads => routes::UPLOADS.to_owned(),
            Shown::Upload(id) => routes::upload(*id),
        };
        self.json(Method::GET, &path).await
    }

    /// Has storaged take a file out of the store.
    pub async fn delete(&self, id: FileId, reason: Option<&str>) -> Result<Response<Payload>, Refusal> {
        let mut request = self.request(Method::DELETE, &routes::file(id));
        if let Some(reason) = reason {
            request = request.header(CULVERT_REASON, reason);
        }
        let told = self.committed(request).await?;
        Ok(json_answer(told))
    }

    /// Starts a question that can be asked twice.
    pub(crate) async fn begin_again(&self, method: Method, path: &str) -> Result<Exchange, Refusal> {
        let request = || self.request(method.clone(), path).body(empty());
        let sent =
            timeout(PERMISSION_TIMEOUT, self.store.ask(request)).await.map_err(|_| self.store.slow())?;
        sent.map_err(|error| self.store.failed(&error))
    }

    async fn json(&self, method: Method, path: &str) -> Result<Response<Payload>, Refusal> {
        let exchange = self.begin_again(method, path).await?;
        if exchange.response.status() != StatusCode::OK {
            return Err(self.refused(exchange).await);
        }
        let length = exchange.response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let mut response = Response::new(self.pass(exchange, length));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// A request without a body that makes something durable: sent once, and given a commit's time.
    pub(crate) async fn committed(&self, request: Builder) -> Result<Bytes, Refusal> {
        let asked = async {
            let request = request.body(empty()).map_err(|_| StoreError::Answer)?;
            self.store.send(request).await?.collect().await
        };
        let collected = timeout(COMMIT_TIMEOUT, asked).await.map_err(|_| self.store.slow())?;
        let collected = collected.map_err(|error| self.store.failed(&error))?;
        let answer = match collected.head.status {
            StatusCode::OK => Ok(collected.body.clone()),
            _ => Err(self.store.problem(&collected)),
        };
        collected.settle().await;
        answer
    }

    /// A small question with a small answer; `expected` is what it is answered with if it may be.
    pub(crate) async fn small(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        expected: StatusCode,
    ) -> Result<Bytes, Refusal> {
        let request = || {
            self.request(method.clone(), path)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Outgoing::Message(Full::new(body.clone())))
        };
        // Sent once: asked twice it might be done twice.
        let asked = async {
            let request = request().map_err(|_| StoreError::Answer)?;
            self.store.send(request).await?.collect().await
        };
        let collected = timeout(PERMISSION_TIMEOUT, asked).await.map_err(|_| self.store.slow())?;
        let collected = collected.map_err(|error| self.store.failed(&error))?;
        let answer = if collected.head.status == expected {
            Ok(collected.body.clone())
        } else {
            Err(self.store.problem(&collected))
        };
        collected.settle().await;
        answer
    }

    /// Starts a question whose answer is a file.
    pub(crate) async fn begin(&self, builder: Builder) -> Result<Exchange, Refusal> {
        let request = builder.body(empty()).map_err(|_| Refusal::StoreAnswer)?;
        let sent =
            timeout(PERMISSION_TIMEOUT, self.store.send(request)).await.map_err(|_| self.store.slow())?;
        sent.map_err(|error| self.store.failed(&error))
    }

    pub(crate) async fn refused(&self, exchange: Exchange) -> Refusal {
        let collected = match timeout(PERMISSION_TIMEOUT, exchange.collect()).await {
            Ok(Ok(collected)) => collected,
            Ok(Err(error)) => return self.store.failed(&error),
            Err(_) => return self.store.slow(),
        };
        let refusal = self.store.problem(&collected);
        collected.settle().await;
        refusal
    }

    pub(crate) fn pass(&self, exchange: Exchange, length: Option<u64>) -> Payload {
        Payload::Passed(self.passing(exchange, length))
    }

    fn passing(&self, exchange: Exchange, length: Option<u64>) -> DownloadBody {
        let (_, body, lease) = exchange.into_parts();
        let idle: Duration = self.live.limits.idle_timeout;
        DownloadBody::new(body, length, idle, lease, &self.store.metrics)
    }
}

fn health_of(status: StatusCode, body: &[u8]) -> Health {
    if status == StatusCode::OK {
        return Health::Well;
    }
    let problem = serde_json::from_slice::<ProblemBody>(body).ok().and_then(|body| body.known_kind());
    Health::Unwell { status: status.as_u16(), problem }
}

pub(crate) fn empty() -> Outgoing {
    Outgoing::Message(Full::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ill_health_has_a_reason_where_storaged_gives_one() {
        let body = serde_json::to_vec(&ProblemBody::new(ProblemKind::PeerUnverified, None)).unwrap();
        let problem = Some(ProblemKind::PeerUnverified);
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(health_of(unavailable, &body), Health::Unwell { status: 503, problem });
        assert_eq!(health_of(unavailable, b"<html>"), Health::Unwell { status: 503, problem: None });
        assert_eq!(health_of(StatusCode::OK, b"{}"), Health::Well);
    }
}
