//! A bad line: passes TCP connections on, cuts each one after so many bytes, and can be slow.
//!
//! Invariant: the next connection gets further than nothing, so whoever resumes comes to an end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What is read at once.
const PIECE: usize = 16 * 1024;

/// Whose bytes count towards a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    FromClient,
    ToClient,
}

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
    counted: Counted,
    done: u32,
    /// Bytes a second of each connection in each direction; none: as fast as it goes.
    rate: Option<u64>,
    /// Bytes in both directions, on all connections.
    passed: u64,
}

/// A bad line.
#[derive(Debug, Clone)]
pub struct Cutter {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Cutter {
    /// A line to `to` that cuts the first `cuts` connections, each after at most `most` bytes from the client.
    pub fn start(to: SocketAddr, seed: u64, cuts: u32, most: u64) -> Result<Cutter> {
        Self::begin(to, seed, cuts, most, Counted::FromClient)
    }

    /// The same, where the bytes to the client count.
    pub fn start_towards_clients(to: SocketAddr, seed: u64, cuts: u32, most: u64) -> Result<Cutter> {
        Self::begin(to, seed, cuts, most, Counted::ToClient)
    }

    fn begin(to: SocketAddr, seed: u64, cuts: u32, most: u64, counted: Counted) -> Result<Cutter> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for the bad line")?;
        let address = listener.local_addr().context("listen for the bad line")?;
        let behaviour =
            Behaviour { to, random: seed * 2 + 1, cuts, most, counted, done: 0, rate: None, passed: 0 };
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

    /// How many bytes went over it, in both directions.
    pub fn passed(&self) -> u64 {
        self.lock().passed
    }

    /// New connections go there.
    pub fn lead_to(&self, to: SocketAddr) {
        self.lock().to = to;
    }

    /// From now on each connection carries at most so many bytes a second in each direction.
    pub fn slow_down(&self, bytes_per_second: u64) {
        self.lock().rate = Some(bytes_per_second);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, client: TcpStream) {
        let (to, left, counted) = {
            let mut line = self.lock();
            line.random ^= line.random << 13;
            line.random ^= line.random >> 7;
            line.random ^= line.random << 17;
            let most = line.most.max(1);
            (line.to, if line.cuts > 0 { 1 + line.random % most } else { u64::MAX }, line.counted)
        };
        let Ok(server) = TcpStream::connect(to) else { return };
        let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else {
            return;
        };
        let limit = |direction| if counted == direction { left } else { u64::MAX };
        let (back, limit_back) = (self.clone(), limit(Counted::ToClient));
        let forth = limit(Counted::FromClient);
        std::thread::spawn(move || back.carry(from_server, to_client, limit_back, Shutdown::Write));
        self.carry(client, server, forth, Shutdown::Both);
    }

    /// Carries one direction until its end, or until it has carried `left` bytes, and ends the connection then.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, mut left: u64, end: Shutdown) {
        let mut buffer = [0; PIECE];
        while left > 0 {
            let Ok(length @ 1..) = from.read(&mut buffer) else { break };
            let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
            left -= length as u64;
            let rate = {
                let mut line = self.lock();
                line.passed += length as u64;
                line.rate
            };
            if let Some(rate) = rate {
                std::thread::sleep(Duration::from_micros(length as u64 * 1_000_000 / rate.max(1)));
            }
        }
        if left == 0 {
            let mut line = self.lock();
            line.done += 1;
            line.cuts = line.cuts.saturating_sub(1);
        }
        if left == 0 || end == Shutdown::Both {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        } else {
            let _ = to.shutdown(end);
        }
    }
}
