//! Clients' certificates: the authorities that are trusted, what they revoked, and whose a certificate is.
//!
//! **Invariant:** a name counts only out of a certificate whose chain was verified to an authority at the time given; with
//! a list of revocations, one that is older than it says it may be refuses everybody.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use store_proto::{ClientChain, UserName};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::issuer::fits;
use crate::limits::{AUTHORITIES, CERTIFICATES};

/// Why authorities, or their revocations, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// Not PEM, or nothing in it.
    #[error("holds no {0} in PEM")]
    Pem(&'static str),
    /// Too many.
    #[error("holds more than {AUTHORITIES}")]
    TooMany,
    /// One of them is malformed.
    #[error("number {number} cannot be used: {what}")]
    Malformed {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        what: String,
    },
}

/// Why a chain is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Malformed, of another authority, out of its time, or not for clients.
    #[error("the client's certificate is not one that is taken here")]
    Invalid,
    /// Its authority took it back, or nobody can say now whether it did.
    #[error("the client's certificate was revoked, or the list of revocations is too old to say")]
    Revoked,
    /// Nobody has this certificate, or two have.
    #[error("the client's certificate is nobody's here")]
    Nobody,
}

/// The authorities that sign clients' certificates.
#[derive(Clone, Default)]
pub struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    /// With thousands of certificates in them they are shared, and looked at where they are.
    revoked: Arc<[CertRevocationList<'static>]>,
}

/// How many; who they are is in the file.
impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({}, {} lists)", self.anchors.len(), self.revoked.len())
    }
}

/// The certificates in a file of authorities.
pub fn authorities_in(pem: &str) -> Result<Vec<CertificateDer<'static>>, AuthoritiesError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|_| AuthoritiesError::Pem("certificate"))?;
    match found.len() {
        0 => Err(AuthoritiesError::Pem("certificate")),
        1..=AUTHORITIES => Ok(found),
        _ => Err(AuthoritiesError::TooMany),
    }
}

/// The lists in a file of revocations.
pub fn revocations_in(pem: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, AuthoritiesError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|_| AuthoritiesError::Pem("list of revocations (X509 CRL)"))?;
    match found.len() {
        0 => Err(AuthoritiesError::Pem("list of revocations (X509 CRL)")),
        1..=AUTHORITIES => Ok(found),
        _ => Err(AuthoritiesError::TooMany),
    }
}

impl Authorities {
    /// Reads both files; without the second nothing is revoked, and certificates must be short-lived.
    pub fn parse(authorities: &str, revocations: Option<&str>) -> Result<Authorities, AuthoritiesError> {
        let malformed =
            |at: usize, error: Error| AuthoritiesError::Malformed { number: at + 1, what: error.to_string() };
        let mut parsed = Authorities::default();
        for (at, der) in authorities_in(authorities)?.iter().enumerate() {
            let anchor = anchor_from_trusted_cert(der).map_err(|error| malformed(at, error))?;
            parsed.anchors.push(anchor.to_owned());
        }
        let mut revoked = Vec::new();
        for (at, der) in revocations.map(revocations_in).transpose()?.iter().flatten().enumerate() {
            let list = OwnedCertRevocationList::from_der(der).map_err(|error| malformed(at, error))?;
            revoked.push(CertRevocationList::from(list));
        }
        parsed.revoked = revoked.into();
        Ok(parsed)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether no certificate is taken at all.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// The names in a chain's own certificate, after the chain was verified at `now_s`.
    pub fn verify(&self, chain: &ClientChain, now_s: u64) -> Result<Vec<String>, CertificateError> {
        let leaf = CertificateDer::from(chain.leaf());
        let intermediates: Vec<CertificateDer<'_>> =
            chain.intermediates().iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let end_entity = EndEntityCert::try_from(&leaf).map_err(|_| CertificateError::Invalid)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // The authorities between are few and are taken out of the file; what is revoked are people's certificates.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_s));
        let verified = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            &intermediates,
            time,
            KeyUsage::client_auth(),
            revocation,
            None,
        );
        match verified {
            Ok(_) => names(&leaf).ok_or(CertificateError::Invalid),
            Err(Error::CertRevoked | Error::UnknownRevocationStatus | Error::CrlExpired { .. }) => {
                Err(CertificateError::Revoked)
            }
            Err(_) => Err(CertificateError::Invalid),
        }
    }
}

/// `email:`, `dns:` and `uri:` of the alternative names, and the whole subject as RFC 4514 writes it.
fn names(leaf: &CertificateDer<'_>) -> Option<Vec<String>> {
    let certificate = Certificate::from_der(leaf).ok()?;
    let signed = certificate.tbs_certificate();
    let mut names = vec![format!("subject:{}", signed.subject())];
    let alternative = signed.get_extension::<SubjectAltName>().ok()?;
    for name in alternative.iter().flat_map(|(_, names)| names.0.iter()) {
        match name {
            GeneralName::Rfc822Name(name) => names.push(format!("email:{name}")),
            GeneralName::DnsName(name) => names.push(format!("dns:{name}")),
            GeneralName::UniformResourceIdentifier(name) => names.push(format!("uri:{name}")),
            GeneralName::OtherName(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EdiPartyName(_)
            | GeneralName::IpAddress(_)
            | GeneralName::RegisteredId(_) => {}
        }
    }
    Some(names)
}

/// `[[certificate_map]]`, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCertificate {
    name: Option<String>,
    user: Option<String>,
}

/// Which name in a certificate is which user's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateMap(Vec<(String, UserName)>);

impl CertificateMap {
    /// Understands what is written; `wrong` is told the key and what is the matter with it.
    pub fn understand(raw: &[RawCertificate], wrong: &mut dyn FnMut(&str, String)) -> CertificateMap {
        if raw.len() > CERTIFICATES {
            wrong("certificate_map", format!("there are {}, and {CERTIFICATES} at most", raw.len()));
        }
        let mut map: Vec<(String, UserName)> = Vec::new();
        for (at, raw) in raw.iter().enumerate() {
            let mut add = |key: &str, what: String| wrong(&format!("certificate_map[{at}].{key}"), what);
            let name = raw.name.clone().unwrap_or_default();
            let kinds = ["email:", "dns:", "uri:", "subject:"];
            if !kinds.iter().any(|kind| name.starts_with(kind) && name.len() > kind.len()) || !fits(&name) {
                add("name", format!("{name:?} does not begin with email:, dns:, uri: or subject: and go on"));
            } else if map.iter().any(|(other, _)| *other == name) {
                add("name", format!("{name:?} stands twice"));
            } else {
                match UserName::parse(raw.user.as_deref().unwrap_or_default()) {
                    Ok(user) => map.push((name, user)),
                    Err(error) => add("user", error.to_string()),
                }
            }
        }
        CertificateMap(map)
    }

    /// Whose certificate has these names: one user's, or nobody's.
    pub fn user(&self, names: &[String]) -> Result<&UserName, CertificateError> {
        let mut users = self.0.iter().filter(|(name, _)| names.contains(name)).map(|(_, user)| user);
        let first = users.next().ok_or(CertificateError::Nobody)?;
        if users.all(|other| other == first) { Ok(first) } else { Err(CertificateError::Nobody) }
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The lines of a file that would give the same.
impl fmt::Display for CertificateMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, user)| {
            writeln!(f, "\n[[certificate_map]]\nname = {name:?}\nuser = {:?}", user.as_str())
        })
    }
}

#[cfg(test)]
mod tests;
