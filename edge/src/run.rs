//! The running edge: what is started before the seal, and what runs after it until drained.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use daemon::Clock;
use daemon::admin;
use daemon::drain::Drain;
use daemon::exit;
use daemon::notify::{Heartbeat, Notify};
use daemon::process_metrics::ProcessMetrics;
use daemon::readiness::{Condition, Readiness};
use daemon::signals::{Signal, Signals};
use http::HeaderValue;
use identity::Issuers;
use linux::{Confined, Sealed};
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::acquire::Listeners;
use crate::config::{Config, Environment, Users};
use crate::control::Control;
use crate::gate::Gate;
use crate::limits::WORKERS;
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::request::{Edge, Live};
use crate::store::Store;
use crate::store_client::StoreClient;
use crate::tls::Tls;
use crate::upstream::{Upstream, Upstreams};
use crate::witness::Witness;
use crate::{events, listen, lockouts, tunnel};

/// Threads and descriptors that must exist before the seal; nothing is served yet.
pub struct Workers {
    runtime: Runtime,
    signals: Signals,
    notify: Arc<Notify>,
}

impl Workers {
    /// Starts the runtime. Borrowing `Confined` shows that its threads inherit the confinement.
    pub fn start(_confined: &Confined, notify: Notify) -> anyhow::Result<Workers> {
        let started = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&started);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("edge-worker")
            .on_thread_start(move || {
                counting.fetch_add(1, Ordering::AcqRel);
            })
            .enable_all()
            .build()
            .context("start the runtime")?;
        // A thread makes system calls while it starts that the seal does not allow: wait for them.
        while started.load(Ordering::Acquire) < WORKERS {
            std::thread::sleep(Duration::from_millis(1));
        }
        let signals = runtime.block_on(async { Signals::new() }).context("register signal handlers")?;
        Ok(Workers { runtime, signals, notify: Arc::new(notify) })
    }
}

/// Everything `run` needs beside the workers.
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Its users.
    pub users: Users,
    /// The environment, for reloads.
    pub environment: Environment,
    /// The internal key.
    pub internal_key: HeaderValue,
    /// The certificate and its key.
    pub tls: Option<Tls>,
    /// The identity providers.
    pub issuers: Issuers,
    /// Each storaged's log, from the floor on, in the order of the configuration.
    pub witnesses: Vec<Witness>,
    /// Open sockets.
    pub listeners: Listeners,
    /// Where metrics are gathered.
    pub registry: Registry,
    /// Opened before the confinement, which leaves no path to `/proc`.
    pub process: ProcessMetrics,
}

