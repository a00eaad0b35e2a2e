//! A storaged that stores nothing, an edge in this process, and a client that speaks raw HTTP.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "shared by the test files")]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "test code")]

pub mod certificate;
pub mod h2;
pub mod log;
pub mod program;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use daemon::notify::{Heartbeat, Notify};
use daemon::readiness::Readiness;
use edge::config::{Config, Environment};
use edge::metrics::Metrics;
use edge::request::Edge;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use store_proto::{
    CapabilitySigner, ContentDigest, FileId, FileMeta, FileSelector, Permission, PermissionRequest,
    ProblemBody, ProblemKind, Proof, RequestContext, StoredBefore, Token, UploadPermission, UploadReceipt,
    UploadState,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const KEY: &str = "an-internal-key-of-enough-length";
pub const PUT: &str = "PUT /v1/cohorts/alpha/files/a.bin HTTP/1.1\r\nHost: edge\r\n";
pub const GET: &str = "GET /v1/cohorts/alpha/files/a.bin HTTP/1.1\r\nHost: edge\r\n";

pub fn token() -> Token {
    Token::from_bytes([7; 32])
}

pub fn authorization() -> String {
    format!("Authorization: Bearer {}\r\n", token().expose())
}

/// What the fake has seen, and how it is to behave.
#[derive(Default)]
pub struct FakeState {
    pub received: AtomicU64,
    pub completed: AtomicU64,
    pub aborted: AtomicU64,
    pub permissions: AtomicU64,
    pub health: AtomicU64,
    /// Nothing is answered and nothing is read any more, as after a silent cut.
    pub frozen: AtomicBool,
    /// The size of the one file that exists.
    pub file_size: AtomicU64,
    /// The log that is shown, if any.
    pub log: Mutex<Option<log::FakeLog>>,
    /// An upload is answered with 507 after this many bytes, if not 0.
    pub full_after: AtomicU64,
    /// It freezes after this many bytes of an upload, if not 0.
    pub freezes_after: AtomicU64,
    /// Its id's first byte, and so that of all it makes.
    pub store: AtomicU64,
    /// Whether the connection breaks when a body is there, before its answer.
    pub breaks_after_body: AtomicBool,
    /// Whether it takes itself for another store than it is asked for.
    pub wrong: AtomicBool,
    /// Whether a request with a key came before.
    pub before: AtomicBool,
    /// The size of what came then, if not 5.
    pub before_size: AtomicU64,
    /// The one upload that resumes, if there is one.
    pub resumable: Mutex<Option<UploadState>>,
    /// What edge told of lock-outs.
    pub lockouts: Mutex<Vec<store_proto::Lockout>>,
    pub last_context: Mutex<Option<RequestContext>>,
    pub last_headers: Mutex<HashMap<String, String>>,
}

pub struct Fake {
    pub address: SocketAddr,
    pub state: Arc<FakeState>,
    task: tokio::task::JoinHandle<()>,
    connections: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
}

type Body = BoxBody<Bytes, std::io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn json(status: u16, value: &impl serde::Serialize) -> Response<Body> {
    let mut response = Response::new(full(serde_json::to_vec(value).unwrap()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn problem(kind: ProblemKind) -> Response<Body> {
    json(kind.status(), &ProblemBody::new(kind, Some("from the fake".into())))
}

impl Fake {
    pub async fn start() -> Fake {
        Self::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> Fake {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(FakeState::default());
        let connections: Arc<Mutex<Vec<_>>> = Arc::default();
        let (serving, kept) = (Arc::clone(&state), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let state = Arc::clone(&serving);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                let connection = tokio::spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                kept.lock().unwrap().push(connection);
            }
        });
        Fake { address, state, task, connections }
    }

    /// The process dies: listener and connections are closed.
    pub fn die(&self) {
        self.task.abort();
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    pub fn freeze(&self, frozen: bool) {
        self.state.frozen.store(frozen, Ordering::SeqCst);
    }
}

async fn thaw(state: &FakeState) {
    while state.frozen.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn answer(state: Arc<FakeState>, request: Request<Incoming>) -> std::io::Result<Response<Body>> {
    thaw(&state).await;
    let path = request.uri().path().to_owned();
    if path == store_proto::routes::HEALTH {
        state.health.fetch_add(1, Ordering::SeqCst);
        let store = u8::try_from(state.store.load(Ordering::SeqCst)).unwrap();
        let store = FileId::from_bytes([store; 16]);
        return Ok(json(200, &store_proto::StoreHealth { status: "ok".into(), store }));
    }
    if path.starts_with("/internal/v1/ledger/") {
        let shown = state.log.lock().unwrap();
        let Some(log) = shown.as_ref() else { return Ok(problem(ProblemKind::NotFound)) };
        return Ok(if path == store_proto::routes::LEDGER_CHECKPOINT {
            let mut response = Response::new(full(log.checkpoint()));
            response.headers_mut().insert("culvert-log-key", log.key().to_string().parse().unwrap());
            response
        } else {
            json(200, &log.consistency(request.uri().query().unwrap()))
        });
    }
    if path == store_proto::routes::LOCKOUTS {
        assert_eq!(request.headers()["x-internal-key"], KEY);
        if request.method() == http::Method::GET {
            let lockouts = state.lockouts.lock().unwrap().clone();
            return Ok(json(200, &store_proto::Lockouts { lockouts }));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let lockout: store_proto::Lockout = serde_json::from_slice(&body).unwrap();
        state.lockouts.lock().unwrap().push(lockout);
        return Ok(json(201, &lockout));
    }
    let headers = request.headers().clone();
    *state.last_headers.lock().unwrap() = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(headers["x-internal-key"], KEY);
    let context = RequestContext::decode(headers["culvert-context"].as_bytes()).unwrap();
    let known = match &context.proof {
        Proof::Token(shown) => shown.digest().matches(&token().digest()),
        // storaged has its own keys; whether edge looked at it is seen by what comes here at all.
        Proof::Jwt(_) | Proof::Certificate(_) => true,
        Proof::Capability(shown) => shown.verify(&signer().key()).is_ok(),
    };
    *state.last_context.lock().unwrap() = Some(context.clone());
    if state.wrong.load(Ordering::SeqCst) {
        return Ok(problem(ProblemKind::WrongStore));
    }
    if !known {
        return Ok(problem(ProblemKind::Unauthenticated));
    }
    let size = state.file_size.load(Ordering::SeqCst);
    Ok(match path.as_str() {
        store_proto::routes::PERMISSIONS => {
            state.permissions.fetch_add(1, Ordering::SeqCst);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            match serde_json::from_slice(&body).unwrap() {
                PermissionRequest::Upload { key: Some(_), .. } if state.before.load(Ordering::SeqCst) => {
                    let size = match state.before_size.load(Ordering::SeqCst) {
                        0 => 5,
                        size => size,
                    };
                    let before = StoredBefore { created: true, receipt: receipt(size) };
                    json(200, &Permission::Stored(Box::new(before)))
                }
                PermissionRequest::Upload { .. } => {
                    json(200, &Permission::Upload(UploadPermission { max_bytes: 1 << 40 }))
                }
                PermissionRequest::Download { cohort, file: FileSelector::Path(path) } if size > 0 => {
                    json(200, &Permission::Download(meta(cohort, path, size)))
                }
                PermissionRequest::DownloadFile { file_id } if size > 0 => {
                    let alpha = store_proto::Cohort::parse("alpha").unwrap();
                    let path = store_proto::LogicalPath::parse("a.bin").unwrap();
                    json(200, &Permission::Download(FileMeta { file_id, ..meta(alpha, path, size) }))
                }
                PermissionRequest::Download { .. } | PermissionRequest::DownloadFile { .. } => {
                    problem(ProblemKind::UnknownFile)
                }
                PermissionRequest::List { .. } => json(200, &Permission::List {}),
            }
        }
        store_proto::routes::POLICY => {
            let name = format!("of-{}", state.store.load(Ordering::SeqCst));
            json(200, &serde_json::json!({"user": "ada", "cohorts": [{ "cohort": name }]}))
        }
        store_proto::routes::CAPABILITIES => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let asked: store_proto::NewCapability = serde_json::from_slice(&body).unwrap();
            json(201, &made(&asked))
        }
        path if path.starts_with(store_proto::routes::CAPABILITIES) => {
            json(200, &serde_json::json!({"revoked": path.rsplit('/').next()}))
        }
        store_proto::routes::UPLOAD => {
            let taken = upload(&state, request.into_body()).await;
            if state.breaks_after_body.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            taken
        }
        path if path.starts_with(store_proto::routes::UPLOADS) => {
            let status = if request.method() == http::Method::POST { 201 } else { 200 };
            match &*state.resumable.lock().unwrap() {
                Some(upload) => json(status, upload),
                None => problem(ProblemKind::UnknownUpload),
            }
        }
        path if path.starts_with(store_proto::routes::FILES) => download(&headers, size),
        path if path.starts_with(store_proto::routes::COHORTS) => {
            json(200, &serde_json::json!({"files": [], "next_cursor": null}))
        }
        _ => problem(ProblemKind::NotFound),
    })
}

async fn upload(state: &FakeState, mut body: Incoming) -> Response<Body> {
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        thaw(state).await;
        let Ok(frame) = frame else {
            state.aborted.fetch_add(1, Ordering::SeqCst);
            return problem(ProblemKind::IncompleteBody);
        };
        let length = frame.into_data().map_or(0, |data| data.len() as u64);
        size += length;
        state.received.fetch_add(length, Ordering::SeqCst);
        let freezes_after = state.freezes_after.load(Ordering::SeqCst);
        if freezes_after > 0 && size >= freezes_after {
            state.frozen.store(true, Ordering::SeqCst);
        }
        let full_after = state.full_after.load(Ordering::SeqCst);
        if full_after > 0 && size >= full_after {
            // As storaged does: at a reset its answer could be lost.
            tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
            return problem(ProblemKind::Quota);
        }
    }
    state.completed.fetch_add(1, Ordering::SeqCst);
    json(201, &receipt(size))
}

fn receipt(size: u64) -> UploadReceipt {
    let sha256 = ContentDigest::from_bytes([0xab; 32]);
    UploadReceipt {
        file_id: FileId::from_bytes([1; 16]),
        cohort: store_proto::Cohort::parse("alpha").unwrap(),
        size,
        sha256,
        etag: sha256.to_etag(),
        ledger_index: 1,
        stored_at: "2026-11-21T00:00:00Z".into(),
        receipt: None,
    }
}

/// Signs the fake's links.
pub fn signer() -> CapabilitySigner {
    CapabilitySigner::from_seed(&[4; 32])
}

fn made(asked: &store_proto::NewCapability) -> store_proto::MadeCapability {
    let capability_id = FileId::from_bytes([2; 16]);
    let capability = signer().sign(store_proto::CapabilityClaims {
        id: capability_id,
        method: store_proto::CapabilityMethod::Get,
        file_id: asked.file_id,
        expires_s: asked.expires_in,
        range: asked.range.map(|(first, last)| first..last + 1),
        network: asked.network,
        certificate: asked.certificate,
    });
    store_proto::MadeCapability { capability_id, capability, expires: "2026-11-21T00:00:00Z".into() }
}

fn meta(cohort: store_proto::Cohort, path: store_proto::LogicalPath, size: u64) -> FileMeta {
    let sha256 = ContentDigest::from_bytes([0xab; 32]);
    let created_at = "2026-11-21T00:00:00Z".into();
    let file_id = FileId::from_bytes([1; 16]);
    FileMeta {
        file_id,
        cohort,
        path,
        size,
        sha256,
        etag: sha256.to_etag(),
        file_type: None,
        attributes: store_proto::Attributes::parse_lists(["site=x"]).unwrap(),
        created_at,
        ledger_index: 1,
        version: 1,
        state: Default::default(),
    }
}

/// The byte at `position` of the one file.
pub fn byte_at(position: u64) -> u8 {
    u8::try_from(position % 251).unwrap()
}

/// `byte_at` for a frame from any phase on, made once: the fake must not be what is measured.
fn pattern() -> Bytes {
    static PATTERN: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    PATTERN.get_or_init(|| (0..65_536 + 251).map(byte_at).collect::<Vec<_>>().into()).clone()
}

fn download(headers: &http::HeaderMap, size: u64) -> Response<Body> {
    let range = headers.get(header::RANGE).map(|range| {
        let (first, last) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse::<u64>().unwrap(), last.parse::<u64>().unwrap())
    });
    let (first, end) = range.map_or((0, size), |(first, last)| (first, last + 1));
    let chunks = futures_util::stream::unfold(first, move |at| async move {
        let next = (at + 65_536).min(end);
        (at < end).then(|| {
            let phase = usize::from(byte_at(at));
            let length = usize::try_from(next - at).unwrap();
            (Ok(Frame::data(pattern().slice(phase..phase + length))), next)
        })
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(chunks.boxed_sync())));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, (end - first).into());
    headers.insert(header::ETAG, ContentDigest::from_bytes([0xab; 32]).to_etag().parse().unwrap());
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

trait BoxedSync: futures_util::Stream + Sized {
    fn boxed_sync(self) -> std::pin::Pin<Box<dyn futures_util::Stream<Item = Self::Item> + Send + Sync>>
    where
        Self: Send + Sync + 'static,
    {
        Box::pin(self)
    }
}
impl<S: futures_util::Stream> BoxedSync for S {}

/// An edge in this process, without lock-down.
pub struct TestEdge {
    pub address: SocketAddr,
    pub edge: Arc<Edge>,
}

impl TestEdge {
    pub async fn start(fake: &Fake, limits: &str) -> TestEdge {
        let test = Self::start_without_waiting(fake.address, limits);
        until("the circuit closes", || test.edge.upstreams.any_up()).await;
        test
    }

    /// With TLS, and a folder with `chain.pem` and `key.pem`.
    pub async fn start_tls(fake: &Fake, limits: &str) -> (TestEdge, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        certificate::Certificate::made().put(folder.path());
        let path = folder.path().display();
        let lines =
            format!("tls_certificate_file = \"{path}/chain.pem\"\ntls_key_file = \"{path}/key.pem\"\n");
        let test = Self::of_text(&config_text(fake.address, limits).replace("plain_http = true\n", &lines));
        until("the circuit closes", || test.edge.upstreams.any_up()).await;
        (test, folder)
    }

    /// With lines that go before the limits.
    pub async fn start_with(fake: &Fake, lines: &str) -> TestEdge {
        let test = Self::of_text(&format!("{lines}{}", config_text(fake.address, "")));
        until("the circuit closes", || test.edge.upstreams.any_up()).await;
        test
    }

    /// In front of several, with the cohorts of each.
    pub fn before(upstreams: &[(&str, SocketAddr, &[&str])]) -> TestEdge {
        let text = config_text(upstreams[0].1, "");
        let text =
            text.lines().filter(|line| !line.starts_with("services_url")).collect::<Vec<_>>().join("\n");
        let table = |(name, address, cohorts): &(&str, SocketAddr, &[&str])| {
            format!("\n[[upstream]]\nname = {name:?}\nurl = \"http://{address}\"\ncohorts = {cohorts:?}\n")
        };
        Self::of_text(&(text + &upstreams.iter().map(table).collect::<String>()))
    }

    /// The only storaged's log.
    pub fn witness(&self) -> &edge::witness::Witness {
        &self.edge.upstreams.first().witness
    }

    pub fn start_without_waiting(services: SocketAddr, limits: &str) -> TestEdge {
        Self::of_text(&config_text(services, limits))
    }

    fn of_text(text: &str) -> TestEdge {
        let config = Config::parse("edge.toml", text, &Environment::default()).unwrap();
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let readiness = Readiness::new();
        let witnesses = config.upstreams.all.iter();
        let witnesses = witnesses.map(|one| edge::witness::Witness::new(one.log_key.clone(), None)).collect();
        let tls = edge::acquire::tls(&config, daemon::Clock.unix_milliseconds() / 1000).unwrap();
        let issuers = edge::acquire::issuers(&config).unwrap();
        let live =
            edge::request::Live { limits: config.limits, internal_key: KEY.parse().unwrap(), tls, issuers };
        let edge = edge::run::edge(&config, live, witnesses, &readiness, metrics);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(edge::listen::serve(
            Arc::clone(&edge),
            listener,
            Heartbeat::new(Arc::new(Notify::nobody())),
        ));
        for upstream in edge.upstreams.iter() {
            tokio::spawn(edge::lockouts::mirror(Arc::clone(&edge), Arc::clone(upstream)));
            let events = Arc::new(tokio::sync::Notify::new());
            tokio::spawn(edge::tunnel::watch(Arc::clone(&edge), Arc::clone(upstream), events));
        }
        TestEdge { address, edge }
    }

    pub async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap() }
    }
}

pub fn config_text(services: SocketAddr, limits: &str) -> String {
    format!(
        "name = \"web1\"\nrole = \"testing\"\nprofile = \"lab\"\nplain_http = true\nlisten = \"127.0.0.1:0\"\n\
         services_url = \"http://{services}\"\ninternal_api_key_file = \"unused\"\nmetrics_listen = \"\"\n\
         admin_socket = \"\"\nevents_socket = \"\"\n[limits]\n{limits}\n"
    )
}

/// Waits for a condition, not for a time.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 20 s in vain until {what}");
}

