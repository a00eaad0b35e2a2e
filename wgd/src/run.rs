//! From the command line to the running tunnel, in the only order that works.
//!
//! Invariant: what needs privileges happens in [`acquire`] or before; no byte from outside is read before
//! [`Workers::seal`]. Each stage consumes the one before it, so the order cannot be changed by accident.
mod doors;

use crate::clock_state::ClockState;
use crate::conf::{self, Tunnel};
use crate::config::{Cli, Config, Profile};
use crate::control::{self, LinkMonitor, Parts, RouteMonitor, UapiDoor, Unlinked};
use crate::io::{self, DataPlane, Ended, Handle};
use crate::metrics::Metrics;
use crate::netcfg::{Answer, Netcfg, NetcfgError, Request, Setup};
use crate::parts::{self, OpenedThere};
use crate::predecessor::outwait;
use crate::{limits, sandbox};
use anyhow::{Context as _, anyhow};
use daemon::exit;
use daemon::notify::Notify;
use daemon::process_metrics::ProcessMetrics;
use daemon::signals::Signals;
use daemon::{Clock, fail};
use doors::Doors;
use linux::background::{Background, Side, go_to_background};
use linux::secret_memory::Protection;
use linux::tun::{Tun, TunError, WantedDevice};
use linux::udp::UdpSockets;
use linux::{Confined, LayerState, ListenFds, Privileged, Sealed};
use prometheus::Registry;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use wg_proto::uapi::Epoch;
use wg_proto::{Device, DeviceUpdate, Keeper};

/// The names of listeners that a service manager can hand in.
const ADMIN: &str = "admin";
const EVENTS: &str = "events";
const METRICS: &str = "metrics";
const UAPI: &str = "uapi";

/// Where a started daemon goes on.
pub enum Start {
    /// In this process.
    Here(Started),
    /// In a child; this process exits with the code.
    Elsewhere(u8),
}

/// A process that is to become the daemon.
pub struct Started {
    /// With all its rights.
    pub privileged: Privileged,
    /// The way to let the waiting parent go, when there is one.
    pub background: Option<Background>,
    listeners: ListenFds,
    /// Handed in by `--tun-fd`.
    tun: Option<Tun>,
    /// Handed in by `--uapi-fd` or the service manager.
    uapi: Option<UapiDoor>,
}

/// Everything that could only be opened with privileges.
pub struct Opened {
    config: Config,
    tunnel: Tunnel,
    runtime: Runtime,
    netcfg: Netcfg,
    tun: Tun,
    mtu: u16,
    sockets: UdpSockets,
    doors: Doors,
    signals: Signals,
    unlinked: Unlinked,
    link: LinkMonitor,
    routes: RouteMonitor,
    notify: Notify,
    registry: Registry,
    process: ProcessMetrics,
    clock_state: Option<ClockState>,
}

/// After `confine`: no capability any more.
pub struct Unprivileged {
    confined: Confined,
    opened: Opened,
}

/// With its threads, none of which has read anything yet.
pub struct Workers {
    confined: Confined,
    runtime: Runtime,
    parts: Parts,
    first: DeviceUpdate,
    go: Sender<()>,
}

/// Ready to run.
pub struct Ready {
    sealed: Sealed,
    runtime: Runtime,
    parts: Parts,
    first: DeviceUpdate,
    go: Sender<()>,
}

/// Prints what clap has to say and picks the exit code.
#[must_use]
pub fn usage(error: &clap::Error) -> ExitCode {
    // A closed stdout or stderr is nobody's loss.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS }
}

/// Logs and panics, before anything can go wrong.
///
/// # Errors
/// When the log level cannot be understood.
pub fn prepare(config: &Config) -> anyhow::Result<()> {
    daemon::logging::init(&config.log)?;
    daemon::install_panic_hook();
    Ok(())
}

