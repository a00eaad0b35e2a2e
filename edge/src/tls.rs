//! TLS on the public side: a chain and its key, read from open files, as a configuration for rustls.
//!
//! **Invariant:** what [`Tls::read`] gives can serve now: the key is the first certificate's, every certificate
//! is in order and within its time, and the key file was closed to strangers. The start and a reload pass the
//! same door, so a pair that one takes the other takes too.
//!
//! Sessions are not resumed: no ticket, no cache. Each connection proves the certificate in use at that moment,
//! and there is no key here that could open what was recorded.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::config::{ConfigError, read_trusted};
use identity::certificate::{authorities_in, revocations_in};
use identity::limits::AUTHORITIES_BYTES;
use rustls::RootCertStore;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use zeroize::{Zeroize, Zeroizing};

use crate::limits::TLS_FILE_BYTES;

/// HTTP/2, in the handshake's words.
pub const H2: &[u8] = b"h2";
const HTTP_11: &[u8] = b"http/1.1";
/// Read, write or run by anyone: nothing of it may be set on a key file.
const OTHERS: u32 = 0o007;

static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
static NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2, with forward secrecy and AEAD alone.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl MinVersion {
    /// From the configuration's word.
    pub fn parse(text: &str) -> Result<MinVersion, String> {
        match text {
            "1.2" => Ok(MinVersion::Tls12),
            "1.3" => Ok(MinVersion::Tls13),
            other => Err(format!("{other:?} is neither \"1.2\" nor \"1.3\"")),
        }
    }

    /// The configuration's word.
    pub fn name(self) -> &'static str {
        match self {
            MinVersion::Tls12 => "1.2",
            MinVersion::Tls13 => "1.3",
        }
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            MinVersion::Tls12 => BOTH,
            MinVersion::Tls13 => NEWEST,
        }
    }
}

/// A file with its name, for messages.
#[derive(Debug)]
pub struct Named {
    /// Where it was opened.
    pub path: PathBuf,
    /// Open.
    pub file: File,
}

impl Named {
    /// Opens `path`.
    pub fn open(path: PathBuf) -> Result<Named, TlsError> {
        match File::open(&path) {
            Ok(file) => Ok(Named { path, file }),
            Err(error) => Err(TlsError::Read { path, error }),
        }
    }
}

/// Why a certificate and its key cannot be used. Nothing of a key is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be opened or read.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is no chain or no key.
    #[error("{}: {what}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file of authorities, or of revocations, that is not read.
    #[error("{0}")]
    Trusted(ConfigError),
    /// The key file is open to everyone.
    #[error("{}: mode {mode:04o} opens this key to everyone; chmod 640 it", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Two files that do not belong together.
    #[error("the key in {} is not the key of the first certificate in {}", key.display(), chain.display())]
    Mismatch {
        /// The chain.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

/// A chain and its key, ready to serve.
#[derive(Clone)]
pub struct Tls {
    /// What connections are accepted with.
    pub config: Arc<ServerConfig>,
    /// The same without HTTP/2, for a connection more than there is room for windows.
    pub without_h2: Arc<ServerConfig>,
    /// When the first certificate of the chain to run out does so, in seconds since 1970.
    pub not_after_s: u64,
}

/// The key is behind `config`, and is not shown.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls(not after {})", self.not_after_s)
    }
}

impl Tls {
    /// Reads and checks a chain and its key; `now_s` is the time in seconds since 1970.
    pub fn read(
        chain: Named,
        key: Named,
        clients: Option<Clients>,
        oldest: MinVersion,
        now_s: u64,
    ) -> Result<Tls, TlsError> {
        let (chain_path, key_path) = (chain.path.clone(), key.path.clone());
        let certificates = certificates(chain)?;
        let not_after_s = within_time(&chain_path, &certificates, now_s)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // The text, what is decoded of it, and the copy that signs.
        let certified = linux::secret_arena::within(|| {
            let key = private_key(key)?;
            certify(certificates, key, &chain_path, &key_path)
        });
        linux::secret_arena::wipe_stack();
        let certified = certified?;
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => clients.verifier(Arc::clone(&provider))?,
        };
        let content = |what: rustls::Error| TlsError::Content { path: chain_path, what: what.to_string() };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(oldest.versions())
            .map_err(content)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![H2.to_vec(), HTTP_11.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let mut without_h2 = config.clone();
        without_h2.alpn_protocols.retain(|protocol| protocol != H2);
        Ok(Tls { config: Arc::new(config), without_h2: Arc::new(without_h2), not_after_s })
    }
}

/// What clients' certificates are verified with in the handshake. storaged verifies them again.
#[derive(Debug)]
pub struct Clients {
    /// The authorities.
    pub authorities: Named,
    /// What they revoked.
    pub revocations: Option<Named>,
    /// Whether a client without a certificate is turned away in the handshake.
    pub required: bool,
}

