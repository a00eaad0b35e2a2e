//! Whether the public side speaks TLS, and with which files.

use std::fmt;

use daemon::config::Problems;

use super::raw::RawConfig;
use crate::tls::MinVersion;

/// What lies between the client and HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Nothing: behind a balancer that ends TLS, or in a lab.
    Plain,
    /// TLS.
    Tls(TlsFiles),
}

/// Where the chain and its key are: paths, or `credential:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The oldest version that is spoken.
    pub oldest: MinVersion,
}

impl Encryption {
    /// Whether there is none.
    pub fn is_plain(&self) -> bool {
        *self == Encryption::Plain
    }
}

/// The lines of the file that would give the same.
impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encryption::Plain => writeln!(f, "plain_http = true"),
            Encryption::Tls(TlsFiles { certificate, key, oldest }) => {
                writeln!(f, "tls_certificate_file = {certificate:?}")?;
                writeln!(f, "tls_key_file = {key:?}")?;
                writeln!(f, "tls_min_version = {:?}", oldest.name())
            }
        }
    }
}

pub(super) fn encryption(problems: &mut Problems, raw: &RawConfig) -> Option<Encryption> {
    let said = raw.tls_min_version.as_deref();
    let oldest = problems.take("tls_min_version", MinVersion::parse(said.unwrap_or("1.3")));
    match (&raw.tls_certificate_file, &raw.tls_key_file, raw.plain_http) {
        (None, None, true) if said.is_some() => {
            problems.add("tls_min_version", "means nothing with plain_http = true");
            None
        }
        (None, None, true) => Some(Encryption::Plain),
        (None, None, false) => {
            let hint = "is missing: the certificate chain (PEM) with tls_key_file beside it; or plain_http = true, \
                        behind a balancer that ends TLS";
            problems.add("tls_certificate_file", hint);
            None
        }
        (Some(_), _, true) | (_, Some(_), true) => {
            problems
                .add("plain_http", "cannot be true together with a certificate; take one of the two away");
            None
        }
        (Some(_), None, false) => {
            problems.add("tls_key_file", "is missing: the certificate's key, a path or \"credential:NAME\"");
            None
        }
        (None, Some(_), false) => {
            problems.add("tls_certificate_file", "is missing: tls_key_file needs its certificate chain");
            None
        }
        (Some(certificate), Some(key), false) => Some(Encryption::Tls(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            oldest: oldest?,
        })),
    }
}
