//! Wgd's side of netcfg: blocking while it starts, asynchronous once it runs.
use super::permitted::Permitted;
use super::process::{self, Setup};
use super::worker::Worker;
use super::{Answer, MESSAGE_BYTES, ROUTES_PER_PART, Request, resolver};
use crate::limits;
use crate::registered::register;
use ipnet::IpNet;
use linux::descriptors::{receive_with_descriptors, send_with_descriptors};
use linux::{Privileged, User, fork_helper, seqpacket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// Netcfg while wgd starts.
pub struct Netcfg(Way);

enum Way {
    /// In a process of its own.
    Process(UnixDatagram),
    /// `netcfg = false`: here, until privileges are gone.
    Here { runtime: Runtime, worker: Box<Worker> },
}

/// Netcfg while wgd runs; without a process every request is refused with EPERM.
pub struct Running(Option<Process>);

struct Process {
    socket: AsyncFd<UnixDatagram>,
    /// The same socket once more: its end-of-file is waited for without taking an answer from whoever asked.
    end: AsyncFd<OwnedFd>,
    /// Locked while a question is under way; what is in it says how the last one ended.
    turn: Mutex<Turn>,
    gone: AtomicBool,
}

#[derive(PartialEq, Eq)]
enum Turn {
    Answered,
    /// A question was sent and its answer not read: the next answer would be taken for another question's.
    Open,
}

/// What comes back: an answer and its descriptors.
pub(crate) type Reply = (Answer, Vec<OwnedFd>);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum NetcfgError {
    /// It was refused.
    #[error("{what}: {}", io::Error::from_raw_os_error(*errno))]
    Refused {
        /// A positive number of errno.h.
        errno: i32,
        /// What was being done.
        what: String,
    },
    /// There is nobody to ask.
    #[error("wgd has no right to do this and netcfg = false")]
    Off,
    /// The process was there and is no more, or did not answer in time.
    #[error("wgd-netcfg is gone; restart wgd to change port, mark, routes or configuration")]
    Gone,
    /// The process is gone or speaks nonsense.
    #[error("wgd-netcfg: {0}")]
    Broken(#[from] io::Error),
}

impl NetcfgError {
    /// The positive number of errno.h.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Off => libc::EPERM,
            Self::Gone => libc::EIO,
            Self::Broken(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl Netcfg {
    /// Forks the process.
    ///
    /// # Errors
    /// When that is impossible.
    pub fn fork(privileged: Privileged, setup: &Setup) -> io::Result<(Privileged, Self)> {
        let keep: Vec<BorrowedFd<'_>> = setup.namespace.iter().map(AsFd::as_fd).collect();
        let body = |privileged, socket| process::body(setup, privileged, socket);
        let (privileged, helper) = fork_helper(privileged, "wgd-netcfg", &keep, body)?;
        Ok((privileged, Self(Way::Process(UnixDatagram::from(helper.socket)))))
    }

    /// Connects to one that somebody else has started, and brings it a process that looks names up: it has no right to
    /// become another user.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(
        privileged: Privileged,
        path: &Path,
        user: Option<User>,
    ) -> io::Result<(Privileged, Self)> {
        let (privileged, resolver) =
            resolver::start(privileged, user.or_else(|| Some(User::current())), false)?;
        let socket = seqpacket::connect_to(path)?;
        send_with_descriptors(socket.as_fd(), b"resolver", &[resolver.socket.as_fd()])?;
        Ok((privileged, Self(Way::Process(UnixDatagram::from(socket)))))
    }

    /// Does the work here, as long as there are privileges.
    ///
    /// # Errors
    /// When netlink cannot be opened.
    pub fn here(privileged: &Privileged, setup: &Setup) -> anyhow::Result<Self> {
        let runtime = process::runtime()?;
        let (permitted, _) = Permitted::read(&setup.config_path, setup.namespace.is_some());
        let worker = Box::new(process::open_worker(setup, permitted, privileged, &runtime)?);
        Ok(Self(Way::Here { runtime, worker }))
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// When the request is refused or nobody answers.
    pub fn ask(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply, NetcfgError> {
        match &mut self.0 {
            Way::Process(socket) => {
                let bytes = serde_json::to_vec(&request).map_err(io::Error::other)?;
                send_with_descriptors(socket.as_fd(), &bytes, descriptors)?;
                let mut buffer = vec![0; MESSAGE_BYTES];
                let (length, opened) = receive_with_descriptors(socket.as_fd(), &mut buffer)?;
                understand(&buffer[..length], opened)
            }
            Way::Here { runtime, worker } => {
                let owned: Result<Vec<_>, _> =
                    descriptors.iter().map(BorrowedFd::try_clone_to_owned).collect();
                checked(runtime.block_on(worker.handle(request, owned?)))
            }
        }
    }

    /// Makes the interface's routes those of `prefixes`.
    ///
    /// # Errors
    /// When the request is refused or nobody answers.
    pub fn set_routes(&mut self, prefixes: &[IpNet], table: u32) -> Result<(), NetcfgError> {
        route_parts(prefixes, table).into_iter().try_for_each(|part| self.ask(part, &[]).map(drop))
    }

    /// For the time after the seal; runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub fn into_running(self) -> io::Result<Running> {
        match self.0 {
            Way::Process(socket) => Running::over(socket),
            Way::Here { .. } => Ok(Running::off()),
        }
    }
}

impl Running {
    /// Nobody to ask.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    fn over(socket: UnixDatagram) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let end = register(OwnedFd::from(socket.try_clone()?), Interest::READABLE)?;
        let socket = register(socket, Interest::READABLE | Interest::WRITABLE)?;
        let (turn, gone) = (Mutex::new(Turn::Answered), AtomicBool::new(false));
        Ok(Self(Some(Process { socket, end, turn, gone })))
    }

    /// Whether there is a process to ask.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.as_ref().is_some_and(|process| !process.gone.load(Ordering::Relaxed))
    }

    /// Returns when the process has ended; never if there was none.
    pub async fn ended(&self) {
        let Some(process) = &self.0 else { return std::future::pending().await };
        while let Ok(mut ready) = process.end.readable().await {
            if ready.ready().is_read_closed() {
                break;
            }
            ready.clear_ready();
        }
        process.gone.store(true, Ordering::Relaxed);
    }

    /// Asks; one request is under way at a time.
    ///
    /// # Errors
    /// When the request is refused or nobody answers.
    pub async fn ask(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply, NetcfgError> {
        let process = self.0.as_ref().ok_or(NetcfgError::Off)?;
        let bytes = serde_json::to_vec(&request).map_err(io::Error::other)?;
        let mut turn = process.turn.lock().await;
        if process.gone.load(Ordering::Relaxed) || *turn == Turn::Open {
            return Err(NetcfgError::Gone);
        }
        // It stays open if this future is dropped half-way.
        *turn = Turn::Open;
        let exchange = tokio::time::timeout(limits::NETCFG_TIME, process.exchange(&bytes, descriptors)).await;
        match exchange {
            Ok(Ok((answer, opened))) if !answer.is_empty() => {
                *turn = Turn::Answered;
                understand(&answer, opened)
            }
            Ok(Ok(_) | Err(_)) | Err(_) => Err(NetcfgError::Gone),
        }
    }

    /// Makes the interface's routes those of `prefixes`.
    ///
    /// # Errors
    /// When the request is refused or nobody answers.
    pub async fn set_routes(&self, prefixes: &[IpNet], table: u32) -> Result<(), NetcfgError> {
        for part in route_parts(prefixes, table) {
            self.ask(part, &[]).await?;
        }
        Ok(())
    }
}

impl Process {
    async fn exchange(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let send = |socket: &UnixDatagram| send_with_descriptors(socket.as_fd(), bytes, descriptors);
        self.socket.async_io(Interest::WRITABLE, send).await?;
        let mut buffer = vec![0; MESSAGE_BYTES];
        let receive = |socket: &UnixDatagram| receive_with_descriptors(socket.as_fd(), &mut buffer);
        let (length, opened) = self.socket.async_io(Interest::READABLE, receive).await?;
        buffer.truncate(length);
        Ok((buffer, opened))
    }
}

fn route_parts(prefixes: &[IpNet], table: u32) -> Vec<Request> {
    let mut parts: Vec<Vec<IpNet>> = prefixes.chunks(ROUTES_PER_PART).map(<[IpNet]>::to_vec).collect();
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    let count = parts.len();
    let number = |(at, prefixes)| Request::SetRoutes { prefixes, table, last: at + 1 == count };
    parts.into_iter().enumerate().map(number).collect()
}

fn understand(bytes: &[u8], opened: Vec<OwnedFd>) -> Result<Reply, NetcfgError> {
    if bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the process is gone").into());
    }
    checked((serde_json::from_slice(bytes).map_err(io::Error::from)?, opened))
}

fn checked((answer, opened): Reply) -> Result<Reply, NetcfgError> {
    if let Answer::Failed { errno, what } = answer {
        return Err(NetcfgError::Refused { errno, what });
    }
    Ok((answer, opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_come_in_parts_and_only_the_last_says_so() {
        let prefix: IpNet = "10.0.0.0/8".parse().expect("prefix");
        let lasts = |count: usize| -> Vec<(usize, bool)> {
            let part = |request: Request| {
                let Request::SetRoutes { prefixes, last, .. } = request else { panic!("{request:?}") };
                (prefixes.len(), last)
            };
            route_parts(&vec![prefix; count], 254).into_iter().map(part).collect()
        };
        assert_eq!(lasts(0), [(0, true)]);
        assert_eq!(lasts(1_000), [(1_000, true)]);
        assert_eq!(lasts(2_001), [(1_000, false), (1_000, false), (1, true)]);
    }

    /// The two ends of a socket pair as netcfg has it.
    fn pair() -> (Running, UnixDatagram) {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("pair");
        (Running::over(UnixDatagram::from(ours)).expect("registered"), UnixDatagram::from(theirs))
    }

    #[tokio::test]
    async fn the_end_of_the_process_is_noticed_and_requests_say_so() {
        let (running, process) = pair();
        assert!(running.is_there());
        drop(process);
        running.ended().await;
        assert!(!running.is_there());
        assert!(matches!(running.ask(Request::ReadConfig, &[]).await, Err(NetcfgError::Gone)));
    }

    #[tokio::test]
    async fn an_answer_is_not_taken_for_the_end() {
        let (running, process) = pair();
        process.send(b"\"done\"").expect("answer");
        let bound = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(bound, running.ended()).await.is_err() && running.is_there());
        assert!(matches!(running.ask(Request::ReadConfig, &[]).await, Ok((Answer::Done, _))));
    }

    #[tokio::test]
    async fn a_late_answer_is_nobodys() {
        let (running, process) = pair();
        let impatient = running.ask(Request::ReadConfig, &[]);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), impatient).await.is_err());
        process.send(b"\"done\"").expect("answer");
        assert!(matches!(running.ask(Request::RemoveSockets, &[]).await, Err(NetcfgError::Gone)));
    }

    #[test]
    fn without_a_process_the_errno_is_eperm() {
        assert_eq!(NetcfgError::Off.errno(), libc::EPERM);
    }
}
