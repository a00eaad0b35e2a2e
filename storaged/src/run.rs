//! From a configuration to a running store, in the order that the lock-down forces.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use daemon::notify::{Heartbeat, Notify};
use daemon::process_metrics::ProcessMetrics;
use daemon::readiness::Readiness;
use daemon::signals::{Signal, Signals};
use daemon::status::Hook;
use daemon::{Clock, exit};
use linux::secret_memory::Protection;
use linux::unix_datagram::DatagramSocket;
use linux::unix_listener::bind_unix_listener;
use linux::{Confined, ListenFds, Privileged, Sealed, User};
use prometheus::Registry;
use store_proto::CapabilitySigner;
use tokio::sync::mpsc;
use tunnel_events::{Event, What};

use crate::admin::Admin;
use crate::config::{Config, Environment, Fixed, Raw};
use crate::ending::Databases;
use crate::init::LEDGER_FILE;
use crate::keys::{KeyStore as _, Keys, RootKey, StorePurpose};
use crate::ledger::Note;
use crate::ledger::{self, Action, Ending, Host, Ledger, MirrorPlace, Origin, recover};
use crate::ledger_disk::LedgerDisk;
use crate::limits::{EVENT_QUEUE, IO_PATIENCE, IO_THREADS, JOURNAL_DELAY, JOURNAL_PATIENCE};
use crate::metrics::{LedgerTime, Metrics};
use crate::objects::network_fs::network_file_system;
use crate::objects::{Buffers, NasVolume, Pool};
use crate::policy::HostRules;
use crate::policy_in_force::PolicyInForce;
use crate::serve::under_way::UnderWay;
use crate::serve::writers::Writers;
use crate::store::Store;
use crate::volumes::{self, VolumeState};
use crate::whois::Whois;
use crate::{listen, sandbox, serve};

/// What must be had before privileges are dropped.
#[derive(Debug)]
pub struct Acquired {
    internal: TcpListener,
    metrics: TcpListener,
    admin: UnixListener,
    events: DatagramSocket,
    notify: Notify,
    root_key: RootKey,
    registry: Registry,
    process: ProcessMetrics,
    host: Host,
}

/// Opens listeners, sockets and process figures.
pub fn acquire(privileged: &Privileged, fixed: &Fixed) -> anyhow::Result<Acquired> {
    let mut handed_in =
        ListenFds::take(privileged).map_err(|error| daemon::fail(exit::CONFIG, anyhow::Error::new(error)))?;
    let internal = listen::internal(privileged, fixed, &mut handed_in)
        .map_err(|error| daemon::fail(error.exit_code(), anyhow::Error::new(error)))?;
    let metrics = match handed_in.tcp("metrics")? {
        Some(listener) => listener,
        None => bind_metrics(fixed)?,
    };
    let admin = match handed_in.unix("admin")? {
        Some(listener) => listener,
        None => daemon::socket_directory::make(&fixed.admin_socket)
            .and_then(|()| bind_unix_listener(&fixed.admin_socket, 0o660, fixed.run_as))
            .with_context(|| format!("admin_socket: {}", fixed.admin_socket.display()))
            .map_err(|error| daemon::fail(exit::OS, error))?,
    };
    // wgd must be able to send to it, and others need not.
    let owner = match (fixed.run_as, fixed.wgd_user) {
        (Some(user), Some(wgd)) => Some(User { uid: user.uid, gid: wgd.gid }),
        (user, None) => user,
        (None, Some(wgd)) => Some(User { uid: User::current().uid, gid: wgd.gid }),
    };
    let events = match handed_in.datagrams("events")? {
        Some(socket) => socket,
        None => daemon::socket_directory::make(&fixed.events_socket)
            .and_then(|()| DatagramSocket::bind(&fixed.events_socket, 0o660, owner))
            .with_context(|| format!("events_socket: {}", fixed.events_socket.display()))
            .map_err(|error| daemon::fail(exit::OS, error))?,
    };
    for name in handed_in.left_over() {
        tracing::warn!(name, "a listener was handed in that storaged does not use");
    }
    // Now, for Landlock will hide its file.
    let root_key = RootKey::read(&fixed.root_key_file).map_err(|error| daemon::fail(exit::CONFIG, error))?;
    let registry = Registry::new();
    let process = ProcessMetrics::open(&registry)?;
    let notify = Notify::from_environment(privileged).context("connect to the service manager")?;
    // Now, for Landlock will hide where it is read from.
    let host = crate::host::describe(fixed.role);
    Ok(Acquired { internal, metrics, admin, events, notify, root_key, registry, process, host })
}

