//! wgd's events: a hint to look at storaged now instead of at the next second.
//!
//! An event opens or closes nothing by itself. It may be about any peer, so each storaged is looked at, and only storaged's
//! answer, or its silence, is evidence.

use std::io;
use std::sync::Arc;

use linux::unix_datagram::DatagramSocket;
use tokio::sync::Notify;
use tunnel_events::Listener;

/// Runs until the runtime ends. Only root's and `wgd_uid`'s datagrams count, by the kernel's word.
pub async fn listen(
    socket: DatagramSocket,
    wgd_uid: Option<u32>,
    events: Vec<Arc<Notify>>,
) -> io::Result<()> {
    let mut listener = Listener::new(socket, wgd_uid)?;
    loop {
        let event = listener.next().await;
        tracing::debug!(what = ?event.what, "tunnel event");
        events.iter().for_each(|event| event.notify_one());
    }
}
