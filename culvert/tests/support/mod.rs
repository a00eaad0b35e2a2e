//! A small edge that keeps files in memory, and can be told to misbehave.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use store_proto::{ContentDigest, Token};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Files on a page of a listing.
const PAGE: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Its receipts name another hash.
    WrongReceipt,
    /// Its downloads are not what their ETag says.
    WrongBytes,
    /// Its downloads end early.
    Truncating,
    /// It answers 503 before it reads a body.
    Unavailable,
    /// It reads a part of the body, answers 507 and resets the connection.
    FullAfterAWhile,
}

pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    puts: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Edge {
    pub(crate) fn start(manner: Manner) -> Edge {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let files = Arc::new(Mutex::new(BTreeMap::new()));
        let puts = Arc::new(AtomicUsize::new(0));
        runtime.spawn(serve(listener, manner, files.clone(), puts.clone(), None));
        Edge { address, files, puts, _runtime: runtime }
    }

    /// The same under TLS, and the PEM file of who vouches for it, put into `directory`.
    pub(crate) fn start_tls(directory: &Path) -> (Edge, PathBuf) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let trusted = directory.join("ca.pem");
        std::fs::write(&trusted, made.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (files, puts) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicUsize::new(0)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        runtime.spawn(serve(listener, Manner::Honest, files.clone(), puts.clone(), Some(acceptor)));
        (Edge { address, files, puts, _runtime: runtime }, trusted)
    }

    pub(crate) fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.files.lock().unwrap()
    }

    /// How many files were sent, whatever became of them.
    pub(crate) fn puts(&self) -> usize {
        self.puts.load(SeqCst)
    }

    /// `culvert` with this server and a good token.
    pub(crate) fn culvert(&self, arguments: &[&str]) -> Output {
        culvert().env("CULVERT_SERVER", format!("http://{}", self.address)).args(arguments).output().unwrap()
    }
}

pub(crate) fn culvert() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    command
        .env_remove("CULVERT_SERVER")
        .env_remove("CULVERT_TOKEN_FILE")
        .env("CULVERT_TOKEN", token().expose());
    command
}

