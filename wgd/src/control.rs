//! The control thread: configuration socket, admin socket, events, metrics, signals.
//!
//! Invariant: it is the only one who changes the device's configuration, one change after the other
//! (`Control::apply`); the data thread carries it out. It runs on the main thread, on a runtime without
//! workers, and none of its clients can keep another waiting: whatever waits for a client waits in a task.
mod admin;
mod follow;
mod link;
mod names;
mod path_mtu;
mod preshared;
mod probe;
mod rotation;
mod routes;
mod uapi;
mod uapi_door;
mod unlinked;

pub(crate) use follow::Watched;
pub use link::LinkMonitor;
pub use routes::RouteMonitor;
pub use uapi_door::UapiDoor;
pub use unlinked::Unlinked;

use crate::clock_state::ClockState;
use crate::conf::{self, HostName, Tunnel};
use crate::config::{Config, Profile};
use crate::events::{self, Events};
use crate::io::{Command, Ended, Handle, Unanswered};
use crate::limits;
use crate::metrics::Metrics;
use crate::netcfg::{self, Answer, NetcfgError, Request};
use daemon::notify::{Heartbeat, Notify};
use daemon::process_metrics::ProcessMetrics;
use daemon::readiness::{Condition, Readiness};
use daemon::signals::{Signal, Signals};
use linux::udp::UdpSockets;
use linux::{Lockdown, Sealed};
use prometheus::Registry;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use wg_proto::uapi::Epoch;
use wg_proto::{DeviceEvent, DeviceState, DeviceUpdate, RotationOutput};

/// What the control thread works with.
pub struct Control {
    config: Config,
    data: Handle,
    netcfg: netcfg::Running,
    /// Held while a change is under way, so that changes come one after the other.
    current: Mutex<Current>,
    metrics: Metrics,
    epoch: Epoch,
    lockdown: Lockdown,
    /// Host names of the tunnel that is in force.
    names: watch::Sender<Vec<HostName>>,
    /// Operators who watch events.
    watched: Watched,
    /// Operators who wait for a rotation.
    rotations: Watched,
}

/// What outlives a change: the sockets, once more, for a later mark; and what was asked of them.
struct Current {
    /// `None` once the daemon is ending, so that the port is free.
    sockets: Option<UdpSockets>,
    mark: u32,
    tunnel: Tunnel,
}

/// Everything that was opened while that was possible.
pub struct Parts {
    /// Configuration.
    pub config: Config,
    /// The data thread.
    pub data: Handle,
    /// The second process.
    pub netcfg: netcfg::Running,
    /// Another handle of the data thread's sockets.
    pub sockets: UdpSockets,
    /// What the tunnel's file said.
    pub tunnel: Tunnel,
    /// Events of the data thread.
    pub device_events: mpsc::Receiver<DeviceEvent>,
    /// Rotations of the data thread.
    pub rotations: mpsc::Receiver<RotationOutput>,
    /// The data thread's last word.
    pub ended: oneshot::Receiver<Ended>,
    /// The configuration socket.
    pub uapi: UapiDoor,
    /// Says when the configuration socket's file is gone.
    pub unlinked: Unlinked,
    /// Says when the interface's MTU changes.
    pub link: LinkMonitor,
    /// Says when the system's routes change.
    pub routes: RouteMonitor,
    /// The admin socket.
    pub admin: Option<UnixListener>,
    /// Where metrics are served.
    pub status: Option<TcpListener>,
    /// Events and whois.
    pub events: Option<Events>,
    /// Signals.
    pub signals: Signals,
    /// Metrics.
    pub registry: Registry,
    /// Counters of this thread.
    pub metrics: Metrics,
    /// Notices a clock that has gone back.
    pub clock_state: Option<ClockState>,
    /// Figures of the process.
    pub process: ProcessMetrics,
    /// The service manager.
    pub notify: Notify,
    /// Both clocks, once.
    pub epoch: Epoch,
}

