//! A bad line: passes TCP connections on and cuts each one after so many bytes from the client.
//!
//! Invariant: the next connection gets further than nothing, so whoever resumes comes to an end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

/// How a line behaves.
#[derive(Debug)]
struct Behaviour {
    to: SocketAddr,
    /// State of xorshift64.
    random: u64,
    /// How many connections are still to be cut.
    cuts: u32,
    /// The most bytes that one of these passes.
    most: u64,
    done: u32,
}

/// A bad line.
#[derive(Debug, Clone)]
pub struct Cutter {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Cutter {
    /// A line to `to` that cuts the first `cuts` connections, each after at most `most` bytes.
    pub fn start(to: SocketAddr, seed: u64, cuts: u32, most: u64) -> Result<Cutter> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for the bad line")?;
        let address = listener.local_addr().context("listen for the bad line")?;
        let behaviour = Behaviour { to, random: seed * 2 + 1, cuts, most, done: 0 };
        let cutter = Cutter { address, behaviour: Arc::new(Mutex::new(behaviour)) };
        let serving = cutter.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.pass(client));
            }
        });
        Ok(cutter)
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has cut.
    pub fn cut_so_far(&self) -> u32 {
        self.lock().done
    }

    /// New connections go there.
    pub fn lead_to(&self, to: SocketAddr) {
        self.lock().to = to;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, client: TcpStream) {
        let (to, mut left) = {
            let mut line = self.lock();
            line.random ^= line.random << 13;
            line.random ^= line.random >> 7;
            line.random ^= line.random << 17;
            let most = line.most.max(1);
            (line.to, if line.cuts > 0 { 1 + line.random % most } else { u64::MAX })
        };
        let Ok(server) = TcpStream::connect(to) else { return };
        let (Ok(mut from_server), Ok(mut to_client)) = (server.try_clone(), client.try_clone()) else {
            return;
        };
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Write);
        });
        let (mut client, mut server) = (client, server);
        let mut buffer = [0; 16 * 1024];
        while left > 0 {
            let Ok(length @ 1..) = client.read(&mut buffer) else { break };
            let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
            if server.write_all(&buffer[..length]).is_err() {
                break;
            }
            left -= length as u64;
        }
        if left == 0 {
            let mut line = self.lock();
            line.done += 1;
            line.cuts = line.cuts.saturating_sub(1);
        }
        for half in [&client, &server] {
            let _ = half.shutdown(Shutdown::Both);
        }
    }
}