/// Reads the interface's file and checks it against the profile.
///
/// # Errors
/// Naming file, line and key.
pub fn read_tunnel(config: &Config) -> anyhow::Result<Tunnel> {
    let path = config.tunnel_file();
    let strict = config.profile == Profile::Production;
    let tunnel = Tunnel::load(&path, strict, config.tun_netns.is_some()).map_err(|error| {
        let code = match &error {
            conf::ConfError::Read { .. } => exit::NO_INPUT,
            conf::ConfError::Content(_) => exit::CONFIG,
        };
        fail(code, error)
    })?;
    demand_preshared_keys(config, &tunnel)?;
    Ok(tunnel)
}

/// What the production profile wants of every peer.
pub(crate) fn demand_preshared_keys(config: &Config, tunnel: &Tunnel) -> anyhow::Result<()> {
    let Some(key) = tunnel.first_without_preshared_key().filter(|_| config.profile == Profile::Production)
    else {
        return Ok(());
    };
    let path = config.tunnel_file();
    let path = path.display();
    let error =
        anyhow!("{path}: PresharedKey: peer {key} has none, and profile = \"production\" demands one");
    Err(fail(exit::CONFIG, error))
}

/// What the interface begins with: its file, unless wg-quick is about to carry that out.
///
/// # Errors
/// Naming file, line and key.
pub fn first_tunnel(cli: &Cli, config: &Config, netcfg: &mut Netcfg) -> anyhow::Result<Tunnel> {
    if config.netcfg_at.is_some() {
        return parts::first_tunnel(config, netcfg);
    }
    if cli.wg_quick_configures() {
        tracing::info!("wg-quick configures the interface; its file is left alone");
        return Ok(Tunnel::unconfigured());
    }
    read_tunnel(config)
}

/// Answers `--check-config` and `--print-config`; true if that was all.
///
/// # Errors
/// When the interface's file is not good, or stdout is closed.
pub fn only_asked(cli: &Cli, config: &Config) -> anyhow::Result<bool> {
    use std::io::Write;
    if !cli.print_config && !cli.check_config {
        return Ok(false);
    }
    read_tunnel(config)?;
    let mut out = std::io::stdout();
    if cli.print_config {
        write!(out, "{}", config.print())?;
    } else if cli.check_config {
        let tunnel = config.tunnel_file();
        let found =
            if tunnel.exists() { "is good" } else { "does not exist: wg set will configure the interface" };
        writeln!(out, "{}: {found}", tunnel.display())?;
        if let Some(file) = &config.file {
            writeln!(out, "{}: is good", file.display())?;
        }
    }
    Ok(true)
}

/// Takes stock of privileges and handed-in listeners, then goes to the background unless told otherwise.
///
/// # Errors
/// When the process cannot be forked, or the listeners are not what they are called.
pub fn begin(cli: &Cli, config: &mut Config) -> anyhow::Result<Start> {
    let privileged = Privileged::at_startup().map_err(|error| fail(exit::OS, error))?;
    if !linux::allocator::use_one_arena(&privileged) {
        return Err(fail(
            exit::OS,
            anyhow!("the allocator keeps its arenas, which would open files after the seal"),
        ));
    }
    // Before the fork: they are meant for this process id.
    let mut listeners = ListenFds::take(&privileged).map_err(|error| fail(exit::CONFIG, error))?;
    let (tun, uapi) = take_handed_in(cli, &privileged, &mut listeners)?;
    if let Some(tun) = &tun {
        let is_other = match config.device {
            WantedDevice::Auto => false,
            WantedDevice::Offload => tun.offloads().is_none(),
            WantedDevice::Plain => tun.offloads().is_some(),
        };
        if is_other {
            let error = anyhow!(
                "--tun-fd: whoever opened the device chose the other kind (IFF_VNET_HDR) than `device` demands"
            );
            return Err(fail(exit::CONFIG, error));
        }
        // As wireguard-go: the kernel knows what the interface is called.
        tun.name().clone_into(&mut config.interface);
    }
    for what in cli.ignored() {
        tracing::info!("accepted and ignored: {what}");
    }
    if config.foreground {
        return Ok(Start::Here(Started { privileged, background: None, listeners, tun, uapi }));
    }
    match go_to_background(privileged, cli.log_is_wanted()).map_err(|error| fail(exit::OS, error))? {
        Side::Parent(code) => Ok(Start::Elsewhere(code)),
        Side::Child(privileged, background) => {
            Ok(Start::Here(Started { privileged, background: Some(background), listeners, tun, uapi }))
        }
    }
}

