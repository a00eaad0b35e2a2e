//! The command line.

use std::path::PathBuf;

use clap::Parser;
use daemon::logging::LogFormat;

const LONG_ABOUT: &str = "\
The public side of Culvert. edge takes HTTP requests, asks storaged through the WireGuard tunnel \
whether they may, and streams bodies in both directions without storing a byte: once it runs it can \
write to no file, open no file and reach no port but storaged's.";

const AFTER_HELP: &str = "\
A configuration (TOML) that starts:

  name = \"web1\"                                  # this edge's WireGuard peer name at storaged
  role = \"web\"                                   # no default
  listen = \"0.0.0.0:8000\"                        # unless systemd hands in a listener named `public`
  tls_certificate_file = \"/etc/culvert/chain.pem\"  # its own certificate first
  tls_key_file = \"credential:tls-key\"          # or a path; not readable by everyone
  services_url = \"http://10.100.0.11:8001\"       # a literal address inside tunnel_prefix
  tunnel_prefix = \"10.100.0.0/24\"
  internal_api_key_file = \"credential:internal\"  # or a path
  run_as = \"edge\"

The environment goes before the file: SERVER_ROLE, SERVICES_URL, INTERNAL_API_KEY (works, but
others can read an environment: prefer the file).

Signals: SIGTERM or SIGINT drains (what is under way may finish), the second one stops at once.
Reload: `culvert reload edge`. Logs go to stderr, which must be a pipe, a socket or a terminal.
Exit codes: 0 stopped, 64 usage, 71 the system refused (an occupied port), 77 a right is missing,
78 configuration.

Try it:
  edge --config edge.toml --check-config
  curl -T a.csv -H \"Authorization: Bearer $TOKEN\" https://HOST:8000/v1/cohorts/C/files/a.csv
  curl http://127.0.0.1:9587/readyz?verbose";

/// What was asked for.
#[derive(Debug, Parser)]
#[command(name = "edge", version, about = "Culvert's public side: streams, and stores nothing", long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub struct Cli {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert/edge.toml")]
    pub config: PathBuf,
    /// Check the configuration, and the files it names, and exit: 0 or 78
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration in effect, without secrets, and exit
    #[arg(long)]
    pub print_config: bool,
    /// error, warn, info, debug or trace; `RUST_LOG` wins
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json; by default text on a terminal and JSON lines elsewhere
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}
