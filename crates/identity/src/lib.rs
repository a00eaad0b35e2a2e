//! Who an identity provider says somebody is: JSON Web Tokens, the keys that they are signed with, and the groups that
//! open cohorts; and whose a client's certificate is. Both daemons verify with this, each with its own keys: edge early, storaged for good.
//!
//! **Invariant:** nothing that a token says is used before its signature was verified, except to choose the key; a key
//! fits one family of algorithms, and a shared secret is never one. This crate does no IO and reads no clock.
#![forbid(unsafe_code)]

pub mod certificate;
mod crypto;
pub mod groups;
pub mod issuer;
mod keys;
pub mod limits;
mod principal;
mod verify;

pub use certificate::{Authorities, AuthoritiesError, CertificateError, CertificateMap, RawCertificate};
pub use groups::{GroupMap, Mapping, Overage, RawMapping, Rights};
pub use issuer::{Algorithm, Issuer, IssuerRules, Issuers, RawIssuer};
pub use keys::{Keys, KeysError};
pub use verify::{JwtError, Verified};

#[cfg(test)]
#[path = "../testing/authority.rs"]
mod authority;
#[cfg(test)]
#[path = "../testing/provider.rs"]
mod provider;
