//! Wgd's side of netcfg: blocking while it starts, asynchronous once it runs.
use super::permitted::Permitted;
use super::process::{self, Setup};
use super::worker::Worker;
use super::{Answer, MESSAGE_BYTES, ROUTES_PER_PART, Request};
use crate::registered::register;
use ipnet::IpNet;
use linux::descriptors::{receive_with_descriptors, send_with_descriptors};
use linux::{Privileged, fork_helper};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
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
pub struct Running(Option<Mutex<AsyncFd<UnixDatagram>>>);

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

    /// Does the work here, as long as there are privileges.
    ///
    /// # Errors
    /// When netlink cannot be opened.
    pub fn here(privileged: &Privileged, setup: &Setup) -> anyhow::Result<Self> {
        let runtime = process::runtime()?;
        let (permitted, _) = Permitted::read(&setup.config_path);
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
            Way::Process(socket) => {
                socket.set_nonblocking(true)?;
                Ok(Running(Some(Mutex::new(register(socket, Interest::READABLE | Interest::WRITABLE)?))))
            }
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

    /// Whether there is a process to ask.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Asks; one request is under way at a time.
    ///
    /// # Errors
    /// When the request is refused or nobody answers.
    pub async fn ask(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply, NetcfgError> {
        let socket = self.0.as_ref().ok_or(NetcfgError::Off)?.lock().await;
        let bytes = serde_json::to_vec(&request).map_err(io::Error::other)?;
        let send = |socket: &UnixDatagram| send_with_descriptors(socket.as_fd(), &bytes, descriptors);
        socket.async_io(Interest::WRITABLE, send).await?;
        let mut buffer = vec![0; MESSAGE_BYTES];
        let receive = |socket: &UnixDatagram| receive_with_descriptors(socket.as_fd(), &mut buffer);
        let (length, opened) = socket.async_io(Interest::READABLE, receive).await?;
        understand(&buffer[..length], opened)
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

    #[test]
    fn without_a_process_the_errno_is_eperm() {
        assert_eq!(NetcfgError::Off.errno(), libc::EPERM);
    }
}
