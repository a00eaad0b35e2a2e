//! A place on the wire that receives what the program under test sends, and answers nothing.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::host::Host;

/// A handshake initiation: its type and length (WireGuard's paper, 5.4.2).
pub(crate) const INITIATION: (u8, usize) = (1, 148);

/// The type of data messages.
pub(crate) const DATA: u8 = 4;

/// A UDP socket on a host.
pub(crate) struct Ear {
    socket: UdpSocket,
}

impl Ear {
    /// Listens at `address` of `host`'s outer network.
    pub(crate) fn listen(host: &Host, address: &str) -> Result<Ear> {
        let socket = host
            .outer()
            .within(|| UdpSocket::bind(address).with_context(|| format!("listen on {address}")))?;
        Ok(Ear { socket })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.socket.local_addr().context("ask for the own address")
    }

    /// The next datagram and where it came from.
    pub(crate) fn hear(&self, bound: Duration) -> Result<(Vec<u8>, SocketAddr)> {
        self.socket.set_read_timeout(Some(bound)).context("bound reads")?;
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.socket.recv_from(&mut buffer).context("nothing came")?;
        buffer.truncate(length);
        Ok((buffer, from))
    }

    /// The next datagram has to be a handshake initiation.
    pub(crate) fn hears_an_initiation(&self, bound: Duration) -> Result<()> {
        let (datagram, _) = self.hear(bound)?;
        let seen = (datagram.first().copied().unwrap_or(0), datagram.len());
        ensure!(seen == INITIATION, "type and length {seen:?}");
        Ok(())
    }

    /// Nothing may come for as long as `time`.
    pub(crate) fn hears_nothing(&self, time: Duration) -> Result<()> {
        self.socket.set_read_timeout(Some(time)).context("bound reads")?;
        let mut buffer = [0; 2048];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => bail!("{length} bytes of type {} came from {from}", buffer[0]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => Err(error).context("listen"),
        }
    }
}
