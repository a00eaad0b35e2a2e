//! The configuration socket of userspace WireGuards, as `wg`, wgctrl-go and defguard use it.
//!
//! Invariant: one connection carries any number of operations and waits in a task of its own; a `set` is
//! answered in one write of at most 32 bytes (wgctrl-go reads once); connections that ask nothing, as `wg` opens
//! before each operation, leave no trace.
mod places;
mod requests;

use super::Control;
use crate::limits;
use places::{Place, Places};
use requests::Requests;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use wg_proto::uapi::{Operation, errno, parse_set, render_get, render_get_failure, render_set_answer};
use zeroize::Zeroizing;

/// Serves until the runtime ends.
pub(super) async fn serve(listener: UnixListener, control: Arc<Control>) {
    let places = Places::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The semaphore is never closed.
                let Some(place) = places.take().await else { return };
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &place, &control, limits::UAPI_IDLE_TIME).await {
                        tracing::debug!(%error, "configuration connection");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept on the configuration socket");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves the one connection that was handed in, for as long as it lasts: there will be no other.
pub(super) async fn serve_connection(stream: UnixStream, control: Arc<Control>) {
    let Some(place) = Places::new().take().await else { return };
    let ended = converse(stream, &place, &control, Duration::MAX).await;
    tracing::info!(error = ?ended.err(), "the configuration connection that was handed in has ended");
}

async fn converse(stream: UnixStream, place: &Place, control: &Control, idle: Duration) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut requests = Requests::new(reader);
    loop {
        let first = place.wait(timeout(idle, requests.line())).await;
        // Silence for a while, the end, or something that is no operation: close.
        let Some(Ok(Ok(Some(line)))) = first else { return Ok(()) };
        let Some(operation) = std::str::from_utf8(line).ok().and_then(Operation::parse) else {
            return Ok(());
        };
        let body = place.wait(timeout(limits::UAPI_REQUEST_TIME, requests.body())).await;
        let body = body.unwrap_or(Ok(Err(io::ErrorKind::ConnectionAborted.into())));
        let body = body.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match operation {
            Operation::Get => {
                let answer = get(control, body.as_deref().map(String::as_str)).await;
                answered(writer.write_all(answer.as_bytes())).await?;
            }
            Operation::Set => {
                let number = set(control, body.as_deref().map(String::as_str)).await;
                answered(writer.write_all(render_set_answer(number).as_bytes())).await?;
            }
        }
        // After a broken request nothing tells where the next one begins.
        body?;
    }
}

/// A client that does not read its answer is gone.
async fn answered(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(limits::UAPI_REQUEST_TIME, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn get(control: &Control, body: Result<&str, &io::Error>) -> Zeroizing<String> {
    let state = match body {
        // Nothing belongs between the operation and the empty line.
        Ok(body) if !body.is_empty() => Err(errno::EINVAL),
        Ok(_) => control.state().await.map_err(|_| errno::EIO),
        Err(_) => Err(errno::EIO),
    };
    control.metrics.uapi("get", state.is_ok());
    match state {
        Ok(state) => render_get(&state, &control.epoch),
        Err(number) => Zeroizing::new(render_get_failure(number)),
    }
}

async fn set(control: &Control, body: Result<&str, &io::Error>) -> i32 {
    let result = match body {
        Ok(body) => match parse_set(body) {
            Ok(update) => control.apply(update).await.map_err(|error| (error.errno(), error.to_string())),
            Err(error) => Err((error.errno, error.to_string())),
        },
        Err(error) => Err((errno::EIO, error.to_string())),
    };
    control.metrics.uapi("set", result.is_ok());
    match result {
        Ok(()) => 0,
        Err((number, error)) => {
            tracing::info!(error, "configuration request refused");
            number
        }
    }
}

#[cfg(test)]
mod tests;