impl Clients {
    fn verifier(self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let Clients { authorities, revocations, required } = self;
        let wrong = |path: &Path, what: &dyn fmt::Display| TlsError::Content {
            path: path.to_owned(),
            what: what.to_string(),
        };
        let text = |named: Named| {
            let read = read_trusted(&named.path, named.file, AUTHORITIES_BYTES);
            read.map(|text| (text, named.path)).map_err(TlsError::Trusted)
        };
        let (text_of_authorities, path) = text(authorities)?;
        let mut roots = RootCertStore::empty();
        let found = authorities_in(&text_of_authorities).map_err(|error| wrong(&path, &error))?;
        for (at, der) in found.into_iter().enumerate() {
            let number = at + 1;
            let add = roots.add(der);
            add.map_err(|error| wrong(&path, &format_args!("number {number} cannot be used: {error}")))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if let Some(revocations) = revocations {
            let (text, path) = text(revocations)?;
            let lists = revocations_in(&text).map_err(|error| wrong(&path, &error))?;
            // As storaged does: what is revoked are people's certificates, and an old list says nothing.
            builder =
                builder.with_crls(lists).only_check_end_entity_revocation().enforce_revocation_expiration();
        }
        if !required {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|error| wrong(&path, &error))
    }
}

fn certificates(chain: Named) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let Named { path, file } = chain;
    let text = read(&path, file)?;
    let wrong = |what: String| TlsError::Content { path: path.clone(), what };
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|error| wrong(format!("is not PEM: {error:?}")))?;
    if certificates.is_empty() {
        return Err(wrong("holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(certificates)
}

/// Every certificate is within its time and signed in the name of the next; answers when the first runs out.
fn within_time(path: &Path, chain: &[CertificateDer<'_>], now_s: u64) -> Result<u64, TlsError> {
    let wrong = |position: usize, what: String| TlsError::Content {
        path: path.to_owned(),
        what: format!("certificate {}: {what}", position + 1),
    };
    let mut first_end = u64::MAX;
    let mut issuer = None;
    for (position, der) in chain.iter().enumerate() {
        let certificate =
            Certificate::from_der(der).map_err(|error| wrong(position, format!("is malformed: {error}")))?;
        let signed = certificate.tbs_certificate();
        if issuer.as_ref().is_some_and(|issuer| issuer != signed.subject()) {
            let order = "is not the issuer of the one before it; the server's own comes first";
            return Err(wrong(position, order.to_owned()));
        }
        issuer = Some(signed.issuer().clone());
        let validity = signed.validity();
        let (from, end) = (
            validity.not_before.to_unix_duration().as_secs(),
            validity.not_after.to_unix_duration().as_secs(),
        );
        if now_s > end {
            return Err(wrong(position, format!("ran out at {}", validity.not_after)));
        }
        if now_s < from {
            return Err(wrong(
                position,
                format!("is valid from {} on, or the clock is wrong", validity.not_before),
            ));
        }
        first_end = first_end.min(end);
    }
    Ok(first_end)
}

fn private_key(key: Named) -> Result<PrivateKeyDer<'static>, TlsError> {
    let Named { path, file } = key;
    let mode = match file.metadata() {
        Ok(found) => found.permissions().mode() & 0o7777,
        Err(error) => return Err(TlsError::Read { path, error }),
    };
    if mode & OTHERS != 0 {
        return Err(TlsError::Open { path, mode });
    }
    let text = read(&path, file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        // Never the error's own words: they can quote the file.
        let what = if !matches!(error, pem::Error::NoItemsFound) {
            "is not PEM"
        } else if contains(&text, b"ENCRYPTED PRIVATE KEY") {
            "this key is encrypted; edge takes one that is not, as a credential"
        } else {
            "holds no private key (-----BEGIN PRIVATE KEY-----)"
        };
        TlsError::Content { path, what: what.to_owned() }
    })
}

fn certify(
    chain: Vec<CertificateDer<'static>>,
    mut key: PrivateKeyDer<'static>,
    chain_path: &Path,
    key_path: &Path,
) -> Result<CertifiedKey, TlsError> {
    // ring makes a copy of its own, which nobody wipes; this one is.
    let loaded = any_supported_type(&key);
    key.zeroize();
    let kinds = "RSA from 2048 bits, ECDSA P-256 or P-384, and Ed25519";
    let signing = loaded.map_err(|_| TlsError::Content {
        path: key_path.to_owned(),
        what: format!("is a key of none of the kinds that are supported: {kinds}"),
    })?;
    let certified = CertifiedKey::new(chain, signing);
    certified
        .keys_match()
        .map_err(|_| TlsError::Mismatch { chain: chain_path.to_owned(), key: key_path.to_owned() })?;
    Ok(certified)
}

fn read(path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    // Room from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(TLS_FILE_BYTES + 1));
    let mut limited = file.take(TLS_FILE_BYTES as u64 + 1);
    let mut part = Zeroizing::new([0; 4096]);
    loop {
        match limited.read(part.as_mut_slice()) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TlsError::Read { path: path.to_owned(), error }),
        }
    }
    if bytes.len() > TLS_FILE_BYTES {
        let what = format!("is larger than {TLS_FILE_BYTES} bytes");
        return Err(TlsError::Content { path: path.to_owned(), what });
    }
    Ok(bytes)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests;
