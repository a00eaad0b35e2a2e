//! Logs: to stderr, text on a terminal and JSON lines elsewhere; never to a file.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is neither \"text\" nor \"json\"")),
        }
    }
}

/// What the command line says about logs.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `RUST_LOG` takes them. Default `info`.
    pub level: Option<String>,
    /// Default: text on a terminal, JSON elsewhere.
    pub format: Option<LogFormat>,
    /// Directives that a daemon always adds, such as `boringtun=error`.
    pub quiet: &'static [&'static str],
}

/// Starts logging. `RUST_LOG` wins over `options.level`.
pub fn init(options: &LogOptions) -> anyhow::Result<()> {
    let level =
        std::env::var("RUST_LOG").ok().or_else(|| options.level.clone()).unwrap_or_else(|| "info".into());
    let mut filter = EnvFilter::try_new(&level)
        .map_err(|error| crate::fail(crate::exit::USAGE, anyhow::anyhow!("log level {level:?}: {error}")))?;
    for directive in options.quiet {
        filter = filter.add_directive(directive.parse()?);
    }
    let terminal = std::io::stderr().is_terminal();
    let format = options.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(terminal).with_target(false).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_target(true).finish().try_init(),
    }
    .map_err(|error| anyhow::anyhow!("start logging: {error}"))
}

/// A panic prints its place and nothing else: no payload (it may hold what must not be logged) and no
/// backtrace (reading symbols would open files, which a sealed process dies of).
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        match panic.location() {
            Some(place) => eprintln!("panic in thread {name} at {}:{}", place.file(), place.line()),
            None => eprintln!("panic in thread {name}"),
        }
    }));
}