/// Why a change was refused. Its number goes to `wg`.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The socket or its mark could not be had.
    #[error(transparent)]
    Netcfg(#[from] NetcfgError),
    /// The data thread is gone.
    #[error(transparent)]
    Data(#[from] Unanswered),
    /// Copying a descriptor failed, or netcfg sent something else than sockets.
    #[error("sockets: {0}")]
    Sockets(#[from] io::Error),
    /// The configuration file is not good.
    #[error(transparent)]
    Conf(#[from] conf::ConfError),
    /// The profile demands what the change takes away.
    #[error("profile = \"production\": peer {0} has no preshared key")]
    NoPresharedKey(String),
    /// The daemon is ending.
    #[error("the daemon is ending")]
    Ending,
}

impl ApplyError {
    /// The positive number of errno.h.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Netcfg(error) => error.errno(),
            Self::Data(_) | Self::Ending => libc::EIO,
            Self::Sockets(error) => error.raw_os_error().unwrap_or(libc::EIO),
            Self::Conf(_) => libc::EINVAL,
            // `wg` says "Required key not available".
            Self::NoPresharedKey(_) => libc::ENOKEY,
        }
    }
}

/// Runs until the daemon ends, and says why it did. `ready` is called when every socket is served.
///
/// # Errors
/// When a listener cannot be registered with the runtime.
pub async fn run(sealed: &Sealed, parts: Parts, ready: impl FnOnce()) -> anyhow::Result<Ended> {
    let Parts { mut signals, mut unlinked, mut ended, notify, .. } = parts;
    let (names_changed, names) = watch::channel(parts.tunnel.names.clone());
    let control = Arc::new(Control {
        config: parts.config,
        data: parts.data,
        netcfg: parts.netcfg,
        current: Mutex::new(Current {
            mark: parts.tunnel.fwmark(),
            sockets: Some(parts.sockets),
            tunnel: parts.tunnel,
        }),
        metrics: parts.metrics,
        epoch: parts.epoch,
        lockdown: sealed.lockdown().clone(),
        names: names_changed,
        watched: Watched::new(limits::WATCHED_EVENTS),
        rotations: Watched::new(limits::WATCHED_EVENTS),
    });

    // What is in here must not be missing: a panic in one of them ends the daemon.
    let mut serving = JoinSet::new();
    match parts.uapi {
        UapiDoor::Listener { listener, .. } => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            serving.spawn(uapi::serve(listener, Arc::clone(&control)));
        }
        UapiDoor::Connection(stream) => {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            serving.spawn(uapi::serve_connection(stream, Arc::clone(&control)));
        }
    }
    if let Some(listener) = parts.admin {
        let uids = control.config.admin_uids.clone();
        let handler = Arc::new(admin::Verbs(Arc::clone(&control)));
        serving.spawn(logged("admin socket", daemon::admin::serve(listener, uids, handler)));
    }
    let readiness = Readiness::new();
    let path_mtu = path_mtu::PathMtu::register(&parts.registry)?;
    if let Some(state) = parts.clock_state {
        let condition = readiness.condition("clock", false);
        let data = control.data.clone();
        serving.spawn(state.follow(condition, move || newest_handshake(data.clone())));
    }
    if let Some(listener) = parts.status {
        serving.spawn(follow_handshakes(control.data.clone(), readiness.condition("peers", false)));
        let process = parts.process;
        let refresh: daemon::status::Hook = Box::new(move || process.refresh());
        let status = daemon::status::serve(listener, parts.registry, readiness, vec![refresh]);
        serving.spawn(logged("metrics listener", status));
    }
    let interface = control.config.interface.clone();
    let (data, epoch) = (control.data.clone(), control.epoch);
    let (unanswered, without_answer) = mpsc::channel(limits::UNANSWERED_QUEUE);
    let (watched, metrics) = (control.watched.clone(), control.metrics.clone());
    let inside = events::Inside { unanswered, watched, metrics };
    serving.spawn(events::run(interface, parts.events, parts.device_events, data, epoch, inside));
    if let Some(every) = control.config.probe_interval {
        serving.spawn(probe::periodically(control.data.clone(), every));
        serving.spawn(path_mtu::follow(Arc::clone(&control), path_mtu));
    }
    serving.spawn(names::follow(Arc::clone(&control), names, without_answer));
    serving.spawn(rotation::follow(Arc::clone(&control), parts.rotations));
    serving.spawn(parts.link.follow(control.data.clone()));
    serving.spawn(parts.routes.follow(control.data.clone()));
    control.metrics.netcfg(control.netcfg.is_there());
    let notify = Arc::new(notify);
    serving.spawn(watchdog(control.data.clone(), Heartbeat::new(Arc::clone(&notify))));

    ready();
    notify.ready();
    let end = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Terminate => break Ended::Stopped,
                // In a task, so that a reload that waits does not keep the next signal waiting.
                Signal::Hangup => drop(tokio::spawn(reload(Arc::clone(&control), Arc::clone(&notify)))),
            },
            end = &mut ended => break end.unwrap_or(Ended::Broken),
            Some(Err(error)) = serving.join_next() => {
                tracing::error!(%error, "a part of the control thread broke");
                break Ended::Broken;
            }
            () = control.netcfg.ended(), if control.netcfg.is_there() => {
                tracing::error!(
                    "wgd-netcfg has ended: the tunnel goes on, but port, mark, routes, configuration and host \
                     names stay as they are until wgd is restarted"
                );
                control.metrics.netcfg(false);
            }
            () = unlinked.wait() => {
                tracing::info!("the configuration socket was removed");
                break Ended::Stopped;
            }
        }
    };
    notify.stopping();
    control.farewell(end, ended).await;
    Ok(end)
}

