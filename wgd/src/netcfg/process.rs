//! The life of the `wgd-netcfg` process: open netlink, confine, seal, answer until its parent is gone.
use super::inside::{self, Inside};
use super::interface::Interface;
use super::permitted::Permitted;
use super::resolver::{self, Resolver};
use super::worker::Worker;
use super::{Answer, MESSAGE_BYTES, Request};
use crate::registered::register;
use crate::sandbox;
use anyhow::Context as _;
use daemon::signals::Signals;
use linux::background::Silence;
use linux::descriptors::{receive_with_descriptors, send_with_descriptors};
use linux::{NetNs, Privileged, User, seqpacket};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;

/// What netcfg is told once, before it confines itself.
#[derive(Debug)]
pub struct Setup {
    /// The one interface.
    pub interface: String,
    /// Where the interface lives, if not here.
    pub namespace: Option<NetNs>,
    /// The one configuration file.
    pub config_path: PathBuf,
    /// Socket files to remove at farewell.
    pub socket_files: Vec<PathBuf>,
    /// The user the resolver becomes.
    pub resolver_user: Option<User>,
    /// Whether ports below 1024 can be bound after the start too: in stock use, without a `wgd.toml`, whoever runs
    /// `wg set wg0 listen-port 443` expects it of every WireGuard.
    pub low_ports: bool,
    /// Whether a missing lock-down layer is an error.
    pub require_all: bool,
    /// Whether to let go of the terminal once sealed.
    pub to_background: bool,
}

/// Runs in the forked process until the other end of `socket` is closed.
pub(super) fn body(setup: &Setup, privileged: Privileged, socket: OwnedFd) -> u8 {
    match run(setup, privileged, socket) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = daemon::exit::describe(&error), "wgd-netcfg");
            daemon::exit::code_of(&error)
        }
    }
}

fn run(setup: &Setup, privileged: Privileged, socket: OwnedFd) -> anyhow::Result<()> {
    // First of all: it gets a copy of what is in this memory, and this process is about to read the keys' file.
    let (privileged, resolver) =
        resolver::start(privileged, setup.resolver_user, setup.to_background).context("fork wgd-resolve")?;
    let peer = Peer { socket, resolver: resolver.socket };
    answer(setup, privileged, peer, open_worker)
}

/// Serves the first wgd that connects: as a program of its own (`--serve netcfg`) that neither forked nor was forked.
/// What is inside the interface's namespace comes from whoever listens at `inside`.
///
/// # Errors
/// When it cannot be sealed, or either end goes before it is.
pub fn serve_one(
    setup: &Setup,
    privileged: Privileged,
    listener: OwnedFd,
    inside: &Path,
) -> anyhow::Result<()> {
    // First of all, or a failure would be tried again and again for the same connection.
    let socket = seqpacket::accept_one(listener).context("the handed-in listener")?;
    linux::helper_process::set_name("wgd-netcfg")?;
    let (_, mut resolver) = receive_with_descriptors(socket.as_fd(), &mut [0; 16])?;
    let resolver = resolver.pop().context("whoever connected brings no wgd-resolve")?;
    let Inside { device, netlink } =
        inside::fetch(inside).with_context(|| format!("what is inside, from {}", inside.display()))?;
    answer(setup, privileged, Peer { socket, resolver }, |setup, permitted, _, runtime| {
        let interface = Interface::handed_in(runtime, &setup.interface, netlink).context("open netlink")?;
        let mut worker = worker(setup, permitted, interface);
        worker.device = Vec::from(device);
        Ok(worker)
    })
}

/// Who is served, and who looks names up.
struct Peer {
    socket: OwnedFd,
    resolver: OwnedFd,
}

fn answer(
    setup: &Setup,
    privileged: Privileged,
    peer: Peer,
    open: impl FnOnce(&Setup, Permitted, &Privileged, &Runtime) -> anyhow::Result<Worker>,
) -> anyhow::Result<()> {
    let Peer { socket, resolver } = peer;
    let silence = setup.to_background.then(Silence::prepare).transpose()?;
    let runtime = runtime()?;
    let (permitted, key_directories) = Permitted::read(&setup.config_path, setup.namespace.is_some());
    let confinement = sandbox::netcfg_confinement(setup, &key_directories);
    let mut worker = open(setup, permitted, &privileged, &runtime)?;
    let socket = UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    let (socket, _signals) = {
        let _guard = runtime.enter();
        worker.resolver = Some(Resolver::new(resolver)?);
        // Registered and never looked at: a terminal's or a service manager's signal to the whole group is for
        // wgd, which says farewell here in its own time.
        (register(socket, Interest::READABLE | Interest::WRITABLE)?, Signals::new()?)
    };
    let confined = privileged.confine(&confinement)?;
    confined.seal(sandbox::NETCFG)?;
    if let Some(silence) = silence {
        silence.apply()?;
    }
    runtime.block_on(serve(&mut worker, &socket))?;
    Ok(())
}

/// A runtime on the calling thread, for netlink.
pub(super) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

pub(super) fn open_worker(
    setup: &Setup,
    permitted: Permitted,
    privileged: &Privileged,
    runtime: &Runtime,
) -> anyhow::Result<Worker> {
    let interface = Interface::open(privileged, runtime, &setup.interface, setup.namespace.as_ref())
        .context("open netlink")?;
    Ok(worker(setup, permitted, interface))
}

fn worker(setup: &Setup, permitted: Permitted, interface: Interface) -> Worker {
    Worker {
        interface,
        device: Vec::new(),
        config_path: setup.config_path.clone(),
        permitted,
        resolver: None,
        strict: setup.require_all,
        endpoints_are_elsewhere: setup.namespace.is_some(),
        valid_mark: valid_mark(setup),
        socket_files: setup.socket_files.clone(),
        routes: Vec::new(),
    }
}

/// Opened before the seal, for it may be needed after a reload. A service manager may have made it read-only.
fn valid_mark(setup: &Setup) -> Option<File> {
    let path = "/proc/sys/net/ipv4/conf/all/src_valid_mark";
    if setup.namespace.is_some() { None } else { OpenOptions::new().write(true).open(path).ok() }
}

async fn serve(worker: &mut Worker, socket: &AsyncFd<UnixDatagram>) -> io::Result<()> {
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        let received = socket
            .async_io(Interest::READABLE, |socket| receive_with_descriptors(socket.as_fd(), &mut buffer));
        let (length, descriptors) = match received.await {
            Ok((0, _)) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            received => received?,
        };
        let (answer, opened) = match serde_json::from_slice::<Request>(&buffer[..length]) {
            Ok(request) => worker.handle(request, descriptors).await,
            Err(error) => {
                tracing::error!(%error, "wgd asked for what is not on the list");
                (Answer::Failed { errno: libc::EPERM, what: "no such request".into() }, Vec::new())
            }
        };
        let bytes = serde_json::to_vec(&answer)?;
        let opened: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        let send = |socket: &UnixDatagram| send_with_descriptors(socket.as_fd(), &bytes, &opened);
        match socket.async_io(Interest::WRITABLE, send).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// wgd died, with a question or an answer under way; there is nobody left to serve.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
