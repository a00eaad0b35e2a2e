//! The calling side of the admin socket, blocking: for the command line.

use std::io::{self, BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::AdminError;

/// A daemon that says nothing for this long hangs.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The socket cannot be reached: the daemon is not running, or we may not.
    #[error("admin socket {}: {error}", path.display())]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The conversation broke off.
    #[error("admin socket: {0}")]
    Broken(#[from] io::Error),
    /// The answer is not understood.
    #[error("admin socket: the answer is not understood: {0}")]
    Malformed(String),
    /// The daemon refused.
    #[error("{}", .0.message)]
    Refused(AdminError),
}

/// Calls `verb` on the daemon at `socket`, handing `descriptors` over; items go to `on_item` as they come.
pub fn call(
    socket: &Path,
    verb: &str,
    args: Value,
    descriptors: &[BorrowedFd<'_>],
    mut on_item: impl FnMut(Value),
) -> Result<Value, CallError> {
    converse(socket, verb, args, descriptors, |item| {
        on_item(item);
        ControlFlow::Continue(())
    })
}

/// As [`call`], for an answer that goes on until the daemon ends it or `on_item` has enough: then it is `null`.
pub fn follow(
    socket: &Path,
    verb: &str,
    args: Value,
    on_item: impl FnMut(Value) -> ControlFlow<()>,
) -> Result<Value, CallError> {
    converse(socket, verb, args, &[], on_item)
}

fn converse(
    socket: &Path,
    verb: &str,
    args: Value,
    descriptors: &[BorrowedFd<'_>],
    mut on_item: impl FnMut(Value) -> ControlFlow<()>,
) -> Result<Value, CallError> {
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| CallError::Connect { path: socket.to_path_buf(), error })?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let mut line = json!({ "verb": verb, "args": args }).to_string().into_bytes();
    line.push(b'\n');
    let sent = linux::descriptors::send_with_descriptors(stream.as_fd(), &line, descriptors)?;
    stream.write_all(&line[sent..])?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let mut answer: Value =
            serde_json::from_str(&line).map_err(|error| CallError::Malformed(error.to_string()))?;
        if let Some(item) = answer.get_mut("item") {
            if on_item(item.take()).is_break() {
                return Ok(Value::Null);
            }
        } else if let Some(done) = answer.get_mut("done") {
            return Ok(done.take());
        } else if let Some(error) = answer.get_mut("error") {
            let error = serde_json::from_value(error.take());
            return Err(error.map_or_else(|e| CallError::Malformed(e.to_string()), CallError::Refused));
        } else {
            return Err(CallError::Malformed("neither item, done nor error".into()));
        }
    }
    Err(CallError::Broken(io::ErrorKind::UnexpectedEof.into()))
}