/// Serves until drained. `Sealed` shows that the filter is on every thread.
pub fn run(sealed: &Sealed, workers: Workers, start: Start) -> anyhow::Result<()> {
    let Workers { runtime, signals, notify } = workers;
    daemon::metrics::build_info(&start.registry, "edge")?;
    daemon::metrics::lockdown(&start.registry, "edge", sealed.lockdown())?;
    for (layer, why) in sealed.lockdown().missing() {
        tracing::warn!(layer = layer.name(), why, "a layer of the lock-down is missing");
    }
    let result = runtime.block_on(serve(sealed, signals, notify, start));
    // Connections that outlived the grace end here, with the runtime.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve(
    sealed: &Sealed,
    mut signals: Signals,
    notify: Arc<Notify>,
    start: Start,
) -> anyhow::Result<()> {
    let Start {
        config,
        users,
        environment,
        internal_key,
        tls,
        issuers,
        witnesses,
        listeners,
        registry,
        process,
    } = start;
    let readiness = Readiness::new();
    let serving = readiness.condition("serving", true);
    let metrics = Metrics::new(&registry)?;
    let live = Live { limits: config.limits, internal_key, tls, issuers };
    let edge = edge(&config, live, witnesses, &readiness, metrics);
    edge.metrics.reload_successful.set(1);
    edge.metrics
        .reload_success_timestamp
        .set(i64::try_from(edge.clock.unix_milliseconds() / 1000).unwrap_or(0));

    // None of these ends while edge serves; one that does takes the daemon with it, for an edge that no
    // longer watches its tunnel or accepts its clients must not look alive.
    let mut tasks = JoinSet::new();
    let mut events = Vec::new();
    for upstream in edge.upstreams.iter() {
        let event = Arc::new(tokio::sync::Notify::new());
        tasks.spawn(tunnel::watch(Arc::clone(&edge), Arc::clone(upstream), Arc::clone(&event)));
        tasks.spawn(lockouts::mirror(Arc::clone(&edge), Arc::clone(upstream)));
        events.push(event);
    }
    if let Some(socket) = listeners.events {
        tasks.spawn(events::listen(socket, users.wgd.map(|user| user.uid), events));
    }
    if let Some(listener) = listeners.metrics {
        let refresh: daemon::status::Hook = Box::new(move || process.refresh());
        tasks.spawn(daemon::status::serve(listener, registry, readiness, vec![refresh]));
    }
    if let Some(listener) = listeners.admin {
        let control = Control {
            edge: Arc::clone(&edge),
            config: Mutex::new(config.clone()),
            environment,
            lockdown: sealed.lockdown().clone(),
            notify: Arc::clone(&notify),
        };
        let allowed = users.admins.iter().map(|user| user.uid).collect();
        tasks.spawn(admin::serve(listener, allowed, Arc::new(control)));
    }
    if config.encryption.is_plain() {
        tracing::warn!("plain HTTP, as configured: tokens and files can be read on their way to edge");
    }
    tracing::info!(listen = %listeners.public.local_addr()?, role = config.role.name(), "serving");
    tasks.spawn(listen::serve(Arc::clone(&edge), listeners.public, Heartbeat::new(Arc::clone(&notify))));
    notify.ready();
    notify.status("serving");

    let broken = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Hangup => tracing::warn!("SIGHUP: a sealed edge can open no file; use `culvert reload edge`"),
                Signal::Terminate => break None,
            },
            Some(ended) = tasks.join_next() => break Some(ended),
        }
    };
    drain(&edge, &serving, &notify, &mut signals).await;
    match broken {
        None => Ok(()),
        Some(Ok(Err(error))) => Err(exit::fail(exit::IO, error)),
        Some(Ok(Ok(()))) => {
            Err(exit::fail(exit::SOFTWARE, anyhow::anyhow!("a part of edge ended by itself")))
        }
        Some(Err(panic)) => Err(exit::fail(exit::SOFTWARE, panic)),
    }
}

/// Puts the shared state together; tests do it the same way. There is a witness for each storaged of the configuration.
pub fn edge(
    config: &Config,
    live: Live,
    witnesses: Vec<Witness>,
    readiness: &Readiness,
    metrics: Metrics,
) -> Arc<Edge> {
    let (tunnel, store_well) = (readiness.condition("tunnel", false), readiness.condition("store", false));
    let mut upstreams = config.upstreams.all.iter().zip(witnesses).map(|(rules, witness)| {
        let counts = metrics.of_upstream(&rules.name);
        let client = StoreClient::new(rules.address, counts.clone());
        let store = Store::new(client, config.name.clone(), config.role, metrics.clone(), counts);
        metrics.log_records.with_label_values(&[&rules.name]);
        metrics.log_refused.with_label_values(&[&rules.name]);
        Upstream::new(rules.name.clone(), rules.cohorts.clone(), store, witness)
    });
    let first = upstreams.next().expect("a configuration names a storaged, and each has its witness");
    let upstreams = Upstreams::new(first, upstreams.collect(), tunnel, store_well);
    metrics.certificate_in_use(live.tls.as_ref());
    Arc::new(Edge {
        live: ArcSwap::from_pointee(live),
        upstreams,
        drain: Drain::new(config.limits.drain_timeout),
        metrics,
        gate: Gate::default(),
        recent: Recent::default(),
        proxies: config.proxies.clone(),
        places: Arc::new(Semaphore::new(config.limits.max_requests)),
        role: config.role,
        clock: Clock,
    })
}

async fn drain(edge: &Edge, serving: &Condition, notify: &Notify, signals: &mut Signals) {
    serving.set(false);
    edge.metrics.draining.set(1);
    notify.stopping();
    edge.drain.begin();
    tracing::info!(connections = edge.drain.running(), "draining");
    let left = tokio::select! {
        left = edge.drain.finished() => left,
        () = terminated(signals) => edge.drain.running(),
    };
    if left > 0 {
        tracing::warn!(connections = left, "stopped before all connections had ended");
    } else {
        tracing::info!("drained");
    }
}

async fn terminated(signals: &mut Signals) {
    while signals.next().await == Signal::Hangup {}
}
