//! One TCP connection between two hosts, which a scenario uses before, during and after something else.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use crate::host::{Host, Place};
use crate::payload::{self, Payload};

/// Longest that a connection may be silent while it carries: above what a lost handshake costs (5 s and its jitter,
/// twice).
const SILENCE_BOUND: Duration = Duration::from_secs(20);

/// A connection with both its ends.
#[derive(Debug)]
pub struct Connection {
    near: TcpStream,
    far: TcpStream,
    carried: u64,
}

impl Connection {
    /// Connects `from` to a listener at `address` in `to`, both at `place`.
    pub fn open(from: &Host, to: &Host, place: Place, address: IpAddr) -> Result<Connection> {
        let listener = to.network(place).within(|| {
            TcpListener::bind(SocketAddr::new(address, 0)).with_context(|| format!("listen on {address}"))
        })?;
        let near = from.connect(place, listener.local_addr().context("read the own address")?)?;
        let (far, _) = listener.accept().context("accept")?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(SILENCE_BOUND)).context("bound reads")?;
            end.set_write_timeout(Some(SILENCE_BOUND)).context("bound writes")?;
        }
        Ok(Connection { near, far, carried: 0 })
    }

    /// Carries `length` bytes to the far end and compares the hashes.
    pub fn carry(&mut self, length: u64) -> Result<()> {
        let mut payload = Payload::new(length, self.carried + 1);
        let expected = payload.sha256();
        let mut near = self.near.try_clone().context("share the connection")?;
        let sender = thread::spawn(move || std::io::copy(&mut payload, &mut near));
        let mut hasher = Sha256::new();
        let mut left = length;
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = self
                .far
                .read(&mut buffer[..wanted])
                .with_context(|| format!("receive with {left} bytes to go"))?;
            ensure!(got > 0, "the connection ended with {left} bytes to go");
            hasher.update(&buffer[..got]);
            left -= got as u64;
        }
        sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("send")?;
        ensure!(payload::hex(&hasher.finalize()) == expected, "other bytes arrived than were sent");
        self.carried += length;
        Ok(())
    }

    /// Carries one byte to the far end and one back.
    pub fn echo(&mut self) -> Result<()> {
        let mut byte = [0];
        self.near.write_all(b"?").context("send")?;
        self.far.read_exact(&mut byte).context("receive at the far end")?;
        self.far.write_all(b"!").context("send back")?;
        self.near.read_exact(&mut byte).context("receive the answer")
    }
}