/// The TUN device and the configuration socket, where somebody else opened them.
fn take_handed_in(
    cli: &Cli,
    privileged: &Privileged,
    listeners: &mut ListenFds,
) -> anyhow::Result<(Option<Tun>, Option<UapiDoor>)> {
    let bad = |what: &'static str, number: i32, error: anyhow::Error| {
        fail(exit::CONFIG, error.context(format!("{what}: descriptor {number}")))
    };
    if cli.tun_fd.is_some() && cli.tun_fd == cli.uapi_fd {
        let error = anyhow!("--tun-fd and --uapi-fd name the same descriptor");
        return Err(fail(exit::CONFIG, error));
    }
    let take = |what: &'static str, number: Option<i32>| {
        let Some(number) = number else { return Ok(None) };
        if listeners.holds(number) {
            return Err(bad(what, number, anyhow!("LISTEN_FDS hands it in as well")));
        }
        let taken = linux::inherited::take(privileged, number);
        taken.map(|descriptor| Some((descriptor, number))).map_err(|error| bad(what, number, error.into()))
    };
    let tun = match take("--tun-fd", cli.tun_fd)? {
        Some((descriptor, number)) => {
            let tun = Tun::from_descriptor(privileged, descriptor);
            Some(tun.map_err(|error| bad("--tun-fd", number, error.into()))?)
        }
        None => None,
    };
    let uapi = match take("--uapi-fd", cli.uapi_fd)? {
        Some((descriptor, number)) => {
            let door = UapiDoor::from_descriptor(descriptor);
            Some(door.map_err(|error| bad("--uapi-fd", number, error.into()))?)
        }
        None => None,
    };
    let by_name = listeners.descriptor(UAPI).map(UapiDoor::from_descriptor).transpose();
    let by_name =
        by_name.map_err(|error| fail(exit::CONFIG, anyhow!("handed-in listener {UAPI:?}: {error}")))?;
    Ok((tun, uapi.or(by_name)))
}

/// Starts `wgd-netcfg`, or makes ready to do its work here for as long as there are privileges. It comes before
/// [`read_tunnel`], because a forked process has a copy of every key that was read.
///
/// # Errors
/// When the process cannot be forked or a directory cannot be made.
pub fn fork_netcfg(started: Started, config: &Config) -> anyhow::Result<(Started, Netcfg)> {
    if let Some(path) = &config.netcfg_at {
        let Started { privileged, background, listeners, tun, uapi } = started;
        let connected = Netcfg::connect(privileged, path, config.user);
        let connected = connected.with_context(|| format!("--netcfg {}", path.display()));
        let (privileged, netcfg) = connected.map_err(|error| fail(exit::OS, error))?;
        keep_secrets(&privileged)?;
        return Ok((Started { privileged, background, listeners, tun, uapi }, netcfg));
    }
    // A socket that was handed in belongs to the service manager, its file as well.
    let admin = config.admin_socket.clone().filter(|_| !started.listeners.has(ADMIN));
    let events = config.events_socket.clone().filter(|_| !started.listeners.has(EVENTS));
    let uapi = Some(config.uapi_socket()).filter(|_| started.uapi.is_none());
    let socket_files: Vec<PathBuf> = [uapi, admin, events].into_iter().flatten().collect();
    for path in &socket_files {
        daemon::socket_directory::make(path).map_err(|error| fail(exit::OS, error))?;
    }
    let setup = Setup {
        interface: config.interface.clone(),
        namespace: config.open_netns()?,
        config_path: config.tunnel_file(),
        socket_files,
        resolver_user: config.user,
        low_ports: config.file.is_none(),
        require_all: config.profile == Profile::Production,
        to_background: started.background.is_some(),
    };
    if !config.netcfg {
        let netcfg = Netcfg::here(&started.privileged, &setup)?;
        keep_secrets(&started.privileged)?;
        return Ok((started, netcfg));
    }
    let Started { privileged, background, listeners, tun, uapi } = started;
    let (privileged, netcfg) = Netcfg::fork(privileged, &setup).map_err(|error| fail(exit::OS, error))?;
    keep_secrets(&privileged)?;
    Ok((Started { privileged, background, listeners, tun, uapi }, netcfg))
}

