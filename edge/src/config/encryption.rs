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
    /// Whose clients' certificates are taken; none are asked for without.
    pub clients: Option<ClientFiles>,
}

/// Where those are who sign clients' certificates: paths, or `credential:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities.
    pub authorities: String,
    /// What they revoked.
    pub revocations: Option<String>,
    /// Whether every client must have one.
    pub required: bool,
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
            Encryption::Tls(TlsFiles { certificate, key, oldest, clients }) => {
                writeln!(f, "tls_certificate_file = {certificate:?}")?;
                writeln!(f, "tls_key_file = {key:?}")?;
                writeln!(f, "tls_min_version = {:?}", oldest.name())?;
                let Some(ClientFiles { authorities, revocations, required }) = clients else { return Ok(()) };
                writeln!(f, "client_ca_file = {authorities:?}")?;
                if let Some(revocations) = revocations {
                    writeln!(f, "client_crl_file = {revocations:?}")?;
                }
                writeln!(f, "client_certificates = {:?}", if *required { REQUIRED } else { OPTIONAL })
            }
        }
    }
}

const OPTIONAL: &str = "optional";
const REQUIRED: &str = "required";

fn clients(problems: &mut Problems, raw: &RawConfig) -> Option<ClientFiles> {
    let said = raw.client_certificates.as_deref();
    let required = match said.unwrap_or(OPTIONAL) {
        OPTIONAL => false,
        REQUIRED => true,
        other => {
            problems
                .add("client_certificates", format!("{other:?} is neither \"optional\" nor \"required\""));
            false
        }
    };
    let Some(authorities) = raw.client_ca_file.clone() else {
        for (key, stands) in
            [("client_crl_file", raw.client_crl_file.is_some()), ("client_certificates", said.is_some())]
        {
            if stands {
                problems.add(key, "needs client_ca_file: the authorities whose signatures count");
            }
        }
        return None;
    };
    if raw.plain_http {
        problems.add("client_ca_file", "means nothing with plain_http = true: there is no handshake");
    }
    Some(ClientFiles { authorities, revocations: raw.client_crl_file.clone(), required })
}

pub(super) fn encryption(problems: &mut Problems, raw: &RawConfig) -> Option<Encryption> {
    let said = raw.tls_min_version.as_deref();
    let oldest = problems.take("tls_min_version", MinVersion::parse(said.unwrap_or("1.3")));
    let clients = clients(problems, raw);
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
            clients,
        })),
    }
}
