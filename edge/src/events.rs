//! wgd's events: a hint to look at storaged now instead of at the next second.
//!
//! An event opens or closes nothing by itself. It may be about another peer, and only storaged's
//! answer, or its silence, is evidence.

use std::io;
use std::sync::Arc;

use linux::unix_datagram::DatagramSocket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tunnel_events::{MAX_DATAGRAM_BYTES, Message};

/// Runs until the runtime ends. Only root's and `wgd_uid`'s datagrams count, by the kernel's word.
pub async fn listen(socket: DatagramSocket, wgd_uid: Option<u32>, events: Arc<Notify>) -> io::Result<()> {
    let socket = AsyncFd::register_with_interest(socket, Interest::READABLE)?;
    let mut buffer = [0; MAX_DATAGRAM_BYTES + 1];
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
            Err(_would_block) => {}
            Ok(Err(error)) => tracing::debug!(%error, "event datagram"),
            Ok(Ok(received)) => {
                let uid = received.credentials.uid;
                if uid != 0 && Some(uid) != wgd_uid {
                    tracing::warn!(uid, "an event from somebody who is not wgd; ignored");
                    continue;
                }
                match Message::decode(&buffer[..received.length.min(buffer.len())]) {
                    Ok(Message::Event(event)) => {
                        tracing::debug!(what = ?event.what, "tunnel event");
                        events.notify_one();
                    }
                    Ok(Message::Question(_) | Message::Answer(_)) => {}
                    Err(error) => tracing::debug!(%error, "event datagram"),
                }
            }
        }
    }
}
