//! Calls to a daemon's admin socket, with the ends that this program has.

use std::os::fd::BorrowedFd;
use std::path::Path;

use daemon::admin::CallError;
use serde_json::Value;

use crate::console::printable;
use crate::failure::Failure;

/// Calls `verb`; an error of `on_item` ends as the command's own.
pub(crate) fn call(
    socket: &Path,
    verb: &str,
    arguments: Value,
    descriptors: &[BorrowedFd<'_>],
    mut on_item: impl FnMut(Value) -> Result<(), Failure>,
) -> Result<Value, Failure> {
    let mut first_failure = None;
    let answer = daemon::admin::call(socket, verb, arguments, descriptors, |item| {
        if first_failure.is_none() {
            first_failure = on_item(item).err();
        }
    });
    if let Some(failure) = first_failure {
        return Err(failure);
    }
    answer.map_err(|error| {
        let message = printable(&error.to_string());
        match error {
            CallError::Refused(refusal) if refusal.code == "unknown-verb" => {
                Failure::cannot_tell(format!("{}: {message}", socket.display()))
            }
            // It would leave nobody who could put it right again.
            CallError::Refused(refusal) if refusal.code == "last-admin" => Failure::refused(message),
            CallError::Refused(_) => Failure::failed(message),
            CallError::Connect { .. } | CallError::Broken(_) | CallError::Malformed(_) => {
                Failure::cannot_tell(message)
            }
        }
    })
}
