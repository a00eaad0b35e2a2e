//! wgd's events: a hint to look at storaged now instead of at the next second.
//!
//! An event opens or closes nothing by itself. It may be about any peer, so each storaged is looked at, and only storaged's
//! answer, or its silence, is evidence.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use linux::unix_datagram::DatagramSocket;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Notify;
use tunnel_events::{MAX_DATAGRAM_BYTES, Message};

/// Runs until the runtime ends. Only root's and `wgd_uid`'s datagrams count, by the kernel's word.
pub async fn listen(
    socket: DatagramSocket,
    wgd_uid: Option<u32>,
    events: Vec<Arc<Notify>>,
) -> io::Result<()> {
    // A second descriptor of the same socket tells when there is something to read.
    let readiness = UnixDatagram::from_std(socket.as_fd().try_clone_to_owned()?.into())?;
    let mut buffer = [0; MAX_DATAGRAM_BYTES + 1];
    loop {
        let received = match readiness.async_io(Interest::READABLE, || socket.receive(&mut buffer)).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "event datagram");
                continue;
            }
        };
        let uid = received.credentials.uid;
        if uid != 0 && Some(uid) != wgd_uid {
            tracing::warn!(uid, "an event from somebody who is not wgd; ignored");
            continue;
        }
        match Message::decode(&buffer[..received.length.min(buffer.len())]) {
            Ok(Message::Event(event)) => {
                tracing::debug!(what = ?event.what, "tunnel event");
                events.iter().for_each(|event| event.notify_one());
            }
            Ok(Message::Question(_) | Message::Answer(_)) => {}
            Err(error) => tracing::debug!(%error, "event datagram"),
        }
    }
}
