//! `culvert agent`: what needs the outer network, done for daemons that have none. It tells people that something is
//! wrong (webhook, syslog), and fetches the keys of identity providers.
//!
//! Invariant: it listens to nobody but wgd, and asks only those whom its file names; no request, no file and no key of
//! ours passes through it, and it can reach none: a captured agent can be silent, raise false alarms, and bring wrong
//! keys of a provider whose keys it is trusted with.

mod alert;
mod config;
mod deliver;
mod keys;
mod run;
pub mod sandbox;
mod syslog;
pub mod watch;
mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use daemon::exit::{self, fail};
use daemon::logging::{LogFormat, LogOptions};
use daemon::notify::Notify;
use daemon::signals::Signals;
use linux::unix_datagram::DatagramSocket;
use linux::{ListenFds, Privileged};

use crate::http_client;
use config::Config;

/// wgd's group may write to it; who it was is then checked by credentials.
const EVENTS_MODE: u32 = 0o660;

#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    /// Its configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert/agent.toml")]
    config: PathBuf,
    /// Reads the configuration, says what is wrong with it, and ends
    #[arg(long)]
    check_config: bool,
    /// error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// Runs until it is ended; its exit codes are those of a daemon.
pub(crate) fn main(arguments: &AgentArguments) -> ExitCode {
    daemon::run_main("culvert agent", || try_main(arguments))
}

fn try_main(arguments: &AgentArguments) -> anyhow::Result<()> {
    daemon::install_panic_hook();
    daemon::logging::init(&LogOptions {
        level: arguments.log_level.clone(),
        format: arguments.log_format,
        quiet: &[],
    })?;
    let config = Config::load(&arguments.config).map_err(|error| fail(exit::CONFIG, error))?;
    // Afterwards no file can be opened. They are read whether anybody is spoken to under TLS or not: a check of the
    // configuration shall find a file that is missing.
    if config.speaks_tls() {
        http_client::read_authorities(config.ca_file.as_deref())
            .map_err(|failure| fail(exit::CONFIG, anyhow::anyhow!("ca_file: {}", failure.message())))?;
    }
    let sinks = deliver::sinks(&config).map_err(|error| fail(exit::CONFIG, error))?;
    if arguments.check_config {
        return Ok(());
    }
    let privileged = Privileged::at_startup().map_err(|error| fail(exit::OS, error))?;
    anyhow::ensure!(
        linux::allocator::use_one_arena(&privileged),
        "the allocator keeps its arenas, which would open files"
    );
    let events = take_events(&privileged, &config)?;
    let notify = Notify::from_environment(&privileged).context("NOTIFY_SOCKET")?;
    let confined =
        privileged.confine(&sandbox::confinement(&config)).map_err(|error| fail(exit::PERMISSION, error))?;
    // One thread; those that look up names are started when they are needed.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let signals = runtime.block_on(async { Signals::new() }).context("register signal handlers")?;
    let sealed = confined.seal(sandbox::SYSCALLS).map_err(|error| fail(exit::PERMISSION, error))?;
    for (layer, why) in sealed.lockdown().missing() {
        tracing::warn!(layer = layer.name(), why, "a layer of the lock-down is missing");
    }
    let result = runtime.block_on(run::run(&sealed, config, sinks, events, signals, Arc::new(notify)));
    runtime.shutdown_background();
    result
}

/// The socket that wgd sends its events to: handed in as `events`, or bound.
fn take_events(privileged: &Privileged, config: &Config) -> anyhow::Result<Option<DatagramSocket>> {
    let mut handed_in = ListenFds::take(privileged).map_err(|error| fail(exit::CONFIG, error))?;
    let events = handed_in.datagrams("events").map_err(|error| fail(exit::CONFIG, error))?;
    for name in handed_in.left_over() {
        tracing::warn!(name, "a listener was handed in that the agent does not know; it takes events");
    }
    let Some(path) = config.events_socket.as_ref().filter(|_| events.is_none()) else { return Ok(events) };
    let bound = daemon::socket_directory::make(path)
        .and_then(|()| DatagramSocket::bind(path, EVENTS_MODE, config.events_owner()));
    let bound = bound.map_err(|error| {
        fail(exit::OS, anyhow::anyhow!("events_socket = {:?}: {error}", path.display().to_string()))
    })?;
    Ok(Some(bound))
}
