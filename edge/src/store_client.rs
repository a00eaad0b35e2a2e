//! HTTP/1.1 towards storaged over pooled connections.
//!
//! Each connection belongs to a task of its own and to a *generation*: when the circuit opens, the
//! generation ends, and with it every connection and whatever was in flight on it, at once.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use daemon::Clock;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::circuit::Signs;
use crate::limits::{
    ANSWER_BYTES, CONNECT_TIMEOUT, FRAME_BYTES, POOLED_CONNECTIONS, POOLED_IDLE, TCP_USER_TIMEOUT,
};
use crate::metrics::{UpstreamFailure, UpstreamMetrics};
use crate::stream::Outgoing;

mod heard;
use heard::Heard;

/// The way to storaged.
#[derive(Debug)]
pub struct StoreClient {
    address: SocketAddr,
    /// Most recently used last; the oldest fall out in front.
    idle: Mutex<VecDeque<Idle>>,
    generation: watch::Sender<u64>,
    heard: Arc<AtomicU64>,
    answered: AtomicU64,
    clock: Clock,
    metrics: UpstreamMetrics,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Outgoing>,
    since: Instant,
    generation: u64,
}

/// Why storaged gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection could be made.
    #[error("connect to storaged: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke, or the circuit opened.
    #[error("connection to storaged: {0}")]
    Broken(#[source] hyper::Error),
    /// The answer is larger than edge collects, or broke off.
    #[error("storaged's answer could not be read")]
    Answer,
}

impl StoreError {
    /// As it is counted.
    pub fn failure(&self) -> UpstreamFailure {
        match self {
            StoreError::Connect(_) => UpstreamFailure::Connect,
            StoreError::Broken(_) => UpstreamFailure::Broken,
            StoreError::Answer => UpstreamFailure::Answer,
        }
    }
}

impl StoreClient {
    /// A client without connections.
    pub fn new(address: SocketAddr, metrics: UpstreamMetrics) -> Arc<StoreClient> {
        Arc::new(StoreClient {
            address,
            idle: Mutex::default(),
            generation: watch::Sender::new(0),
            heard: Arc::default(),
            answered: AtomicU64::new(0),
            clock: Clock,
            metrics,
        })
    }

    /// storaged's address; also the `Host` header.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The proofs of life so far.
    pub fn signs(&self) -> Signs {
        Signs { heard: self.heard.load(Ordering::Relaxed), answered: self.answered.load(Ordering::Relaxed) }
    }

    /// A health request was answered completely.
    pub fn note_answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Grows each time that the circuit opens.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Ends all connections and whatever is in flight on them.
    pub fn abort_all(&self) {
        self.generation.send_modify(|generation| *generation += 1);
        self.idle().clear();
        self.count_idle();
    }

