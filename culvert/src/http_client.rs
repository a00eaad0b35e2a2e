//! One request to an edge, over one connection of its own.
//!
//! Invariant: nothing that a server sends is collected without a bound, and nothing waits for ever.

mod patient_stream;
mod tls;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use store_proto::Token;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::failure::Failure;
use crate::limits::{CONNECT_TIMEOUT, WATCH_EVERY};
use crate::problem::{PROBLEM_BYTES_AT_MOST, ServerProblem};
use crate::target::Server;
use patient_stream::PatientStream;

const USER_AGENT: &str = concat!("culvert/", env!("CARGO_PKG_VERSION"));

/// Bytes moved so far, in either direction; what moves it and what watches it share it.
pub(crate) type Moved = Arc<AtomicU64>;

/// A runtime for one command: one thread, for one connection.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("start the runtime: {error}")))
}

/// Runs a transfer until it ends or the user presses Ctrl-C; dropping it cleans up what it began.
pub(crate) async fn unless_interrupted<T>(
    transfer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        outcome = transfer => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
    }
}

/// As whom a request is made.
pub(crate) enum Credential {
    /// A token in its head.
    Token(Token),
    /// The certificate that the handshake shows; the head says nothing.
    Certificate,
}

/// The head that every request has; the caller adds its own headers and the body.
pub(crate) fn request(
    method: http::Method,
    server: &Server,
    credential: &Credential,
    resource: &str,
) -> http::request::Builder {
    let builder = Request::builder()
        .method(method)
        .uri(resource)
        .header(http::header::HOST, &server.authority)
        .header(http::header::USER_AGENT, USER_AGENT);
    let token = match credential {
        Credential::Token(token) => token,
        Credential::Certificate => return builder,
    };
    match HeaderValue::from_str(&format!("Bearer {}", token.expose())) {
        Ok(mut value) => {
            value.set_sensitive(true);
            builder.header(http::header::AUTHORIZATION, value)
        }
        // A token is base64url, which every header may hold; the builder would report it otherwise.
        Err(_) => builder.header(http::header::AUTHORIZATION, "\n"),
    }
}

/// Reads the authorities that are trusted from here on, for a process that opens no file later.
pub(crate) fn read_authorities(ca_file: Option<&std::path::Path>) -> Result<(), Failure> {
    tls::config(ca_file, None).map(drop)
}

/// A connection, encrypted or not.
pub(crate) trait Line: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Line for S {}

/// Connects, for those who do not speak HTTP.
pub(crate) async fn open(server: &Server) -> Result<Box<dyn Line>, Failure> {
    let late = |_| Failure::cannot_tell(format!("server {}: no connection in time", server.authority));
    let connect = TcpStream::connect((server.host.as_str(), server.port));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(late)?;
    let stream =
        stream.map_err(|error| Failure::cannot_tell(format!("server {}: {error}", server.authority)))?;
    if !server.tls {
        return Ok(Box::new(stream));
    }
    let trusted = tls::config(server.ca_file.as_deref(), None)?;
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, tls::connect(server, trusted, stream));
    Ok(Box::new(stream.await.map_err(late)??))
}

/// Connects, sends, and waits for the head of the answer.
pub(crate) async fn send<B>(server: &Server, request: Request<B>) -> Result<Response<Incoming>, Failure>
where
    B: Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
{
    let unreachable =
        |what: &dyn std::fmt::Display| Failure::cannot_tell(format!("server {}: {what}", server.authority));
    // Before anybody is asked: a file that cannot be read is a mistake on this side.
    let trusted = if server.tls {
        Some(tls::config(server.ca_file.as_deref(), server.certificate.as_ref())?)
    } else {
        None
    };
    let connect = TcpStream::connect((server.host.as_str(), server.port));
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
    };
    // Heads and small documents should not wait for company. Failing to say so costs speed only.
    let _ = stream.set_nodelay(true);
    let stream = PatientStream::new(stream);
    let Some(trusted) = trusted else { return exchange(server, stream, request).await };
    match tokio::time::timeout(CONNECT_TIMEOUT, tls::connect(server, trusted, stream)).await {
        Ok(stream) => exchange(server, stream?, request).await,
        Err(_) => Err(unreachable(&format!("no TLS within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

async fn exchange<S, B>(
    server: &Server,
    stream: S,
    request: Request<B>,
) -> Result<Response<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
{
    let unreachable =
        |error: hyper::Error| Failure::cannot_tell(format!("server {}: {}", server.authority, chain(&error)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(unreachable)
}

/// An error and its causes in one line; hyper's own text alone rarely says enough.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Passes a success on; reads anything else as a problem.
pub(crate) async fn expect_success(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    // A body that breaks off still leaves the status, which says most of it.
    let body = collect(body, PROBLEM_BYTES_AT_MOST).await.unwrap_or_default();
    Err(Failure::problem(ServerProblem::from_answer(head.status.as_u16(), &head.headers, &body)))
}

/// Reads a JSON document of bounded length.
pub(crate) async fn json<T: serde::de::DeserializeOwned>(
    body: Incoming,
    bytes_at_most: usize,
) -> Result<T, Failure> {
    let bytes = collect(body, bytes_at_most).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::failed(format!(
            "the server's answer is not what this version of culvert understands: {error}"
        ))
    })
}

async fn collect(body: Incoming, bytes_at_most: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, bytes_at_most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(Failure::cannot_tell(format!("the server's answer broke off: {error}"))),
    }
}

/// Waits for `work`, gives `tick` the bytes moved so far now and then, and gives up when nothing moved for
/// `patience`.
pub(crate) async fn watched<T>(
    work: impl Future<Output = Result<T, Failure>>,
    moved: &Moved,
    patience: Duration,
    mut tick: impl FnMut(u64),
) -> Result<T, Failure> {
    let clock = daemon::Clock;
    let mut work = std::pin::pin!(work);
    let mut interval = tokio::time::interval(WATCH_EVERY);
    let (mut seen, mut seen_at) = (moved.load(Ordering::Relaxed), clock.now());
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = interval.tick() => {
                let now = clock.now();
                let bytes = moved.load(Ordering::Relaxed);
                tick(bytes);
                if bytes != seen {
                    (seen, seen_at) = (bytes, now);
                } else if now.duration_since(seen_at) >= patience {
                    let message = format!("nothing moved for {} s (--stall-timeout)", patience.as_secs());
                    return Err(Failure::cannot_tell(message));
                }
            }
        }
    }
}