/// From here on keys lie where nobody else reads them. After the last fork, which does not hand such memory on.
fn keep_secrets(privileged: &Privileged) -> anyhow::Result<()> {
    let protection = linux::secret_arena::open(privileged, limits::SECRET_BYTES).context("room for keys")?;
    if let Protection::Locked(why) | Protection::Ordinary(why) = protection {
        tracing::info!(memory = protection.name(), why, "root can read the keys in this process's memory");
    }
    wg_proto::keep_with(Keeper {
        within: |work| linux::secret_arena::within(work),
        wipe_stack: linux::secret_arena::wipe_stack,
    });
    Ok(())
}

/// Opens everything: TUN, addresses and routes, UDP sockets, and where others come in.
///
/// # Errors
/// Naming what could not be opened.
pub fn acquire(
    started: Started,
    config: Config,
    tunnel: Tunnel,
    mut netcfg: Netcfg,
) -> anyhow::Result<(Privileged, Option<Background>, Opened)> {
    let Started { privileged, background, mut listeners, tun, uapi } = started;
    let namespace = config.open_netns()?;
    let fetched =
        config.netcfg_at.is_some().then(|| OpenedThere::fetch(&privileged, &mut netcfg)).transpose()?;
    let (tun, link) = fetched.map_or((tun, None), |OpenedThere { tun, link }| (Some(tun), Some(link)));
    let tun = match (tun, &namespace) {
        (Some(tun), _) => Ok(Ok(tun)),
        (None, Some(namespace)) => {
            namespace.within(&privileged, || Tun::create(&privileged, &config.interface, config.device))
        }
        (None, None) => Ok(Tun::create(&privileged, &config.interface, config.device)),
    };
    let tun = tun.context("enter tun_netns").map_err(|error| fail(exit::PERMISSION, error))?;
    let tun = tun.map_err(|error| fail(code_of_tun(&error), error))?;
    if tun.offloads().is_none() && config.device == WantedDevice::Auto {
        tracing::info!("the kernel has no offloads for the tun device: each packet is a system call");
    }

    let (mtu, index) = match ask(&mut netcfg, tunnel.configure_request())? {
        (Answer::Configured { mtu, index }, _) => (mtu, index),
        (other, _) => return Err(anyhow!("wgd-netcfg answers {other:?}")),
    };
    match netcfg.ask(Request::SetPolicy { policy: tunnel.policy }, &[]) {
        Ok(_) => {}
        // Nothing is wanted; what could not be looked for is nobody's loss.
        Err(error) if tunnel.policy.is_none() => {
            tracing::debug!(%error, "look for rules that were left behind")
        }
        Err(error) => return Err(refused(error)),
    }
    if let Some((routes, table)) = tunnel.routes(namespace.is_some()) {
        netcfg.set_routes(&routes, table).map_err(refused)?;
    }
    // A plain device stands for doing without: nothing comes in one piece either.
    let joined = tun.offloads().is_some();
    let bind = || Request::Bind { port: tunnel.listen_port(), mark: tunnel.fwmark(), joined };
    let bound = outwait(|| netcfg.ask(bind(), &[]), |error| error.errno() == libc::EADDRINUSE);
    let sockets = UdpSockets::from_descriptors(bound.map_err(refused)?.1).context("UDP sockets")?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let doors = Doors::open(&config, &mut listeners, uapi)?;
    for name in listeners.left_over() {
        tracing::warn!(name, "a listener was handed in that this daemon does not know");
    }
    let registry = Registry::new();
    let opened = Opened {
        signals: Signals::new()?,
        unlinked: match doors.uapi.path() {
            Some(path) => Unlinked::watch(path).context("watch the configuration socket")?,
            None => Unlinked::never(),
        },
        link: match link {
            Some(link) => LinkMonitor::over(link, index),
            None => LinkMonitor::open(&privileged, namespace.as_ref(), index),
        }
        .context("open netlink")?,
        routes: RouteMonitor::open().context("open netlink")?,
        notify: Notify::from_environment(&privileged).context("NOTIFY_SOCKET")?,
        process: ProcessMetrics::open(&registry)?,
        clock_state: open_clock_state(&config, &registry)?,
        registry,
        config,
        tunnel,
        netcfg,
        tun,
        mtu,
        sockets,
        doors,
        runtime: {
            drop(guard);
            runtime
        },
    };
    Ok((privileged, background, opened))
}

