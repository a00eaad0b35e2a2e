//! The configuration socket of userspace WireGuards, as `wg`, wgctrl-go and defguard use it.
//!
//! Invariant: one connection carries any number of operations and waits in a task of its own; a `set` is
//! answered in one write of at most 32 bytes (wgctrl-go reads once); connections that ask nothing, as `wg` opens
//! before each operation, leave no trace.
use super::Control;
use crate::limits;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use wg_proto::uapi::{Operation, errno, parse_set, render_get, render_get_failure, render_set_answer};
use zeroize::Zeroizing;

/// Serves until the runtime ends.
pub(super) async fn serve(listener: UnixListener, control: Arc<Control>) {
    let places = Arc::new(Semaphore::new(limits::UAPI_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = converse(stream, &control).await {
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

async fn converse(stream: UnixStream, control: &Control) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let first = tokio::time::timeout(limits::UAPI_IDLE_TIME, read_line(&mut reader)).await;
        // Silence for a while, the end, or something that is no operation: close.
        let Ok(Some(line)) = first.unwrap_or(Ok(None)) else { return Ok(()) };
        let Some(operation) = Operation::parse(&line) else { return Ok(()) };
        let body = tokio::time::timeout(limits::UAPI_REQUEST_TIME, read_body(&mut reader)).await;
        let body = body.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match operation {
            Operation::Get => {
                let answer = get(control, body.is_ok()).await;
                writer.write_all(answer.as_bytes()).await?;
            }
            Operation::Set => {
                let number = set(control, body.as_deref().map(String::as_str)).await;
                writer.write_all(render_set_answer(number).as_bytes()).await?;
            }
        }
        // After a broken request nothing tells where the next one begins.
        body?;
    }
}

async fn get(control: &Control, body_is_good: bool) -> Zeroizing<String> {
    let state = if body_is_good { control.state().await.ok() } else { None };
    control.metrics.uapi("get", state.is_some());
    match state {
        Some(state) => render_get(&state, &control.epoch),
        None => Zeroizing::new(render_get_failure(errno::EIO)),
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

/// One line without its end; `None` at the end of the stream.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Zeroizing<String>>> {
    let mut line = Zeroizing::new(String::new());
    let longest = limits::UAPI_LINE_BYTES as u64;
    if reader.take(longest).read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    if line.pop() != Some('\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long or cut off"));
    }
    Ok(Some(line))
}

/// The lines up to the empty one.
async fn read_body(reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Zeroizing<String>> {
    let mut body = Zeroizing::new(String::new());
    loop {
        let line = read_line(reader).await?;
        let line = line.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if line.is_empty() {
            return Ok(body);
        }
        if body.len() + line.len() >= limits::UAPI_REQUEST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
        }
        body.push_str(&line);
        body.push('\n');
    }
}

#[cfg(test)]
mod tests;
