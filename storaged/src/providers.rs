//! Identity providers, as storaged takes them: with keys of its own, and with what their groups open.
//!
//! **Invariant:** what edge found out about a token counts for nothing here: the token itself came along, and is verified
//! again from its first byte. Rights come from the claims of the very request and are remembered nowhere.

use std::fmt::Write as _;

use daemon::config::Problems;
use identity::limits::JWKS_BYTES;
use identity::{GroupMap, Issuer, IssuerRules, Issuers, JwtError, RawIssuer, RawMapping, Rights};
use sha2::{Digest as _, Sha256};
use store_proto::{Jwt, UserName};

use crate::config::KeySource;
use crate::denial::Denial;

/// The providers that are known, and the mappings of their groups.
#[derive(Debug, Clone, Default)]
pub struct Providers {
    issuers: Issuers,
    groups: GroupMap,
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
        Providers { issuers: Issuers::new(known.collect()), groups }
    }

    /// Whom a token stands for, and what is open to them.
    pub fn prove(&self, jwt: &Jwt, now_ms: u64) -> Result<(UserName, Rights), Denial> {
        let verified = self.issuers.verify(jwt, now_ms / 1000).map_err(denial)?;
        let rights = self.groups.rights(&verified).map_err(|_| Denial::GroupsOverage)?;
        Ok((verified.principal, rights))
    }

    /// Whether a name is one that a provider's subject would have.
    pub fn vouch_for(&self, user: &UserName) -> bool {
        let issuer = user.as_str().split_once(':').map(|(issuer, _)| issuer);
        issuer.is_some_and(|issuer| self.issuers.iter().any(|known| known.rules().name == issuer))
    }

    /// For the record of a start or a reload: which providers count from here on, and a digest of all that is configured
    /// about them, so that a change is seen. None: nobody vouches for anybody.
    pub fn summary(&self) -> Option<String> {
        if self.issuers.is_empty() {
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
        let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let _ = write!(text, "; {} group mappings; configuration {digest}", self.groups.len());
        Some(text)
    }
}

/// The lines of the file that would give the same.
impl std::fmt::Display for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for issuer in self.issuers.iter() {
            write!(f, "\n{}", issuer.rules())?;
        }
        for mapping in self.groups.iter() {
            write!(f, "\n{mapping}")?;
        }
        Ok(())
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