pub(crate) fn token() -> Token {
    Token::from_bytes([7; 32])
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

async fn serve(
    listener: TcpListener,
    manner: Manner,
    files: Files,
    puts: Arc<AtomicUsize>,
    tls: Option<TlsAcceptor>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (files, puts, tls) = (files.clone(), puts.clone(), tls.clone());
        tokio::spawn(async move {
            if manner == Manner::Truncating {
                return truncate(stream).await;
            }
            if manner == Manner::FullAfterAWhile {
                return run_full(stream).await;
            }
            match tls {
                None => converse(stream, manner, files, puts).await,
                Some(tls) => {
                    // Who does not trust us hangs up.
                    let Ok(stream) = tls.accept(stream).await else { return };
                    converse(stream, manner, files, puts).await;
                }
            }
        });
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    manner: Manner,
    files: Files,
    puts: Arc<AtomicUsize>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        if request.method() == Method::PUT {
            puts.fetch_add(1, SeqCst);
        }
        let files = files.clone();
        async move { Ok::<_, Infallible>(answer(request, manner, files).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Announces ten bytes, sends four, hangs up: no HTTP library does this willingly.
async fn truncate(mut stream: TcpStream) {
    let mut request = vec![0; 4096];
    let _ = stream.read(&mut request).await;
    let etag = sha256(b"0123456789");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 10\r\netag: \"{etag}\"\r\n\r\n0123");
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Says to go on, and closes with unread bytes behind its answer: the kernel resets the connection.
async fn run_full(mut stream: TcpStream) {
    let mut bytes = vec![0; 64 * 1024];
    let _ = stream.read(&mut bytes).await;
    let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    let _ = stream.read_exact(&mut bytes).await;
    let body =
        r#"{"type":"urn:culvert:problem:quota","title":"t","status":507,"detail":"the volume is full"}"#;
    let head = "HTTP/1.1 507 Insufficient Storage\r\ncontent-type: application/problem+json\r\nconnection: close\r\n";
    let _ = stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
}

async fn answer(request: Request<Incoming>, manner: Manner, files: Files) -> Response<Full<Bytes>> {
    let authorization =
        request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    if authorization.as_deref() != Some(&format!("Bearer {}", token().expose())) {
        return problem(401, "unauthenticated", "the token is unknown", None);
    }
    if manner == Manner::Unavailable {
        return problem(503, "tunnel-unavailable", "the tunnel is down", Some(5));
    }
    let path = request.uri().path().to_owned();
    let name =
        path.strip_prefix("/v1/cohorts/c5/files").unwrap_or_default().trim_start_matches('/').to_owned();
    if !path.starts_with("/v1/cohorts/c5/") {
        return problem(404, "unknown-cohort", "no such cohort", None);
    }
    if name.is_empty() {
        return listing(request.uri().query(), &files.lock().unwrap());
    }
    if request.method() == Method::PUT {
        let body = request.into_body().collect().await;
        let Ok(body) = body else { return problem(400, "incomplete-body", "the body ended early", None) };
        return store(name, body.to_bytes().to_vec(), manner, &mut files.lock().unwrap());
    }
    let Some(mut bytes) = files.lock().unwrap().get(&name).cloned() else {
        return problem(404, "unknown-file", "no such file", None);
    };
    let etag = format!("\"{}\"", sha256(&bytes));
    if manner == Manner::WrongBytes {
        bytes[0] ^= 1;
    }
    let id = "00112233445566778899aabbccddeeff";
    Response::builder()
        .header("etag", etag)
        .header("culvert-file-id", id)
        .body(Full::new(bytes.into()))
        .unwrap()
}

fn store(
    name: String,
    bytes: Vec<u8>,
    manner: Manner,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Response<Full<Bytes>> {
    let known = files.get(&name);
    let status = match known {
        None => StatusCode::CREATED,
        Some(old) if *old == bytes => StatusCode::OK,
        Some(_) => return problem(409, "conflict", "the path holds other bytes", None),
    };
    let hash = if manner == Manner::WrongReceipt { sha256(b"something else") } else { sha256(&bytes) };
    let receipt = serde_json::json!({
        "file_id": "00112233445566778899aabbccddeeff", "cohort": "c5", "size": bytes.len(), "sha256": hash,
        "etag": format!("\"{hash}\""), "ledger_index": 3, "stored_at": "2026-01-01T00:00:00Z",
    });
    files.insert(name, bytes);
    Response::builder().status(status).body(Full::new(receipt.to_string().into())).unwrap()
}

fn listing(query: Option<&str>, files: &BTreeMap<String, Vec<u8>>) -> Response<Full<Bytes>> {
    let start: usize =
        query.and_then(|query| query.strip_prefix("cursor=")).map_or(0, |text| text.parse().unwrap());
    let page: Vec<_> = files
        .iter()
        .skip(start)
        .take(PAGE)
        .map(|(path, bytes)| {
            let hash = sha256(bytes);
            serde_json::json!({
                "file_id": "00112233445566778899aabbccddeeff", "cohort": "c5", "path": path, "size": bytes.len(),
                "sha256": hash, "etag": format!("\"{hash}\""), "created_at": "2026-01-01T00:00:00Z",
                "ledger_index": 3,
            })
        })
        .collect();
    let next = (start + PAGE < files.len()).then(|| (start + PAGE).to_string());
    let body = serde_json::json!({ "files": page, "next_cursor": next });
    Response::new(Full::new(body.to_string().into()))
}

fn problem(status: u16, name: &str, detail: &str, retry_after: Option<u64>) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "type": format!("urn:culvert:problem:{name}"), "title": "t", "status": status, "detail": detail,
    });
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/problem+json")
        .header("request-id", "0190-test");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(Full::new(body.to_string().into())).unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> ContentDigest {
    ContentDigest::from_bytes(Sha256::digest(bytes).into())
}