impl Opened {
    /// Gives up every privilege.
    ///
    /// # Errors
    /// When that is impossible, or the profile demands a layer that this kernel lacks.
    pub fn confine(self, privileged: Privileged) -> anyhow::Result<Unprivileged> {
        let confined = privileged
            .confine(&sandbox::confinement(&self.config))
            .map_err(|error| fail(exit::PERMISSION, error))?;
        for (layer, state) in &confined.lockdown().layers {
            if let LayerState::Off(why) | LayerState::Partial(why) = state {
                // A production profile does not come this far.
                tracing::info!(layer = layer.name(), why, "a layer of the lock-down is missing");
            }
        }
        Ok(Unprivileged { confined, opened: self })
    }
}

impl Unprivileged {
    /// Starts the data thread, which waits for [`Ready::run`] before it reads anything.
    ///
    /// # Errors
    /// When the process is out of threads or descriptors.
    pub fn start(self) -> anyhow::Result<Workers> {
        let Opened {
            config, tunnel, runtime, netcfg, tun, mtu, sockets, doors, signals, unlinked, link, ..
        } = self.opened;
        let Opened { routes, notify, registry, process, clock_state, .. } = self.opened;
        let (data, inbox) = io::channel()?;
        let (event_sender, device_events) = mpsc::channel(limits::EVENT_QUEUE);
        let mut device = Device::new();
        device.set_mtu(mtu);
        device.set_addresses(tunnel.addresses());
        let (rotation_sender, rotations) = mpsc::channel(limits::ROTATION_QUEUE);
        let mut first = tunnel.first_update();
        first.listen_port = Some(sockets.port());
        let plane = DataPlane::new(device, tun, sockets.try_clone()?, inbox, event_sender, mtu)
            .with_rotations(rotation_sender)
            .with_own_addresses(tunnel.addresses());
        let (go, ended) = start_data_thread(plane)?;

        let delay = config.handshake_delay_metric;
        let metrics =
            Metrics::register(&registry, &config.interface, data.clone(), tunnel.key_created, delay)?;
        daemon::metrics::build_info(&registry, "wgd")?;
        let netcfg = {
            let _guard = runtime.enter();
            netcfg.into_running()?
        };
        let epoch = Epoch { instant: Clock.now(), wall: Clock.wall() };
        let Doors { uapi, admin, status, events } = doors;
        let parts = Parts {
            config,
            data,
            netcfg,
            sockets,
            tunnel,
            device_events,
            rotations,
            ended,
            uapi,
            unlinked,
            link,
            routes,
            admin,
            status,
            events,
            signals,
            registry,
            metrics,
            process,
            clock_state,
            notify,
            epoch,
        };
        Ok(Workers { confined: self.confined, runtime, parts, first, go })
    }
}

