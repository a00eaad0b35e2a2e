//! The public listener: accepts while there are places, and leads each connection to its protocol in a task.
//!
//! What a connection passes, in this order: a place among all, a balancer's word for whose it is, a place among
//! its address's, the TLS handshake, HTTP. Each step has its time, and none has been paid for by the next.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daemon::notify::Heartbeat;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use store_proto::ClientChain;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::answer::raw_refusal;
use crate::census::{Census, Counted};
use crate::client_stream::ClientStream;
use crate::config::Limits;
use crate::limits::{
    CROWDED_FRAME_BYTES, FRAME_BYTES, H2_CONNECTIONS, H2_FAULTS, H2_FRAME_BYTES, H2_PENDING_RESETS, H2_PING,
    H2_STREAMS, H2_WINDOW, HEAD_BYTES, HEAD_FIELDS, LARGE_FRAMES, LINGER_TIME, PROXY_HEADER_TIME,
};
use crate::metrics::{Closed, Handshake};
use crate::proxy_header;
use crate::refusal::Refusal;
use crate::request::{Edge, new_request_id};
use crate::streams::{Noted, Streams};
use crate::tls::{H2, Tls};
use crate::transport::Transport;

/// After an `accept` that failed for want of descriptors or memory; trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
#[derive(Clone)]
struct Shared {
    edge: Arc<Edge>,
    census: Census,
    /// Places for HTTP/2 connections, whose windows are memory.
    windows: Arc<Semaphore>,
}