async fn reload(control: Arc<Control>, notify: Arc<Notify>) {
    notify.reloading();
    control.reload_and_log().await;
    notify.ready();
}

/// The service manager hears of us when the loop that moves the packets has turned, and this one with it.
async fn watchdog(data: Handle, mut heartbeat: Heartbeat) {
    loop {
        heartbeat.due().await;
        if data.ask(Command::Turn).await.is_ok() {
            heartbeat.alive();
        }
    }
}

/// Runs a server that ends only by an error, and says which.
async fn logged(what: &'static str, server: impl Future<Output = io::Result<()>>) {
    if let Err(error) = server.await {
        tracing::error!(%error, what, "no longer served");
    }
}

async fn newest_handshake(data: Handle) -> Option<Instant> {
    let state = data.ask(Command::State).await.ok()?;
    state.peers.iter().filter_map(|peer| peer.last_handshake).max()
}

/// Peers that shall be kept alive are there: their handshakes are young. An interface that exists is no tunnel.
async fn follow_handshakes(data: Handle, peers: Condition) {
    loop {
        peers.set(data.ask(Command::KeptAlive).await.unwrap_or(false));
        tokio::time::sleep(limits::READINESS_PERIOD).await;
    }
}

impl Control {
    /// Carries out a change: what needs privileges first, for it can fail; then the data thread, which cannot.
    async fn apply(&self, update: DeviceUpdate) -> Result<(), ApplyError> {
        let mut current = self.current.lock().await;
        if self.config.profile == Profile::Production
            && let Some(key) = preshared::first_without(&self.state().await?, &update)
        {
            return Err(ApplyError::NoPresharedKey(key.to_base64()));
        }
        self.apply_to(&mut current, update).await
    }