    /// Sends a request. A pooled connection that turns out to be dead before the request was
    /// started costs another try; a request of which a byte may have left is never repeated.
    pub async fn send(self: &Arc<Self>, mut request: Request<Outgoing>) -> Result<Exchange, StoreError> {
        loop {
            let (mut lease, pooled) = match self.checkout() {
                Some(lease) => (lease, true),
                None => (self.connect().await.map_err(StoreError::Connect)?, false),
            };
            match lease.sender()?.try_send_request(request).await {
                Ok(response) => return Ok(Exchange { response, lease }),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if pooled => request = unsent,
                    Some(_) | None => return Err(StoreError::Broken(error.into_error())),
                },
            }
        }
    }

    fn checkout(self: &Arc<Self>) -> Option<Lease> {
        let now = self.clock.now();
        let current = *self.generation.borrow();
        let found = {
            let mut idle = self.idle();
            std::iter::from_fn(|| idle.pop_back()).find(|idle| {
                idle.generation == current
                    && idle.sender.is_ready()
                    && now.saturating_duration_since(idle.since) < POOLED_IDLE
            })
        };
        self.count_idle();
        let Idle { sender, generation, .. } = found?;
        Some(Lease::new(self, sender, generation))
    }

    async fn connect(self: &Arc<Self>) -> io::Result<Lease> {
        let mut generation = self.generation.subscribe();
        let current = *generation.borrow_and_update();
        let stream = tokio::select! {
            opened = timeout(CONNECT_TIMEOUT, open(self.address)) => opened??,
            // The circuit opened: whoever waits for this connection is refused at once.
            _ = generation.changed() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let io = TokioIo::new(Heard::new(stream, Arc::clone(&self.heard)));
        let handshake = http1::Builder::new().max_buf_size(FRAME_BYTES).handshake(io).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "connection to storaged ended");
                },
                // Dropping the connection closes its socket and fails what is in flight.
                _ = generation.changed() => {}
            }
        });
        Ok(Lease::new(self, sender, current))
    }

    fn checkin(&self, sender: SendRequest<Outgoing>, generation: u64) {
        if generation == *self.generation.borrow() && !sender.is_closed() {
            let mut idle = self.idle();
            if idle.len() >= POOLED_CONNECTIONS {
                idle.pop_front();
            }
            idle.push_back(Idle { sender, since: self.clock.now(), generation });
        }
        self.count_idle();
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // A panic while it was held can only have lost connections.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_idle(&self) {
        let idle = i64::try_from(self.idle().len()).unwrap_or(i64::MAX);
        self.metrics.idle.set(idle);
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    socket.connect(address).await
}

/// A connection in use. Dropped, it is closed; only a finished exchange gives it back.
#[derive(Debug)]
pub struct Lease {
    client: Arc<StoreClient>,
    sender: Option<SendRequest<Outgoing>>,
    generation: u64,
}

impl Lease {
    fn new(client: &Arc<StoreClient>, sender: SendRequest<Outgoing>, generation: u64) -> Lease {
        client.metrics.busy.inc();
        Lease { client: Arc::clone(client), sender: Some(sender), generation }
    }

    fn sender(&mut self) -> Result<&mut SendRequest<Outgoing>, StoreError> {
        self.sender.as_mut().ok_or(StoreError::Answer) // taken only by `give_back`, which consumes
    }

    /// The answer's last byte was read: the connection can serve again.
    pub fn give_back(mut self) {
        let Some(mut sender) = self.sender.take() else { return };
        let (client, generation) = (Arc::clone(&self.client), self.generation);
        if sender.is_ready() {
            client.checkin(sender, generation);
            return;
        }
        // The connection's task has yet to notice the end; it does at its next turn.
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                client.checkin(sender, generation);
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.client.metrics.busy.dec();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Exchange {
    /// storaged's answer.
    pub response: Response<Incoming>,
    lease: Lease,
}

/// An answer collected as a whole: small by contract, bounded in any case.
#[derive(Debug)]
pub struct Collected {
    /// Status and headers.
    pub head: http::response::Parts,
    /// The body.
    pub body: Bytes,
    lease: Lease,
}

impl Exchange {
    /// Reads the whole answer, which must be small.
    pub async fn collect(self) -> Result<Collected, StoreError> {
        self.collect_up_to(ANSWER_BYTES).await
    }

    /// Reads the whole answer, of so many bytes at most.
    pub async fn collect_up_to(self, bytes: usize) -> Result<Collected, StoreError> {
        let (head, body) = self.response.into_parts();
        let body = Limited::new(body, bytes).collect().await.map_err(|_| StoreError::Answer)?;
        Ok(Collected { head, body: body.to_bytes(), lease: self.lease })
    }

    /// The answer's head, its body, and the lease to give back after the last byte.
    pub fn into_parts(self) -> (http::response::Parts, Incoming, Lease) {
        let (head, body) = self.response.into_parts();
        (head, body, self.lease)
    }
}

impl Collected {
    /// Gives the connection back and waits until it can serve again: the upload that follows a
    /// permission then goes down a connection that was alive a moment ago.
    pub async fn settle(self) {
        let mut lease = self.lease;
        if let Some(sender) = &mut lease.sender
            && sender.ready().await.is_ok()
        {
            lease.give_back();
        }
    }
}
