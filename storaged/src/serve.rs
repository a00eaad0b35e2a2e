//! The internal API: HTTP/1.1 from edges, through the tunnel.
//!
//! **Invariant:** every request passes [`admission`] before its body is read, and every refusal is recorded.

pub mod admission;
pub mod answer;
pub mod capabilities;
mod cleanups;
pub mod delete;
mod derived;
pub mod download;
pub mod expiry;
mod incoming;
pub mod listing;
pub mod lockouts;
mod log;
pub mod patience;
pub mod permissions;
mod policy;
mod repeat;
pub mod routes;
pub(crate) mod stretch;
pub mod under_way;
pub mod upload;
pub mod uploads;
pub mod verdict;
pub mod writers;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use daemon::notify::Heartbeat;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::limits::{HEADER_TIMEOUT, READ_BUFFER_BYTES};
use crate::live::ConnectionEnd;
use crate::store::Store;

/// Accepts until the drain begins. The watchdog hears of it for as long as this loop turns.
pub async fn serve(listener: TcpListener, store: Arc<Store>, connections: usize, mut heartbeat: Heartbeat) {
    let places = Arc::new(Semaphore::new(connections));
    loop {
        let accepted = tokio::select! {
            () = store.drain.begun() => return,
            () = heartbeat.beat() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, source, place)) => {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    connection(stream, source, store).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, or a connection that died in the queue: the next may do.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, source) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, source.ip(), place))
}

async fn connection(stream: TcpStream, source: IpAddr, store: Arc<Store>) {
    let drain = store.drain.clone();
    // Of the connection and not of the request: an answer counts as running until it is written. Idle
    // connections are closed as soon as the drain begins, so they hold nothing up.
    let _guard = drain.guard();
    let end = ConnectionEnd::new();
    let end_of_requests = end.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let store = Arc::clone(&store);
        let end = end_of_requests.clone();
        async move { Ok::<_, Infallible>(routes::answer(request, source, &store, end).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // Whoever is shut out gets no further byte.
        () = end.told() => return,
        () = drain.begun() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = end.told() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}
