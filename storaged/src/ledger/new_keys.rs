//! The thread that makes new keys durable, before their commands come to the ledger's writer.
//!
//! **Invariant:** a command reaches the writer after the keys that it brings are durable, or marked as one that
//! has none; while these keys are synced, the writer commits the group before. A key whose command comes to
//! nothing opens nothing.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::keys::{KeyChange, KeyStore};
use crate::ledger::command::Area as _;
use crate::ledger::writer::{Request, gather};
use crate::limits::{LEDGER_GROUP, LEDGER_QUEUE};

/// Starts the thread. It ends when the last sender is dropped, and then lets go of the writer's queue.
pub(super) fn start(
    keys: Arc<dyn KeyStore>,
    writer: mpsc::Sender<Request>,
) -> std::io::Result<(mpsc::Sender<Request>, JoinHandle<()>)> {
    let (queue, requests) = mpsc::channel(LEDGER_QUEUE);
    let thread =
        std::thread::Builder::new().name("new-keys".into()).spawn(move || run(keys, requests, &writer))?;
    Ok((queue, thread))
}

fn run(keys: Arc<dyn KeyStore>, mut requests: mpsc::Receiver<Request>, writer: &mpsc::Sender<Request>) {
    let mut group = Vec::with_capacity(LEDGER_GROUP);
    let mut usual = 1;
    while let Some(first) = requests.blocking_recv() {
        group.push(first);
        usual = gather(&mut group, &mut requests, usual);
        let new: Vec<KeyChange> =
            group.iter().flat_map(|request| request.command.new_keys()).cloned().collect();
        let committed = keys.commit(&new);
        if let Err(error) = &committed {
            tracing::error!(%error, commands = group.len(), "new keys cannot be kept");
        }
        for mut request in group.drain(..) {
            request.lacks_keys = committed.is_err();
            // A writer that is gone drops the request, and with it the answer's sender.
            let _ = writer.blocking_send(request);
        }
    }
    // Before the writer's queue: whoever waits for the writer's end wants the keys' file to be free.
    drop(keys);
}
