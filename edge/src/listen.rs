//! The public listener: accepts while there are places, serves each connection in a task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::raw_refusal;
use crate::client_stream::ClientStream;
use crate::limits::{FRAME_BYTES, HEAD_BYTES, HEAD_FIELDS};
use crate::refusal::Refusal;
use crate::request::{Edge, new_request_id};

/// After an `accept` that failed for want of descriptors or memory; trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the drain begins. More clients than places wait in the kernel's queue.
pub async fn serve(edge: Arc<Edge>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(edge.live.load().limits.max_connections));
    loop {
        let accepted = tokio::select! {
            () = edge.drain.begun() => return Ok(()),
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, client, place)) => {
                edge.metrics.connections_accepted.inc();
                tokio::spawn(converse(Arc::clone(&edge), stream, client, place));
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, client) = listener.accept().await?;
    Ok((stream, client, place))
}

async fn converse(edge: Arc<Edge>, stream: TcpStream, client: SocketAddr, place: OwnedSemaphorePermit) {
    let _place = place;
    let _running = edge.drain.guard();
    edge.metrics.connections_active.inc();
    let limits = edge.live.load().limits;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let served = Arc::new(AtomicBool::new(false));
    let refusing = Arc::clone(&edge);
    let own_refusal = move |status| {
        let refusal = match status {
            414 | 431 => Refusal::HeadTooLarge { limit: HEAD_BYTES },
            _ => Refusal::Head,
        };
        refusing.metrics.rejected.with_label_values(&[refusal.reason().label()]).inc();
        raw_refusal(&refusal, &new_request_id(), refusing.role)
    };
    let stream = ClientStream::new(stream, Arc::clone(&served), Box::new(own_refusal), limits.idle_timeout);
    let address = client.ip().to_canonical();
    let answering = Arc::clone(&edge);
    let service = service_fn(move |request| {
        served.store(true, Ordering::Release);
        let edge = Arc::clone(&answering);
        async move { Ok::<_, std::convert::Infallible>(edge.answer(address, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .max_buf_size(FRAME_BYTES)
        // A client that has sent all it wants may close its half and still read the answer.
        .half_close(true);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = edge.drain.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "client connection ended");
    }
    edge.metrics.connections_active.dec();
}