impl Workers {
    /// Puts the system-call filter on all threads.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn seal(self) -> anyhow::Result<Ready> {
        let sealed = self.confined.seal(sandbox::WGD).map_err(|error| fail(exit::PERMISSION, error))?;
        daemon::metrics::lockdown(&self.parts.registry, "wgd", sealed.lockdown())?;
        Ok(Ready { sealed, runtime: self.runtime, parts: self.parts, first: self.first, go: self.go })
    }
}

impl Ready {
    /// Runs until the tunnel ends.
    ///
    /// # Errors
    /// When the data thread breaks.
    pub fn run(self, background: Option<Background>) -> anyhow::Result<()> {
        let Self { sealed, runtime, parts, first, go } = self;
        let (interface, port) = (parts.config.interface.clone(), parts.sockets.port());
        configure_first(&parts.data, first, &go)?;
        let ready = move || {
            tracing::info!(interface, port, "tunnel is ready");
            if let Some(background) = background
                && let Err(error) = background.ready()
            {
                tracing::debug!(%error, "nobody waits for this daemon any more");
            }
        };
        match runtime.block_on(control::run(&sealed, parts, ready))? {
            Ended::Stopped => tracing::info!("ended"),
            Ended::LinkDeleted => tracing::info!("ended: the interface was deleted"),
            Ended::Broken => return Err(fail(exit::SOFTWARE, anyhow!("a thread broke; the log says where"))),
        }
        Ok(())
    }
}

/// The state file, and a first look at the clock: before the first handshake, which a peer would refuse.
fn open_clock_state(config: &Config, registry: &Registry) -> anyhow::Result<Option<ClockState>> {
    let Some(directory) = &config.state_directory else { return Ok(None) };
    let mut state = ClockState::open(directory, &config.interface)
        .with_context(|| format!("state file {}/{}.clock", directory.display(), config.interface))
        .map_err(|error| fail(exit::NO_INPUT, error))?;
    state.register(registry)?;
    state.look(Clock.wall());
    Ok(Some(state))
}

/// Lets the data thread begin; its first work is the configuration.
fn configure_first(data: &Handle, update: DeviceUpdate, go: &Sender<()>) -> anyhow::Result<()> {
    go.send(()).map_err(|_| anyhow!("the data thread is gone"))?;
    let apply = |done| io::Command::Apply { update, sockets: None, done };
    Ok(data.ask_blocking(apply)?)
}

fn start_data_thread(plane: DataPlane) -> anyhow::Result<(Sender<()>, oneshot::Receiver<Ended>)> {
    let (go, wait): (Sender<()>, Receiver<()>) = channel();
    let (started, has_started) = channel();
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("wgd-data".into()).spawn(move || {
        // From here on the thread makes no system call that only a new thread makes.
        let _ = started.send(());
        if wait.recv().is_ok() {
            let _ = end.send(plane.run());
        }
    })?;
    has_started.recv().context("start the data thread")?;
    Ok((go, ended))
}

fn ask(netcfg: &mut Netcfg, request: Request) -> anyhow::Result<(Answer, Vec<std::os::fd::OwnedFd>)> {
    netcfg.ask(request, &[]).map_err(refused)
}

fn refused(error: NetcfgError) -> anyhow::Error {
    let code = match error.errno() {
        libc::EPERM | libc::EACCES => exit::PERMISSION,
        _ => exit::OS,
    };
    fail(code, error)
}

fn code_of_tun(error: &TunError) -> u8 {
    match error {
        TunError::Name(_) | TunError::NotTun(_) => exit::CONFIG,
        TunError::Missing(_) | TunError::InUse { .. } | TunError::Offload { .. } | TunError::Other { .. } => {
            exit::OS
        }
        TunError::Permission { .. } => exit::PERMISSION,
    }
}