fn bind_metrics(fixed: &Fixed) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(fixed.metrics_listen)
        .with_context(|| format!("metrics_listen: {}", fixed.metrics_listen))
        .map_err(|error| daemon::fail(exit::OS, error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Opens the ledger and the volumes, ends what a dead process left open, and starts the threads.
/// Everything is opened as the user that will run, so that a wrong owner is found now.
pub fn open(
    _confined: &Confined,
    fixed: &Fixed,
    rules: HostRules,
    root_key: RootKey,
    events: DatagramSocket,
    registry: &Registry,
    host: Host,
) -> anyhow::Result<(Arc<Store>, Databases)> {
    assemble(fixed, rules, root_key, events, registry, host)
}

/// What [`open`] does, for tests that serve from within their own process.
pub fn assemble(
    fixed: &Fixed,
    rules: HostRules,
    root_key: RootKey,
    events: DatagramSocket,
    registry: &Registry,
    host: Host,
) -> anyhow::Result<(Arc<Store>, Databases)> {
    let config = |error: anyhow::Error| daemon::fail(exit::CONFIG, error);
    match network_file_system(&fixed.state_dir) {
        Ok(None) => {}
        Ok(Some(kind)) => {
            return Err(config(anyhow::anyhow!(
                "state_dir: {} is on a network file system ({kind}); the ledger must be on a local one",
                fixed.state_dir.display()
            )));
        }
        Err(error) => {
            return Err(config(anyhow::anyhow!("state_dir: {}: {error}", fixed.state_dir.display())));
        }
    }
    crate::restore::refuse_undecided(&fixed.state_dir).map_err(|why| config(anyhow::Error::msg(why)))?;
    let clock = Clock;
    let metrics = Arc::new(Metrics::register(registry)?);
    let ledger_file = fixed.state_dir.join(LEDGER_FILE);
    let opened = ledger::open(&ledger_file).map_err(|error| config(error.into()))?;
    let store_id = opened.store;
    let keys = Keys::open(&fixed.state_dir, root_key).map_err(|error| config(error.into()))?;
    if keys.store() != store_id {
        return Err(config(anyhow::anyhow!(
            "{}: the keys are of store {}, the ledger is of store {store_id}",
            fixed.state_dir.display(),
            keys.store()
        )));
    }
    match keys.protection() {
        Protection::MemfdSecret => {}
        Protection::Locked(why) => tracing::info!(why, "the root key is in locked memory"),
        Protection::Ordinary(why) => tracing::warn!(why, "the root key's memory is not locked"),
    }
    let keys = Arc::new(keys);
    let mut volumes = Vec::new();
    for volume in &fixed.volumes {
        let opened =
            NasVolume::open(&volume.name, &volume.path, store_id).map_err(|error| config(error.into()))?;
        let pool = Pool::start(IO_THREADS).context("start a volume's threads")?;
        let (name, reserve) = (volume.name.clone(), volume.reserve_bytes);
        volumes.push(Arc::new(VolumeState::new(name, Arc::new(opened), pool, reserve)));
    }
    let database = Arc::clone(&opened.database);
    let directory = fixed.journal_mirror.clone();
    let mirror = MirrorPlace { directory, patience: JOURNAL_PATIENCE, delay: JOURNAL_DELAY };
    let (ledger, writer) =
        Ledger::start(opened, keys.clone(), Some(mirror), host, LedgerTime::new(clock), metrics.observer())
            .map_err(|error| config(error.into()))?;
    let recovered = recover::recover(&ledger, |claim| match volumes::find(&volumes, claim.volume) {
        Some(volume) => volume.backend.remove(claim.object),
        None => Err(std::io::Error::other("its volume is not configured")),
    })?;
    if recovered != recover::Recovered::default() {
        tracing::warn!(
            uploads = recovered.uploads,
            downloads = recovered.downloads,
            "closed operations that a dead process had left open"
        );
    }
    let ledger_disk = LedgerDisk::open(&fixed.state_dir, fixed.state_reserve_bytes)
        .with_context(|| format!("state_dir: {}", fixed.state_dir.display()))?;
    let mut trusted = vec![0, User::current().uid];
    trusted.extend(fixed.wgd_user.map(|user| user.uid));
    let whois =
        Whois::new(events, fixed.wgd_socket.clone(), trusted, clock).context("watch the events socket")?;
    let databases = Databases { writer, ledger: database, keys: Arc::clone(&keys) };
    let store = Store {
        role: fixed.role,
        policy: PolicyInForce::open(rules, ledger.reader()).context("read who may do what")?,
        ledger,
        signer: CapabilitySigner::from_seed(keys.store_key(StorePurpose::Capabilities).as_bytes()),
        keys,
        live: Arc::default(),
        seen: crate::seen::Seen::default(),
        volumes,
        ledger_disk,
        io_patience: IO_PATIENCE,
        writers: Writers::default(),
        under_way: UnderWay::default(),
        upload_expiry: fixed.upload_expiry,
        scrub: fixed.scrub,
        buffers: Buffers::new(fixed.transfers),
        whois: Arc::new(whois),
        access_monitor: crate::access_monitor::AccessMonitor::default(),
        strangers: crate::strangers::Strangers::default(),
        metrics,
        drain: daemon::drain::Drain::new(fixed.drain),
        clock,
    };
    Ok((Arc::new(store), databases))
}

/// The whole life of a storaged: to be called on the only thread of the process.
pub fn run(config: Config, raw: Raw, environment: Environment) -> anyhow::Result<()> {
    let privileged = Privileged::at_startup().map_err(|error| daemon::fail(exit::SOFTWARE, error))?;
    let Config { fixed, rules } = config;
    let acquired = acquire(&privileged, &fixed)?;
    let confined = privileged
        .confine(&sandbox::confinement(&fixed))
        .map_err(|error| daemon::fail(exit::PERMISSION, error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("serve").build()?;
    // Entered, not blocked on: opening waits for the ledger's thread, which a runtime's own thread must not.
    let entered = runtime.enter();
    let Acquired { internal, metrics, admin, events, notify, root_key, registry, process, host } = acquired;
    let (store, databases) = open(&confined, &fixed, rules, root_key, events, &registry, host)?;
    let sockets = Sockets { internal, metrics, admin, notify, registry, process, signals: Signals::new()? };
    let sealed = confined.seal(sandbox::SYSCALLS).map_err(|error| daemon::fail(exit::OS, error))?;
    drop(entered);
    let ended = runtime.block_on(serve_until_told(sealed, store, fixed, raw, environment, sockets));
    // All tasks end, and with them the last handles on the store.
    drop(runtime);
    databases.close();
    ended
}

struct Sockets {
    internal: TcpListener,
    metrics: TcpListener,
    admin: UnixListener,
    notify: Notify,
    registry: Registry,
    process: ProcessMetrics,
    signals: Signals,
}

async fn serve_until_told(
    sealed: Sealed,
    store: Arc<Store>,
    fixed: Fixed,
    raw: Raw,
    environment: Environment,
    sockets: Sockets,
) -> anyhow::Result<()> {
    let Sockets { internal, metrics, admin, notify, registry, process, mut signals } = sockets;
    daemon::metrics::build_info(&registry, "storaged")?;
    daemon::metrics::lockdown(&registry, "storaged", sealed.lockdown())?;
    store.metrics.configured(store.clock.unix_milliseconds());
    let readiness = Readiness::new();
    let serving = readiness.condition("serving", false);
    let hooks = hooks(&store, &readiness, process, fixed.state_dir.join(LEDGER_FILE));
    tokio::spawn(daemon::status::serve(metrics, registry, readiness, hooks));

    let (tunnel, told) = mpsc::channel(EVENT_QUEUE);
    let whois = Arc::clone(&store.whois);
    tokio::spawn(async move {
        // A full queue drops events, and the cache was emptied all the same.
        let heard = whois.listen(|event| drop(tunnel.try_send(event))).await;
        tracing::error!(error = ?heard.err(), "the events socket broke");
    });
    tokio::spawn(record_events(Arc::clone(&store), told));
    tokio::spawn(Arc::clone(&store).watch_volumes());
    tokio::spawn(Arc::clone(&store).watch_ledger_disk());
    tokio::spawn(Arc::clone(&store).count_unclaimed());
    tokio::spawn(Arc::clone(&store).settle_strangers_each_minute());
    tokio::spawn(crate::reaper::run(Arc::clone(&store)));
    tokio::spawn(crate::keeper::run(Arc::clone(&store)));
    tokio::spawn(crate::deletion::run(Arc::clone(&store)));
    tokio::spawn(crate::integrity::existence::run(Arc::clone(&store)));
    for volume in &store.volumes {
        tokio::spawn(crate::integrity::scrub::run(Arc::clone(&store), Arc::clone(volume)));
    }
    tokio::spawn(serve::expiry::expire_uploads(Arc::clone(&store)));

    let operators = fixed.admin_users.iter().chain(&fixed.auditor_users);
    let allowed = operators.map(|user| user.uid).chain([User::current().uid]).collect();
    let (connections, grace) = (fixed.connections, fixed.drain);
    let handler = Admin::new(Arc::clone(&store), fixed, environment, raw, sealed.lockdown());
    tokio::spawn(daemon::admin::serve(admin, allowed, Arc::new(handler)));

    let started = Note {
        detail: store.policy.load().rules().providers.summary(),
        ..Note::new(Action::AdminStarted, Ending::Succeeded, Origin::default())
    };
    store.note(started).await.context("record the start")?;
    let listener = tokio::net::TcpListener::from_std(internal)?;
    let notify = Arc::new(notify);
    tracing::info!(address = %listener.local_addr()?, role = store.role.name(), "serving");
    warn_of_missing_layers(&sealed);
    let serving_task = tokio::spawn(serve::serve(
        listener,
        Arc::clone(&store),
        connections,
        Heartbeat::new(Arc::clone(&notify)),
    ));
    serving.set(true);
    notify.ready();

    wait_for_the_end(&mut signals).await;
    serving.set(false);
    notify.stopping();
    let began = store.clock.now();
    store.drain.begin();
    let left = tokio::select! {
        left = store.drain.finished() => left,
        () = wait_for_the_end(&mut signals) => store.drain.running(),
    };
    let _ = serving_task.await;
    store.empty_spools(grace.saturating_sub(store.clock.now().duration_since(began))).await;
    store.settle_strangers(true).await;
    let mut stopped = Note::new(Action::AdminStopped, Ending::Succeeded, Origin::default());
    stopped.detail = Some(format!("{left} requests were cut off"));
    store.note(stopped).await.context("record the end")?;
    tracing::info!(left, "stopped");
    Ok(())
}

fn hooks(
    store: &Arc<Store>,
    readiness: &Readiness,
    process: ProcessMetrics,
    ledger_file: PathBuf,
) -> Vec<Hook> {
    let ledger = readiness.condition("ledger", true);
    let volumes = readiness.condition("volume", true);
    let watched = Arc::clone(store);
    tokio::spawn(async move {
        loop {
            ledger.set(watched.ledger.is_usable());
            volumes.set(watched.has_volume());
            tokio::time::sleep(crate::limits::READINESS_CHECK).await;
        }
    });
    let counted = Arc::clone(store);
    vec![
        Box::new(move || process.refresh()),
        Box::new(move || {
            counted.metrics.refresh(&counted.ledger, counted.keys.epoch(), &ledger_file);
            counted.metrics.refresh_keys(&counted.keys, counted.clock.unix_milliseconds());
        }),
    ]
}

/// SIGHUP asks for a reload, which a sealed process cannot do by itself.
async fn wait_for_the_end(signals: &mut Signals) {
    loop {
        match signals.next().await {
            Signal::Terminate => return,
            Signal::Hangup => {
                tracing::warn!("SIGHUP is ignored: `culvert reload storaged` brings the configuration in");
            }
        }
    }
}

async fn record_events(store: Arc<Store>, mut told: mpsc::Receiver<Event>) {
    while let Some(event) = told.recv().await {
        let action = match event.what {
            What::Up => Action::TunnelUp,
            What::Down => Action::TunnelDown,
            What::Roamed => Action::TunnelRoamed,
            What::KeyChanged => Action::TunnelKeyChanged,
            // Every two minutes and per peer: wgd's metrics count them.
            What::Handshake => continue,
        };
        let origin = Origin {
            edge: event.peer.parse().ok(),
            peer_public_key: Some(event.public_key),
            ..Origin::default()
        };
        let note = Note { detail: Some(event.interface), ..Note::new(action, Ending::Succeeded, origin) };
        if store.note(note).await.is_err() {
            tracing::warn!(action = action.name(), "an event of the tunnel could not be recorded");
        }
    }
}

fn warn_of_missing_layers(sealed: &Sealed) {
    for (layer, why) in sealed.lockdown().missing() {
        tracing::warn!(layer = layer.name(), why, "a layer of the lock-down is missing");
    }
}

/// What is allowed and should not stay.
pub fn warn_of_findings(config: &Config, environment: &Environment) {
    if environment.internal_api_key.is_some() {
        tracing::warn!(
            "INTERNAL_API_KEY is in the environment, where others can read it; use internal_api_key_file"
        );
    }
    if config.fixed.role == store_proto::ServerRole::Testing {
        tracing::warn!("role testing: this is not a production store");
    }
    if config.fixed.run_as.is_none() && User::current().uid == 0 {
        tracing::warn!("run_as is not set, so storaged stays root");
    }
}