/// Accepts until the drain begins. More clients than places wait in the kernel's queue. The watchdog hears of it for as
/// long as this loop turns.
pub async fn serve(
    edge: Arc<Edge>,
    listener: std::net::TcpListener,
    mut heartbeat: Heartbeat,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(edge.live.load().limits.max_connections));
    let windows = Arc::new(Semaphore::new(H2_CONNECTIONS));
    let shared = Shared { edge, census: Census::default(), windows };
    loop {
        let accepted = tokio::select! {
            () = shared.edge.drain.begun() => return Ok(()),
            () = heartbeat.beat() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, client, place)) => {
                shared.edge.metrics.connections_accepted.inc();
                tokio::spawn(shared.clone().converse(stream, client, place));
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

/// A connection that is ready for HTTP.
struct Ready {
    transport: Transport,
    client: IpAddr,
    /// What it proved in its handshake.
    certificate: Option<Arc<ClientChain>>,
    _counted: Counted,
    /// Of HTTP/2.
    window: Option<OwnedSemaphorePermit>,
}

impl Shared {
    async fn converse(self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let _place = place;
        let _running = self.edge.drain.guard();
        self.edge.metrics.connections_active.inc();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let ready = tokio::select! {
            ready = self.prepare(stream, peer.ip().to_canonical()) => ready,
            () = self.edge.drain.begun() => None,
        };
        let limits = self.edge.live.load().limits;
        let ended = match ready {
            None => Ok(()),
            Some(ready) if ready.window.is_some() => self.http2(ready, &limits).await,
            Some(ready) => self.http1(ready, &limits).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "client connection ended");
        }
        self.edge.metrics.connections_active.dec();
    }

    /// All that comes before HTTP; `None`: the connection is to be closed.
    async fn prepare(&self, mut stream: TcpStream, peer: IpAddr) -> Option<Ready> {
        let live = self.edge.live.load_full();
        let client = self.client(&mut stream, peer).await?;
        let Some(counted) = self.census.enter(client, live.limits.max_connections_per_address) else {
            self.edge.metrics.closed(Closed::Address);
            return None;
        };
        let (transport, window) = match &live.tls {
            None => (Transport::Plain(stream), None),
            Some(tls) => self.handshake(stream, tls, live.limits.header_timeout).await?,
        };
        let certificate = transport.client_chain();
        let certificate = certificate.map_err(|error| tracing::debug!(%error, "client certificate")).ok()?;
        Some(Ready { transport, client, certificate: certificate.map(Arc::new), _counted: counted, window })
    }

    /// Whose connection it is.
    async fn client(&self, stream: &mut TcpStream, peer: IpAddr) -> Option<IpAddr> {
        if !self.edge.proxies.iter().any(|network| network.contains(&peer)) {
            return Some(peer);
        }
        match tokio::time::timeout(PROXY_HEADER_TIME, proxy_header::read(stream)).await {
            Ok(Ok(source)) => Some(source.unwrap_or(peer)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "PROXY header");
                self.edge.metrics.closed(Closed::Proxy);
                None
            }
            Err(_) => {
                self.edge.metrics.closed(Closed::Proxy);
                None
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        tls: &Tls,
        longest: Duration,
    ) -> Option<(Transport, Option<OwnedSemaphorePermit>)> {
        let window = Arc::clone(&self.windows).try_acquire_owned().ok();
        let config = if window.is_some() { &tls.config } else { &tls.without_h2 };
        let accepting = TlsAcceptor::from(Arc::clone(config)).accept(stream);
        let (how, stream) = match tokio::time::timeout(longest, accepting).await {
            Ok(Ok(stream)) => (Handshake::Done, Some(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::TimedOut, None),
        };
        self.edge.metrics.handshake(how);
        let stream = stream?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        Some((Transport::Tls(Box::new(stream)), window.filter(|_| is_h2)))
    }

    async fn http1(&self, ready: Ready, limits: &Limits) -> hyper::Result<()> {
        let edge = &self.edge;
        let served = Arc::new(AtomicBool::new(false));
        let refusing = Arc::clone(edge);
        let own_refusal = move |status| {
            let refusal = match status {
                414 | 431 => Refusal::HeadTooLarge { limit: HEAD_BYTES },
                _ => Refusal::Head,
            };
            refusing.metrics.rejected.with_label_values(&[refusal.reason().label()]).inc();
            raw_refusal(&refusal, &new_request_id(), refusing.role)
        };
        let Ready { transport, client, certificate, _counted, window: _ } = ready;
        let own_refusal = Box::new(own_refusal);
        let stream = ClientStream::http1(transport, Arc::clone(&served), own_refusal, limits.idle_timeout);
        let answering = Arc::clone(edge);
        let service = service_fn(move |mut request| {
            served.store(true, Ordering::Release);
            proven(&mut request, &certificate);
            let edge = Arc::clone(&answering);
            async move { Ok::<_, std::convert::Infallible>(edge.answer(client, request).await) }
        });
        let is_crowded = edge.metrics.connections_active.get() > LARGE_FRAMES;
        let frame_bytes = if is_crowded { CROWDED_FRAME_BYTES } else { FRAME_BYTES };
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(HEAD_BYTES)
            .max_headers(HEAD_FIELDS)
            .max_buf_size(frame_bytes)
            // A client that has sent all it wants may close its half and still read the answer.
            .half_close(true);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = edge.drain.begun() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }

    async fn http2(&self, ready: Ready, limits: &Limits) -> hyper::Result<()> {
        let edge = &self.edge;
        let Ready { transport, client, certificate, _counted, window: _window } = ready;
        let counting = edge.metrics.clone();
        let flooded = move || counting.closed(Closed::Flood);
        let stream = ClientStream::http2(transport, flooded, limits.idle_timeout);
        let answering = Arc::clone(edge);
        let service = service_fn(move |mut request| {
            proven(&mut request, &certificate);
            let edge = Arc::clone(&answering);
            async move { Ok::<_, std::convert::Infallible>(edge.answer(client, request).await.map(Noted::new)) }
        });
        let streams = Streams::new(limits.idle_timeout);
        let mut builder = http2::Builder::new(streams.clone());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            .max_frame_size(H2_FRAME_BYTES)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS)
            .max_local_error_reset_streams(H2_FAULTS)
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(H2_WINDOW)
            .max_send_buf_size(FRAME_BYTES)
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = edge.drain.begun() => {
                connection.as_mut().graceful_shutdown();
                return connection.await;
            }
            () = streams.idle(limits.header_timeout) => connection.as_mut().graceful_shutdown(),
        }
        // Told to go, with nothing under way: it goes, or is left.
        tokio::time::timeout(LINGER_TIME, connection).await.unwrap_or(Ok(()))
    }
}

/// Each request of a connection comes with what the connection proved.
fn proven<B>(request: &mut http::Request<B>, certificate: &Option<Arc<ClientChain>>) {
    if let Some(certificate) = certificate {
        request.extensions_mut().insert(Arc::clone(certificate));
    }
}