    async fn apply_to(&self, current: &mut Current, mut update: DeviceUpdate) -> Result<(), ApplyError> {
        let sockets = current.sockets.as_ref().ok_or(ApplyError::Ending)?;
        let mark = update.fwmark.unwrap_or(current.mark);
        let fresh = match update.listen_port {
            Some(port) if port == 0 || port != sockets.port() => {
                // As those before, which is as the TUN device is.
                let joined = sockets.v4.joins_segments();
                let (_, opened) = self.netcfg.ask(Request::Bind { port, mark, joined }, &[]).await?;
                Some(UdpSockets::from_descriptors(opened)?)
            }
            Some(_) | None => None,
        };
        if mark != current.mark && fresh.is_none() {
            let descriptors: Vec<BorrowedFd<'_>> = sockets.each().map(AsFd::as_fd).collect();
            self.netcfg.ask(Request::Mark { mark }, &descriptors).await?;
        }
        let for_data = fresh.as_ref().map(UdpSockets::try_clone).transpose()?;
        if let Some(fresh) = fresh {
            update.listen_port = Some(fresh.port());
            current.sockets = Some(fresh);
        }
        current.mark = mark;
        self.data.ask(|done| Command::Apply { update, sockets: for_data, done }).await?;
        Ok(())
    }

    async fn state(&self) -> Result<DeviceState, Unanswered> {
        self.data.ask(Command::State).await
    }

    /// Reads the tunnel's file again and makes the device what it says, without disturbing peers that stay
    /// (`wg syncconf`). A file that is not good changes nothing.
    async fn reload(&self) -> Result<(), ApplyError> {
        let mut current = self.current.lock().await;
        let (_, opened) = self.netcfg.ask(Request::ReadConfig, &[]).await?;
        let elsewhere = self.config.tun_netns.is_some();
        let tunnel = Tunnel::opened(&self.config.tunnel_file(), opened, elsewhere)?;
        if self.config.profile == Profile::Production
            && let Some(key) = tunnel.first_without_preshared_key()
        {
            return Err(ApplyError::NoPresharedKey(key.to_base64()));
        }
        let state = self.state().await?;
        self.apply_to(&mut current, tunnel.synchronising(&state)).await?;
        let configure = tunnel.configure_request();
        if let (Answer::Configured { mtu, .. }, _) = self.netcfg.ask(configure, &[]).await? {
            self.data.tell(Command::Mtu(mtu)).await?;
        }
        self.data.tell(Command::Addresses(tunnel.addresses())).await?;
        if tunnel.policy != current.tunnel.policy {
            self.netcfg.ask(Request::SetPolicy { policy: tunnel.policy }, &[]).await?;
        }
        // Without routes those that were made go.
        let (routes, table) = tunnel.routes(elsewhere).unwrap_or((Vec::new(), conf::MAIN_TABLE));
        self.netcfg.set_routes(&routes, table).await?;
        self.names.send_replace(tunnel.names.clone());
        current.tunnel = tunnel;
        Ok(())
    }

    async fn reload_and_log(self: &Arc<Self>) {
        match self.reload().await {
            Ok(()) => {
                tracing::info!("configuration read again");
                self.metrics.reloaded(true);
            }
            Err(error) => {
                tracing::error!(%error, "configuration not read again; the old one stays in force");
                self.metrics.reloaded(false);
            }
        }
    }

    /// Ends the data thread, frees the port, removes the socket files.
    async fn farewell(&self, end: Ended, ended: oneshot::Receiver<Ended>) {
        if end == Ended::Stopped && self.data.tell(Command::Stop).await.is_ok() {
            let _ = tokio::time::timeout(limits::ANSWER_TIME, ended).await;
        }
        // A change that waits for netcfg just now keeps the lock; then the end of the process frees the port.
        let mut policy = None;
        if let Ok(mut current) = self.current.try_lock() {
            current.sockets = None;
            policy = current.tunnel.policy;
        }
        if policy.is_some() {
            let none = Request::SetPolicy { policy: None };
            match tokio::time::timeout(limits::ANSWER_TIME, self.netcfg.ask(none, &[])).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::info!(%error, "routing rules stay behind until the next start"),
                Err(_) => tracing::warn!("routing rules stay behind: wgd-netcfg does not answer"),
            }
        }
        match tokio::time::timeout(limits::ANSWER_TIME, self.netcfg.ask(Request::RemoveSockets, &[])).await {
            Ok(Ok(_) | Err(NetcfgError::Off | NetcfgError::Gone)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "socket files stay behind"),
            Err(_) => tracing::warn!("socket files stay behind: wgd-netcfg does not answer"),
        }
    }
}
