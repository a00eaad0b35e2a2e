//! `edge`: parse, acquire, confine, start, seal, run.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use daemon::Clock;
use daemon::exit;
use daemon::logging::LogOptions;
use daemon::notify::Notify;
use daemon::process_metrics::ProcessMetrics;
use edge::acquire::{self, Listeners};
use edge::cli::Cli;
use edge::config::{Config, Environment};
use edge::limits::SECRET_BYTES;
use edge::run::{Start, Workers};
use edge::sandbox;
use linux::Privileged;
use linux::secret_memory::Protection;
use prometheus::Registry;

/// The TLS key lies apart from everything else.
#[global_allocator]
static ALLOCATOR: linux::secret_arena::SecretAware = linux::secret_arena::SecretAware;

fn main() -> ExitCode {
    daemon::run_main("edge", try_main)
}

fn try_main() -> anyhow::Result<()> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(exit::fail(exit::USAGE, anyhow::anyhow!("{error}"))),
        Err(help_or_version) => return Ok(help_or_version.print()?),
    };
    daemon::install_panic_hook();
    daemon::logging::init(&LogOptions { level: cli.log_level.clone(), format: cli.log_format, quiet: &[] })?;

    let file = cli.config.display().to_string();
    let environment = Environment::of_this_process();
    let configuration = |error| exit::fail(exit::CONFIG, anyhow::Error::new(error));
    let text = daemon::config::read_text(&cli.config).map_err(configuration)?;
    let config = Config::parse(&file, &text, &environment).map_err(configuration)?;
    let users = config.users(&file).map_err(configuration)?;
    if cli.print_config {
        return Ok(write!(std::io::stdout(), "{config}")?);
    }
    let privileged = Privileged::at_startup().map_err(|error| exit::fail(exit::OS, error))?;
    // Before the first key is read. A check of the configuration makes the same way.
    let kept = linux::secret_arena::open(&privileged, SECRET_BYTES).context("room for the TLS key")?;
    let internal_key = acquire::internal_key(&config, &environment)?;
    let tls = acquire::tls(&config, Clock.unix_milliseconds() / 1000)?;
    let issuers = acquire::issuers(&config)?;
    let witnesses = acquire::witnesses(&config)?;
    if cli.check_config {
        return Ok(());
    }

    acquire::check_stderr()?;
    acquire::raise_descriptor_limit(&config)?;
    if let Protection::Locked(why) | Protection::Ordinary(why) = kept {
        tracing::info!(memory = kept.name(), why, "root can read the TLS key in this process's memory");
    }
    anyhow::ensure!(
        linux::allocator::use_one_arena(&privileged),
        "the allocator keeps its arenas, which would open files"
    );
    let listeners = Listeners::acquire(&privileged, &config, &users)?;
    let notify = Notify::from_environment(&privileged)?;
    let registry = Registry::new();
    let process = ProcessMetrics::open(&registry)?;
    let confinement = sandbox::confinement(&config, &users);
    let confined = privileged.confine(&confinement).map_err(|error| exit::fail(exit::PERMISSION, error))?;
    let workers = Workers::start(&confined, notify)?;
    let sealed = confined.seal(sandbox::SYSCALLS).map_err(|error| exit::fail(exit::PERMISSION, error))?;
    let start = Start {
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
    };
    edge::run::run(&sealed, workers, start)
}
