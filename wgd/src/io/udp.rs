//! The outer side: datagrams in batches, one batch for each family.
use linux::udp::{self, Place, ReceiveBatch, SendBatch, Sent, UdpSocket, UdpSockets};
use std::net::SocketAddr;
use wg_proto::{Endpoint, LocalAddress};

/// The sockets and what is on its way out of them.
pub(super) struct UdpSide {
    sockets: UdpSockets,
    v4: SendBatch,
    v6: SendBatch,
    /// A remote address whose remembered source is gone.
    stale: Option<SocketAddr>,
    /// Of what is queued next; `None` is the system's own.
    hop_limit: Option<u8>,
    send_errors: u64,
}

impl UdpSide {
    /// With `in_one_piece`, datagrams of one size leave as one message where the kernel takes that.
    pub(super) fn new(sockets: UdpSockets, in_one_piece: bool) -> Self {
        let segments = in_one_piece && sockets.v4.cuts_segments();
        Self {
            sockets,
            v4: SendBatch::new(segments),
            v6: SendBatch::new(segments),
            stale: None,
            hop_limit: None,
            send_errors: 0,
        }
    }

    pub(super) fn sockets(&self) -> &UdpSockets {
        &self.sockets
    }

    /// Refused datagrams since the last call.
    pub(super) fn take_send_errors(&mut self) -> u64 {
        std::mem::take(&mut self.send_errors)
    }

    /// From now on these; what is queued still leaves by the old ones, which are closed then.
    pub(super) fn replace(&mut self, sockets: UdpSockets) {
        let _ = self.flush();
        self.sockets = sockets;
    }

    pub(super) fn receive_v4(&self, batch: &mut ReceiveBatch) {
        receive(batch, &self.sockets.v4);
    }

    pub(super) fn receive_v6(&self, batch: &mut ReceiveBatch) {
        if let Some(socket) = &self.sockets.v6 {
            receive(batch, socket);
        }
    }

    /// From now on datagrams go no further than this.
    pub(super) fn limit_hops(&mut self, hop_limit: Option<u8>) {
        self.hop_limit = hop_limit;
    }

    /// Whether datagrams of one size leave as one message.
    pub(super) fn segments(&self) -> bool {
        self.v4.segments()
    }

    /// Adds a datagram to its family's batch, and sends the batch if that fills it.
    pub(super) fn queue(&mut self, to: Endpoint, datagram: &[u8]) {
        self.seal(to, datagram.len(), |space| {
            space.copy_from_slice(datagram);
            Some(datagram.len())
        });
    }

    /// The same with a datagram that `seal` writes there.
    #[inline]
    pub(super) fn seal(
        &mut self,
        to: Endpoint,
        bytes: usize,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let local =
            to.local.map(|LocalAddress { ip, interface_index }| udp::LocalAddress { ip, interface_index });
        let batch = if to.remote.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let length = seal(batch.space(bytes))?;
        batch.push_written(to.remote, local, self.hop_limit, length);
        if batch.is_full() {
            self.send();
        }
        Some(length)
    }

    /// Sends what is queued. `Some` is a remote address whose source must be forgotten; call again then.
    pub(super) fn flush(&mut self) -> Option<SocketAddr> {
        if !self.v4.is_empty() || !self.v6.is_empty() {
            self.send();
        }
        self.stale.take()
    }

    fn send(&mut self) {
        let sent = self.v4.flush(&self.sockets.v4);
        self.account(&sent);
        match &self.sockets.v6 {
            Some(socket) => {
                let sent = self.v6.flush(socket);
                self.account(&sent);
            }
            None => self.send_errors += self.v6.discard(),
        }
    }

    fn account(&mut self, sent: &Sent) {
        self.send_errors += u64::try_from(sent.failed).unwrap_or(u64::MAX);
        self.stale = sent.stale_source.or(self.stale);
    }
}

/// Where a received datagram came from, in the core's words.
pub(super) fn endpoint(datagram: &Place) -> Endpoint {
    let local =
        datagram.local.map(|udp::LocalAddress { ip, interface_index }| LocalAddress { ip, interface_index });
    Endpoint { remote: datagram.remote, local }
}

fn receive(batch: &mut ReceiveBatch, socket: &UdpSocket) {
    if let Err(error) = batch.receive(socket) {
        tracing::debug!(%error, "receive from the udp socket");
    }
}
