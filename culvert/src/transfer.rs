//! Files to and from an edge.

mod fetch;
pub(crate) mod get;
pub(crate) mod list;
mod many;
pub(crate) mod part_file;
pub(crate) mod progress;
pub(crate) mod put;
mod resume;
mod send;
pub(crate) mod share;
mod unfinished;
mod upload_body;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use daemon::secret::SecretString;
use store_proto::Token;

use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::http_client::Credential;
use crate::target::{CertificateFiles, Server};

/// The environment variable that may hold the token itself.
const TOKEN_VARIABLE: &str = "CULVERT_TOKEN";

/// Which server, and as whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArguments {
    /// The edge to talk to, such as https://web1:8443 or http://web1:8000
    #[arg(long, value_name = "URL", env = "CULVERT_SERVER")]
    server: Server,
    /// Trust the authorities of this PEM file alone, instead of the machine's
    #[arg(long, value_name = "FILE", env = "CULVERT_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// File that holds your token (or put the token into CULVERT_TOKEN)
    #[arg(long, value_name = "FILE", env = "CULVERT_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Your certificate (PEM, with what leads to its authority), where the server takes one; a token goes before it
    #[arg(long, value_name = "FILE", env = "CULVERT_CERT_FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's key (PEM, not encrypted)
    #[arg(long, value_name = "FILE", env = "CULVERT_KEY_FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Give up when nothing moved for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: u64,
}

/// How several files are moved.
#[derive(Debug, Args)]
pub(crate) struct SeveralArguments {
    /// Files at once, of a directory
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    parallel: u8,
    /// How often a connection may break without any progress before a file is given up
    #[arg(long, value_name = "N", default_value_t = 10)]
    retries: u32,
}

impl SeveralArguments {
    fn parallel(&self) -> usize {
        usize::from(self.parallel)
    }

    fn retries(&self) -> u32 {
        self.retries
    }
}

impl ServerArguments {
    /// The server, who vouches for it, and what it is shown.
    fn server(&self) -> Server {
        let certificate = self.cert.clone().zip(self.key.clone());
        let certificate = certificate.map(|(certificate, key)| CertificateFiles { certificate, key });
        Server { ca_file: self.ca_file.clone(), certificate, ..self.server.clone() }
    }

    /// A token is never taken from the command line, where every process of the machine could read it.
    fn credential(&self, console: Console) -> Result<Credential, Failure> {
        for (path, what) in [(&self.token_file, "token"), (&self.key, "key")] {
            if let Some(path) = path.as_ref().filter(|path| others_can_read(path)) {
                let path = printable(&path.to_string_lossy());
                console.warn(&format!("{path}: every user of this machine can read your {what}: chmod 600"));
            }
        }
        if self.cert.is_some() && !self.server.tls {
            return Err(Failure::usage("--cert is shown under TLS alone: write the server as https://HOST"));
        }
        let (secret, name) = match (&self.token_file, std::env::var(TOKEN_VARIABLE)) {
            (Some(path), _) => {
                let secret = daemon::secret::read_reference(&path.to_string_lossy());
                (secret.map_err(|error| Failure::usage(error.to_string()))?, path.display().to_string())
            }
            (None, Ok(text)) => (SecretString::new(text.trim().to_owned()), TOKEN_VARIABLE.to_owned()),
            (None, Err(_)) if self.cert.is_some() => return Ok(Credential::Certificate),
            (None, Err(_)) => {
                let how = format!("no token: give --token-file FILE, or set {TOKEN_VARIABLE}");
                return Err(Failure::usage(how));
            }
        };
        let token =
            Token::parse(secret.expose()).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        Ok(Credential::Token(token))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.stall_timeout)
    }
}

fn others_can_read(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0)
}
