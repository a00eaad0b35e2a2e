//! The certificates that a client proved to edge, as they came: leaf first, in DER. Whether they stand for anybody is
//! decided where the authorities are.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::{ContentDigest, TokenDigest};

/// Too many certificates, or too long ones, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a chain has 1 to {MAX_CHAIN_CERTIFICATES} certificates, in base64 of {MAX_CHAIN_BYTES} bytes together"
)]
pub struct ClientChainError;

/// A chain, not verified.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct ClientChain(Vec<Vec<u8>>);

impl ClientChain {
    /// Takes certificates in DER, leaf first.
    pub fn new(certificates: Vec<Vec<u8>>) -> Result<Self, ClientChainError> {
        let bytes: usize = certificates.iter().map(|der| der.len().div_ceil(3) * 4).sum();
        let several = (1..=MAX_CHAIN_CERTIFICATES).contains(&certificates.len());
        if several && bytes <= MAX_CHAIN_BYTES && certificates.iter().all(|der| !der.is_empty()) {
            Ok(Self(certificates))
        } else {
            Err(ClientChainError)
        }
    }

    /// The client's own.
    pub fn leaf(&self) -> &[u8] {
        self.0.first().map(Vec::as_slice).unwrap_or_default()
    }

    /// What leads from it to an authority.
    pub fn intermediates(&self) -> &[Vec<u8>] {
        self.0.get(1..).unwrap_or_default()
    }

    /// SHA-256 of the leaf: what a link is bound to.
    pub fn thumbprint(&self) -> ContentDigest {
        ContentDigest::from_bytes(Sha256::digest(self.leaf()).into())
    }

    /// The same, where it stands for a principal.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::from_bytes(Sha256::digest(self.leaf()).into())
    }
}

/// Whose they are is in them.
impl fmt::Debug for ClientChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientChain({})", self.0.len())
    }
}

impl TryFrom<Vec<String>> for ClientChain {
    type Error = ClientChainError;
    fn try_from(texts: Vec<String>) -> Result<Self, ClientChainError> {
        if texts.iter().map(String::len).sum::<usize>() > MAX_CHAIN_BYTES {
            return Err(ClientChainError);
        }
        let decode = |text: &String| STANDARD.decode(text).map_err(|_| ClientChainError);
        Self::new(texts.iter().map(decode).collect::<Result<_, _>>()?)
    }
}

impl From<ClientChain> for Vec<String> {
    fn from(chain: ClientChain) -> Vec<String> {
        chain.0.iter().map(|der| STANDARD.encode(der)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_short_and_there_and_back() {
        let chain = ClientChain::new(vec![vec![1, 2, 3], vec![4]]).unwrap();
        let json = serde_json::to_string(&chain).unwrap();
        assert_eq!(json, r#"["AQID","BA=="]"#);
        assert_eq!(serde_json::from_str::<ClientChain>(&json).unwrap(), chain);
        assert_eq!((chain.leaf(), chain.intermediates().len()), (&[1, 2, 3][..], 1));
        assert_eq!(format!("{chain:?}"), "ClientChain(2)");
        let long = vec![0; MAX_CHAIN_BYTES / 4 * 3];
        assert!(ClientChain::new(vec![long.clone()]).is_ok());
        for bad in [vec![], vec![vec![]], vec![vec![1]; MAX_CHAIN_CERTIFICATES + 1], vec![long, vec![1]]] {
            assert!(ClientChain::new(bad).is_err());
        }
        for bad in ["[]", r#"["@"]"#, r#"[""]"#, "5"] {
            assert!(serde_json::from_str::<ClientChain>(bad).is_err(), "{bad}");
        }
    }
}
