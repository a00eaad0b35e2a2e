//! TLS to an edge: who is trusted, and the handshake.
//!
//! Invariant: nothing is sent before the server has shown a certificate for the name that was asked for, signed by an
//! authority that is trusted: those of a file that the user names, or else the machine's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::failure::Failure;
use crate::target::{CertificateFiles, Server};

/// Where distributions keep the authorities; the variable is the one that other tools know.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// A command talks to one server, often on several connections: the authorities are read once.
static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();

pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Server,
    trusted: Arc<ClientConfig>,
    stream: S,
) -> Result<TlsStream<S>, Failure> {
    let name = ServerName::try_from(server.host.clone())
        .map_err(|error| Failure::usage(format!("server {}: {error}", server.authority)))?;
    TlsConnector::from(trusted).connect(name, stream).await.map_err(|error| {
        let text = format!("server {}: TLS: {error}", server.authority);
        // A certificate that is not right is an answer; a line that broke is none.
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                Failure::failed(format!("{text}; --ca-file names the authorities to trust"))
            }
            Some(_) => Failure::failed(text),
            None => Failure::cannot_tell(text),
        }
    })
}

impl CertificateFiles {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
        let wrong =
            |path: &Path, what: &dyn std::fmt::Display| Failure::usage(format!("{}: {what}", path.display()));
        let chain =
            CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|error| wrong(&self.certificate, &error))?;
        if chain.is_empty() {
            return Err(wrong(&self.certificate, &"it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| wrong(&self.key, &error))?;
        Ok((chain, key))
    }
}

/// Who is trusted, and what is shown.
pub(super) fn config(
    ca_file: Option<&Path>,
    certificate: Option<&CertificateFiles>,
) -> Result<Arc<ClientConfig>, Failure> {
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let bundle = match ca_file {
        Some(path) => path.to_owned(),
        None => machines_bundle()?,
    };
    let wrong = |what: &dyn std::fmt::Display| Failure::usage(format!("{}: {what}", bundle.display()));
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&bundle).map_err(|error| wrong(&error))?;
    for certificate in certificates {
        // A bundle may hold one that is too old for this library; those that are read count.
        let _ = roots.add(certificate.map_err(|error| wrong(&error))?);
    }
    if roots.is_empty() {
        return Err(wrong(&"it holds no certificate of an authority"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::failed(format!("TLS: {error}")))?
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = files.read()?;
            let with = builder.with_client_auth_cert(chain, key);
            with.map_err(|error| Failure::usage(format!("{}: {error}", files.certificate.display())))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}

fn machines_bundle() -> Result<PathBuf, Failure> {
    if let Some(named) = std::env::var_os(BUNDLE_VARIABLE).filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()).ok_or_else(|| {
        Failure::usage(format!("this machine has no {}: name the authorities with --ca-file", BUNDLES[0]))
    })
}