pub struct Client {
    pub stream: TcpStream,
}

/// An answer: its head in lower case, and its body.
pub struct Seen {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn kind(&self) -> String {
        let problem: ProblemBody = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem.known_kind().unwrap().name().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(prefix.as_str()))
    }
}

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads one answer with a `Content-Length` (or none), whatever else is going on.
    pub async fn read(&mut self) -> Seen {
        self.try_read().await.expect("a complete answer")
    }

    pub async fn try_read(&mut self) -> std::io::Result<Seen> {
        tokio::time::timeout(Duration::from_secs(20), self.read_unhurried()).await?
    }

    async fn read_unhurried(&mut self) -> std::io::Result<Seen> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        let head = head.to_lowercase();
        if status == 100 {
            return Ok(Seen { status, head, body: Vec::new() });
        }
        // What must hold for every answer, whatever the test is about.
        assert!(!head.contains("set-cookie"), "{head}");
        for name in [
            "request-id: ",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "sandbox",
            "attachment",
            "referrer-policy: ",
            "culvert-role: testing",
        ] {
            assert!(head.contains(name), "{name} in {head}");
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|n| n.parse().unwrap());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body).await?;
        Ok(Seen { status, head, body })
    }

    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Seen {
        self.send(request).await;
        self.read().await
    }

    /// Whether the other side closes within two seconds, after whatever it still sends.
    pub async fn is_closed(&mut self) -> bool {
        let mut scrap = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(2), self.stream.read_to_end(&mut scrap)).await;
        read.is_ok()
    }
}
