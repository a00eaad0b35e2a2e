//! `/metrics`, `/healthz`, `/readyz`: a small HTTP server on a private listener.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::sync::Semaphore;

use crate::readiness::Readiness;

/// Scrapes at once; a scraper needs one.
const MAX_CONNECTIONS: usize = 16;
/// A scraper sends its head at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection serves this long at most.
const CONNECTION_TIME: Duration = Duration::from_secs(120);
/// Longer heads are no scrape.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// Called before each gathering of metrics.
pub type Hook = Box<dyn Fn() + Send + Sync>;

struct Shared {
    registry: Registry,
    readiness: Readiness,
    hooks: Vec<Hook>,
}

/// Serves until the runtime ends. `listener` must not block.
pub async fn serve(
    listener: std::net::TcpListener,
    registry: Registry,
    readiness: Readiness,
    hooks: Vec<Hook>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let shared = Arc::new(Shared { registry, readiness, hooks });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept on the status listener");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(&request)) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that goes away is none of our trouble.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
        });
    }
}

impl Shared {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" | "/-/healthy" => text(StatusCode::OK, "alive\n".into()),
            "/readyz" | "/-/ready" => self.ready(request.uri().query() == Some("verbose")),
            _ => text(StatusCode::NOT_FOUND, "/metrics /healthz /readyz\n".into()),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.hooks.iter().for_each(|hook| hook());
        let encoder = TextEncoder::new();
        let mut body = Vec::new();
        if let Err(error) = encoder.encode(&self.registry.gather(), &mut body) {
            tracing::error!(%error, "encode metrics");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded\n".into());
        }
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let kind = HeaderValue::from_str(encoder.format_type())
            .unwrap_or_else(|_| HeaderValue::from_static("text/plain; version=0.0.4"));
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let conditions = self.readiness.describe();
        let ready = conditions.iter().all(|(_, holds)| *holds);
        let mut body = String::from(if ready { "ready\n" } else { "not ready\n" });
        if verbose {
            for (name, holds) in conditions {
                body.push_str(&format!("{} {name}\n", if holds { "yes" } else { "no " }));
            }
        }
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(shared: &Shared, path: &str) -> (StatusCode, String) {
        let response = shared.answer(&Request::get(path).body(()).unwrap());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_conditions() {
        let readiness = Readiness::new();
        let tunnel = readiness.condition("tunnel", false);
        let registry = Registry::new();
        crate::metrics::build_info(&registry, "test").unwrap();
        let shared = Shared { registry, readiness, hooks: Vec::new() };
        assert_eq!(ask(&shared, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask(&shared, "/healthz").await.0, StatusCode::OK);
        tunnel.set(true);
        assert_eq!(ask(&shared, "/-/ready").await.0, StatusCode::OK);
        assert!(ask(&shared, "/readyz?verbose").await.1.contains("yes tunnel"));
        assert!(ask(&shared, "/metrics").await.1.contains("test_build_info{"));
        assert_eq!(ask(&shared, "/etc").await.0, StatusCode::NOT_FOUND);
    }
}
