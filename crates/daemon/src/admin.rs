//! The admin socket: how `culvert` on the same host talks to a running daemon.
//!
//! One request a connection. The request is one JSON line, `{"verb": …, "args": …}`, and may bring open
//! descriptors on its first byte: a sealed daemon cannot open files, so a reload carries them in. The answer
//! is JSON lines: any number of `{"item": …}`, then one `{"done": …}` or `{"error": {"code", "message"}}`.
//! The kernel says who calls (`SO_PEERCRED`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufWriter, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

mod client;

pub use client::{CallError, call, follow};

/// The longest request line.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Operators at once.
const MAX_CONNECTIONS: usize = 16;
/// A request arrives within this time.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// A reader that takes nothing for this long is gone.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// Who calls, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: i32,
}

/// Why a request was refused: `code` for programs, `message` for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminError {
    /// Stable and short, such as `unknown-verb`.
    pub code: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl AdminError {
    /// Puts an error together.
    pub fn new(code: &str, message: impl std::fmt::Display) -> Self {
        Self { code: code.to_owned(), message: message.to_string() }
    }

    /// The verb is not one of this daemon's.
    pub fn unknown_verb(verb: &str) -> Self {
        Self::new("unknown-verb", format!("this daemon does not know {verb:?}"))
    }
}

/// What a daemon answers.
pub trait Handler: Send + Sync + 'static {
    /// Carries out `verb`. Items go through `out`, the result is the last line.
    fn handle<'a>(
        &'a self,
        caller: Caller,
        verb: &'a str,
        args: Value,
        descriptors: Vec<OwnedFd>,
        out: &'a mut Replies,
    ) -> BoxFuture<'a, Result<Value, AdminError>>;

    /// Somebody called who may not use the socket; they are refused whatever this does.
    fn refused(&self, caller: Caller) -> BoxFuture<'_, ()> {
        tracing::warn!(uid = caller.uid, "refused on the admin socket");
        Box::pin(async {})
    }
}

/// The way back to the caller.
#[derive(Debug)]
pub struct Replies {
    stream: BufWriter<UnixStream>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    verb: String,
    #[serde(default)]
    args: Value,
}

/// Serves until the runtime ends. Only `allowed_uids` (and root) are heard.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    allowed_uids: Vec<u32>,
    handler: Arc<dyn Handler>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept on the admin socket");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        let allowed = allowed_uids.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = converse(stream, &allowed, handler.as_ref()).await {
                tracing::debug!(%error, "admin connection");
            }
        });
    }
}

async fn converse(stream: UnixStream, allowed_uids: &[u32], handler: &dyn Handler) -> io::Result<()> {
    let caller = caller(&stream)?;
    if caller.uid != 0 && !allowed_uids.contains(&caller.uid) {
        handler.refused(caller).await;
        let refusal = AdminError::new("forbidden", format!("user {} may not use this socket", caller.uid));
        return Replies::new(stream).finish(Err(refusal)).await;
    }
    let (line, descriptors) = match tokio::time::timeout(REQUEST_TIME, read_request(&stream)).await {
        Ok(read) => read?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let mut replies = Replies::new(stream);
    let result = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => {
            tracing::info!(verb = %request.verb, uid = caller.uid, "admin request");
            #[cfg(feature = "probe")]
            if let Some(result) = crate::probe::attempt(&request.verb, &request.args).await {
                return replies.finish(result).await;
            }
            handler.handle(caller, &request.verb, request.args, descriptors, &mut replies).await
        }
        Err(error) => Err(AdminError::new("malformed", format!("the request is not understood: {error}"))),
    };
    replies.finish(result).await
}

fn caller(stream: &UnixStream) -> io::Result<Caller> {
    let ids = getsockopt(stream, PeerCredentials)?;
    Ok(Caller { uid: ids.uid(), gid: ids.gid(), pid: ids.pid() })
}

/// Reads up to the newline; descriptors may come with any part before it.
async fn read_request(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        stream.readable().await?;
        let read = stream.try_io(Interest::READABLE, || {
            linux::descriptors::receive_with_descriptors(stream.as_fd(), &mut buffer)
        });
        let (length, more) = match read {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        descriptors.extend(more);
        if descriptors.len() > linux::descriptors::MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&buffer[..length]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok((line, descriptors));
        }
        if line.len() > MAX_REQUEST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
        }
    }
}

impl Replies {
    fn new(stream: UnixStream) -> Self {
        Self { stream: BufWriter::new(stream) }
    }

    /// Sends one item. An error means that the caller is gone: stop working for it.
    pub async fn item(&mut self, item: Value) -> io::Result<()> {
        self.line(&json!({ "item": item })).await
    }

    /// Sends what has been said so far, to a caller that reads along.
    pub async fn flush(&mut self) -> io::Result<()> {
        tokio::time::timeout(WRITE_TIME, self.stream.flush()).await?
    }

    /// Returns when the caller has gone away.
    pub async fn closed(&self) {
        let stream = self.stream.get_ref();
        let mut ignored = [0; 64];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut ignored) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    async fn finish(mut self, result: Result<Value, AdminError>) -> io::Result<()> {
        let last = match result {
            Ok(value) => json!({ "done": value }),
            Err(error) => json!({ "error": error }),
        };
        self.line(&last).await?;
        tokio::time::timeout(WRITE_TIME, self.stream.flush()).await?
    }

    async fn line(&mut self, value: &Value) -> io::Result<()> {
        let mut text = value.to_string();
        text.push('\n');
        tokio::time::timeout(WRITE_TIME, self.stream.write_all(text.as_bytes())).await?
    }
}

impl AsRawFd for Replies {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.stream.get_ref().as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
