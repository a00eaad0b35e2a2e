//! A certificate for 127.0.0.1, its key, and who trusts it.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub struct Certificate(CertifiedKey<KeyPair>);

impl Certificate {
    pub fn made() -> Certificate {
        Certificate(generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap())
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    /// Writes `chain.pem` and `key.pem`.
    pub fn put(&self, folder: &Path) {
        self.put_chain(folder);
        let mut key = File::create(folder.join("key.pem")).unwrap();
        key.set_permissions(Permissions::from_mode(0o600)).unwrap();
        key.write_all(self.0.signing_key.serialize_pem().as_bytes()).unwrap();
    }

    pub fn put_chain(&self, folder: &Path) {
        std::fs::write(folder.join("chain.pem"), self.0.cert.pem()).unwrap();
    }
}

/// A client that trusts these alone and offers these protocols.
pub fn connector(trusted: &[CertificateDer<'static>], protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|trusted| roots.add(trusted.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// Trust from a folder's `chain.pem`.
pub fn of_folder(folder: &Path) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_file(folder.join("chain.pem")).unwrap()
}

pub async fn connect(
    connector: &TlsConnector,
    address: std::net::SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    connector.connect(name, TcpStream::connect(address).await?).await
}
