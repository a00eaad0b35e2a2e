//! Identity providers, as storaged takes them: with keys of its own, and with what their groups open.
//!
//! **Invariant:** what edge found out about a token counts for nothing here: the token itself came along, and is verified
//! again from its first byte. Rights come from the claims of the very request and are remembered nowhere.

use std::fmt::Write as _;

use daemon::config::Problems;
use identity::limits::{AUTHORITIES_BYTES, JWKS_BYTES};
use identity::{
    Authorities, CertificateError, CertificateMap, GroupMap, Issuer, IssuerRules, Issuers, JwtError,
    RawCertificate, RawIssuer, RawMapping, Rights,
};
use sha2::{Digest as _, Sha256};
use store_proto::{ClientChain, Jwt, UserName};

use crate::config::KeySource;
use crate::denial::Denial;

/// The providers that are known, and the mappings of their groups.
#[derive(Debug, Clone, Default)]
pub struct Providers {
    issuers: Issuers,
    groups: GroupMap,
    authorities: Authorities,
    /// SHA-256 of both files, for the record of a reload.
    authorities_sha256: Option<[u8; 32]>,
    /// Where they are, for whoever has the configuration printed.
    authority_files: Vec<(&'static str, String)>,
    certificates: CertificateMap,
}

impl Providers {
    /// Understands `[[issuer]]` and `[[group_map]]`, and reads the keys.
    pub fn understand(
        issuers: &[RawIssuer],
        mappings: &[RawMapping],
        files: &mut dyn KeySource,
        problems: &mut Problems,
    ) -> Providers {
        let rules = IssuerRules::understand(issuers, &mut |key, what| problems.add(key, what));
        let names: Vec<&str> = rules.iter().map(|rules| rules.name.as_str()).collect();
        let groups = GroupMap::understand(mappings, &names, &mut |key, what| problems.add(key, what));
        let mut read = |rules: IssuerRules| -> Result<Issuer, String> {
            let text = files.read_public(&rules.jwks_file, JWKS_BYTES)?;
            let file = rules.jwks_file.clone();
            rules.with_keys(&text).map_err(|error| format!("{file} {error}"))
        };
        let known = rules.into_iter().filter_map(|rules| {
            let key = format!("issuer {:?}: jwks_file", rules.name);
            problems.take(&key, read(rules))
        });
        Providers { issuers: Issuers::new(known.collect()), groups, ..Providers::default() }
    }

    /// Whom a token stands for, and what is open to them.
    pub fn prove(&self, jwt: &Jwt, now_ms: u64) -> Result<(UserName, Rights), Denial> {
        let verified = self.issuers.verify(jwt, now_ms / 1000).map_err(denial)?;
        let rights = self.groups.rights(&verified).map_err(|_| Denial::GroupsOverage)?;
        Ok((verified.principal, rights))
    }

    /// Reads the authorities that sign clients' certificates, what they revoked, and whose each certificate is.
    pub fn take_certificates(
        &mut self,
        authorities: Option<&str>,
        revocations: Option<&str>,
        map: &[RawCertificate],
        files: &mut dyn KeySource,
        problems: &mut Problems,
    ) {
        self.certificates = CertificateMap::understand(map, &mut |key, what| problems.add(key, what));
        let Some(file) = authorities else {
            let needless = [("client_crl_file", revocations.is_some()), ("certificate_map", !map.is_empty())];
            for (key, _) in needless.iter().filter(|(_, stands)| *stands) {
                problems.add(key, "needs client_ca_file: whose signatures count");
            }
            return;
        };
        self.authority_files.push(("client_ca_file", file.to_owned()));
        let ca = problems.take("client_ca_file", files.read_public(file, AUTHORITIES_BYTES));
        let crl = revocations.map(|file| {
            self.authority_files.push(("client_crl_file", file.to_owned()));
            problems.take("client_crl_file", files.read_public(file, AUTHORITIES_BYTES))
        });
        let (Some(ca), true) = (ca, crl.as_ref().is_none_or(Option::is_some)) else { return };
        let crl = crl.flatten();
        let read = Authorities::parse(&ca, crl.as_deref());
        let mut digest = Sha256::new_with_prefix(&ca);
        digest.update(crl.as_deref().unwrap_or_default());
        self.authorities_sha256 = Some(digest.finalize().into());
        let key = if revocations.is_some() { "client_ca_file, client_crl_file" } else { "client_ca_file" };
        self.authorities = problems.take(key, read).unwrap_or_default();
    }

    /// Whose a certificate is. That its key was proven is edge's word: nobody else saw the handshake.
    pub fn owner(&self, chain: &ClientChain, now_ms: u64) -> Result<&UserName, Denial> {
        let names = self.authorities.verify(chain, now_ms / 1000).map_err(denied)?;
        self.certificates.user(&names).map_err(denied)
    }

    /// Whether a name is one that a provider's subject would have.
    pub fn vouch_for(&self, user: &UserName) -> bool {
        let issuer = user.as_str().split_once(':').map(|(issuer, _)| issuer);
        issuer.is_some_and(|issuer| self.issuers.iter().any(|known| known.rules().name == issuer))
    }

    /// For the record of a start or a reload: which providers count from here on, and a digest of all that is configured
    /// about them, so that a change is seen. None: nobody vouches for anybody.
    pub fn summary(&self) -> Option<String> {
        if self.issuers.is_empty() && self.authorities.is_empty() {
            return None;
        }
        let mut digest = Sha256::new();
        let mut text = "identity providers:".to_owned();
        for issuer in self.issuers.iter() {
            digest.update(issuer.rules().to_string());
            let (rules, keys) = (issuer.rules(), issuer.keys());
            // Writing to a string does not fail.
            let _ = write!(text, " {}={} ({keys} keys)", rules.name, rules.url);
        }
        for mapping in self.groups.iter() {
            digest.update(mapping.to_string());
        }
        digest.update(self.certificates.to_string());
        digest.update(self.authorities_sha256.unwrap_or_default());
        let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let (mappings, authorities) = (self.groups.len(), self.authorities.len());
        let _ = write!(
            text,
            "; {mappings} group mappings; {authorities} authorities of clients, {} of their certificates mapped; \
             configuration {digest}",
            self.certificates.len()
        );
        Some(text)
    }

    /// The keys of the top that name files, with what they name.
    pub fn files(&self) -> &[(&'static str, String)] {
        &self.authority_files
    }
}

/// The tables of the file that would give the same.
impl std::fmt::Display for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for issuer in self.issuers.iter() {
            write!(f, "\n{}", issuer.rules())?;
        }
        for mapping in self.groups.iter() {
            write!(f, "\n{mapping}")?;
        }
        write!(f, "{}", self.certificates)
    }
}

fn denied(error: CertificateError) -> Denial {
    match error {
        CertificateError::Invalid => Denial::Certificate,
        CertificateError::Revoked => Denial::CertificateRevoked,
        CertificateError::Nobody => Denial::CertificateUser,
    }
}

fn denial(error: JwtError) -> Denial {
    match error {
        JwtError::Malformed | JwtError::Algorithm | JwtError::Signature | JwtError::Subject => Denial::Jwt,
        JwtError::Issuer | JwtError::Audience => Denial::JwtIssuer,
        JwtError::Key => Denial::JwtKey,
        JwtError::Expired | JwtError::NotYet => Denial::JwtExpired,
    }
}
