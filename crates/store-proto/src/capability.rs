//! Capabilities: links that storaged signs and that open one file for whoever holds them.
//!
//! `cvc_` and base64url (no padding) of `claims ‖ Ed25519 signature`; the layout is in
//! `docs/formats/capability.md`. No name stands in one, for a link travels through mail and logs: whose it is, which
//! cohort and path it is about and how often it may be used stand in storaged's ledger under its id.
//!
//! **Invariant:** claims are only handed out by [`Capability::verify`]; a `Capability` has one spelling, wipes
//! itself and does not print itself.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::limits::{MAX_CAPABILITY_BYTES, MAX_CAPABILITY_SECONDS};
use crate::{ContentDigest, FileId, hex};

/// Makes a leaked link easy to find with a search, and to tell from a token.
const PREFIX: &str = "cvc_";
/// What is signed begins with this, so that a signature made for anything else is none here.
const DOMAIN: &[u8] = b"culvert capability v1\n";
const VERSION: u8 = 1;
const SIGNATURE_BYTES: usize = 64;
const HAS_RANGE: u8 = 1;
const HAS_NETWORK_V4: u8 = 2;
const HAS_NETWORK_V6: u8 = 4;
const HAS_CERTIFICATE: u8 = 8;
const KNOWN_FLAGS: u8 = HAS_RANGE | HAS_NETWORK_V4 | HAS_NETWORK_V6 | HAS_CERTIFICATE;

/// What a capability allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CapabilityMethod {
    /// Read the file with this id.
    Get,
    /// Write one file; its cohort and path stand in the ledger.
    Put,
}

/// What a capability says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityClaims {
    /// Names it in the ledger; it is revoked by this.
    pub id: FileId,
    /// What it allows.
    pub method: CapabilityMethod,
    /// The file it opens, or that it makes.
    pub file_id: FileId,
    /// When it runs out, in seconds since 1970.
    pub expires_s: u64,
    /// The bytes it opens; all, if there is none. Never empty.
    pub range: Option<Range<u64>>,
    /// The network it may be used from; any, if there is none.
    pub network: Option<IpNet>,
    /// SHA-256 of the certificate that whoever uses it has to prove; any or none, if there is none.
    pub certificate: Option<ContentDigest>,
}

impl CapabilityClaims {
    /// Whether it has run out.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        now_ms >= self.expires_s.saturating_mul(1000)
    }

    /// Whether a client at this address, which proved this certificate or none, may use it.
    pub fn is_open_to(&self, client: IpAddr, certificate: Option<ContentDigest>) -> bool {
        self.network.is_none_or(|network| network.contains(&client.to_canonical()))
            && self.certificate.is_none_or(|wanted| certificate == Some(wanted))
    }

    fn encode(&self) -> Vec<u8> {
        let network = match self.network {
            None => 0,
            Some(IpNet::V4(_)) => HAS_NETWORK_V4,
            Some(IpNet::V6(_)) => HAS_NETWORK_V6,
        };
        let range = if self.range.is_some() { HAS_RANGE } else { 0 };
        let method = match self.method {
            CapabilityMethod::Get => 1,
            CapabilityMethod::Put => 2,
        };
        let certificate = if self.certificate.is_some() { HAS_CERTIFICATE } else { 0 };
        let mut bytes = vec![VERSION, method, range | network | certificate];
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.file_id.as_bytes());
        bytes.extend_from_slice(&self.expires_s.to_be_bytes());
        if let Some(range) = &self.range {
            bytes.extend_from_slice(&range.start.to_be_bytes());
            bytes.extend_from_slice(&range.end.to_be_bytes());
        }
        match self.network {
            None => {}
            Some(IpNet::V4(network)) => {
                bytes.push(network.prefix_len());
                bytes.extend_from_slice(&network.network().octets());
            }
            Some(IpNet::V6(network)) => {
                bytes.push(network.prefix_len());
                bytes.extend_from_slice(&network.network().octets());
            }
        }
        if let Some(certificate) = &self.certificate {
            bytes.extend_from_slice(certificate.as_bytes());
        }
        bytes
    }

    /// `None` for everything that [`Self::encode`] does not write.
    fn decode(bytes: &[u8]) -> Option<CapabilityClaims> {
        let mut rest = bytes;
        let [version, method, flags] = take(&mut rest)?;
        if version != VERSION || flags & !KNOWN_FLAGS != 0 {
            return None;
        }
        let method = match method {
            1 => CapabilityMethod::Get,
            2 => CapabilityMethod::Put,
            _ => return None,
        };
        let id = FileId::from_bytes(take(&mut rest)?);
        let file_id = FileId::from_bytes(take(&mut rest)?);
        let expires_s = u64::from_be_bytes(take(&mut rest)?);
        let range = if flags & HAS_RANGE == 0 {
            None
        } else {
            let (start, end) = (u64::from_be_bytes(take(&mut rest)?), u64::from_be_bytes(take(&mut rest)?));
            if start >= end {
                return None;
            }
            Some(start..end)
        };
        let network = match flags & (HAS_NETWORK_V4 | HAS_NETWORK_V6) {
            0 => None,
            HAS_NETWORK_V4 => {
                let [length] = take(&mut rest)?;
                Some(IpNet::new(IpAddr::from(take::<4>(&mut rest)?), length).ok()?)
            }
            HAS_NETWORK_V6 => {
                let [length] = take(&mut rest)?;
                Some(IpNet::new(IpAddr::from(take::<16>(&mut rest)?), length).ok()?)
            }
            _ => return None,
        };
        let certificate = match flags & HAS_CERTIFICATE {
            0 => None,
            _ => Some(ContentDigest::from_bytes(take(&mut rest)?)),
        };
        let claims = CapabilityClaims { id, method, file_id, expires_s, range, network, certificate };
        // Host bits in the network would be a second spelling.
        (rest.is_empty() && claims.encode() == bytes).then_some(claims)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

/// Why a text is no capability, or not one of this store. Says nothing about the text: it is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Not the text described above.
    #[error("a capability must be `cvc_` and the base64url of its claims and signature")]
    Format,
    /// Signed by somebody else, or changed.
    #[error("the capability's signature is not this store's")]
    Signature,
    /// Not 64 lower-case hexadecimal digits of a point on the curve.
    #[error("a capability key must be 64 lower-case hexadecimal digits of an Ed25519 public key")]
    Key,
}

/// A well-formed capability. Nothing is known of it until it is verified.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability {
    text: Zeroizing<String>,
    claims: CapabilityClaims,
    signature: [u8; SIGNATURE_BYTES],
}

impl Capability {
    /// Takes `cvc_` and base64url. Never panics, whatever the text.
    pub fn parse(text: &str) -> Result<Self, CapabilityError> {
        let body = text.strip_prefix(PREFIX).ok_or(CapabilityError::Format)?;
        if text.len() > MAX_CAPABILITY_BYTES {
            return Err(CapabilityError::Format);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| CapabilityError::Format)?);
        let (claims, signature) =
            bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(CapabilityError::Format)?;
        let claims = CapabilityClaims::decode(claims).ok_or(CapabilityError::Format)?;
        Ok(Self { text: Zeroizing::new(text.to_owned()), claims, signature: *signature })
    }

    /// The claims, if the store with this key has signed them. Says nothing about expiry or use.
    pub fn verify(&self, key: &CapabilityKey) -> Result<&CapabilityClaims, CapabilityError> {
        let signature = Signature::from_bytes(&self.signature);
        let checked = key.0.verify_strict(&signed(&self.claims.encode()), &signature);
        checked.map(|()| &self.claims).map_err(|_| CapabilityError::Signature)
    }

    /// The file that it says it is for. Not verified: it only says where to ask.
    pub fn unverified_file_id(&self) -> FileId {
        self.claims.file_id
    }

    /// The secret text.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Capability {
    fn eq(&self, other: &Self) -> bool {
        self.text.as_bytes().ct_eq(other.text.as_bytes()).into()
    }
}

impl Eq for Capability {}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Capability(…)")
    }
}

impl TryFrom<String> for Capability {
    type Error = CapabilityError;
    fn try_from(text: String) -> Result<Self, CapabilityError> {
        let text = Zeroizing::new(text);
        Self::parse(&text)
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> String {
        capability.text.to_string()
    }
}

fn signed(claims: &[u8]) -> Vec<u8> {
    [DOMAIN, claims].concat()
}

/// Checks capabilities; no secret. Written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityKey(VerifyingKey);

impl CapabilityKey {
    /// Takes 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, CapabilityError> {
        let bytes = hex::decode(text).ok_or(CapabilityError::Key)?;
        match VerifyingKey::from_bytes(&bytes) {
            // Under a weak key some signatures fit many messages.
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            Ok(_) | Err(_) => Err(CapabilityError::Key),
        }
    }
}

impl fmt::Display for CapabilityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

/// Signs capabilities: storaged alone has one. Wipes itself.
pub struct CapabilitySigner(SigningKey);

impl fmt::Debug for CapabilitySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapabilitySigner(…)")
    }
}

impl CapabilitySigner {
    /// Of a seed of 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What checks its signatures.
    pub fn key(&self) -> CapabilityKey {
        CapabilityKey(self.0.verifying_key())
    }

    /// Makes a capability of claims.
    pub fn sign(&self, claims: CapabilityClaims) -> Capability {
        let mut bytes = claims.encode();
        let signature = self.0.sign(&signed(&bytes)).to_bytes();
        bytes.extend_from_slice(&signature);
        let text = Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(Zeroizing::new(bytes))));
        Capability { text, claims, signature }
    }
}

/// The body of edge's `POST /v1/files/{id}/presign`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresignRequest {
    /// What the link is for.
    #[serde(default = "get")]
    pub method: CapabilityMethod,
    /// Seconds until it runs out.
    pub expires_in: u64,
    /// How often it may be used; once, if nothing is said.
    #[serde(default = "once")]
    pub max_uses: u32,
    /// From where it may be used.
    #[serde(default)]
    pub bind: Bind,
    /// First and last byte of what it opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
}

/// From where, and by whom, a link may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Only from this network.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "network_text")]
    pub ip_prefix: Option<IpNet>,
    /// Only by whoever proves the certificate with this SHA-256 (of its DER) in the handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<ContentDigest>,
}

impl PresignRequest {
    /// What storaged is asked for; an error says what is wrong.
    pub fn of_file(self, file_id: FileId) -> Result<NewCapability, String> {
        if self.method != CapabilityMethod::Get {
            return Err("method: links are for GET".to_owned());
        }
        let PresignRequest { expires_in, max_uses, bind, range, .. } = self;
        let Bind { ip_prefix: network, certificate_sha256: certificate } = bind;
        let new = NewCapability { file_id, expires_in, max_uses, network, certificate, range };
        new.check().map(|()| new)
    }
}

fn get() -> CapabilityMethod {
    CapabilityMethod::Get
}

/// The answer to it, from storaged; edge puts the link's URL in front.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MadeCapability {
    /// Its id: it is revoked by this.
    pub capability_id: FileId,
    /// What opens the file.
    pub capability: Capability,
    /// When it runs out, RFC 3339.
    pub expires: String,
}

/// The body of a request for a capability: `POST /internal/v1/capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCapability {
    /// The file.
    pub file_id: FileId,
    /// Seconds until it runs out.
    pub expires_in: u64,
    /// How often it may be used; once, if nothing is said.
    #[serde(default = "once")]
    pub max_uses: u32,
    /// The network it may be used from.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "network_text")]
    pub network: Option<IpNet>,
    /// SHA-256 of the certificate that whoever uses it has to prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ContentDigest>,
    /// First and last byte of what it opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
}

fn once() -> u32 {
    1
}

/// A network as `192.0.2.0/24` in JSON.
mod network_text {
    use ipnet::IpNet;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(network: &Option<IpNet>, to: S) -> Result<S::Ok, S::Error> {
        match network {
            Some(network) => to.collect_str(network),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpNet>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(|_| D::Error::custom("network: not ADDRESS/LENGTH"))).transpose()
    }
}

impl NewCapability {
    /// What is wrong with it, if something is.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_CAPABILITY_SECONDS).contains(&self.expires_in) {
            return Err(format!("expires_in: {} is not 1 to {MAX_CAPABILITY_SECONDS}", self.expires_in));
        }
        let most = crate::limits::MAX_CAPABILITY_USES;
        if !(1..=most).contains(&self.max_uses) {
            return Err(format!("max_uses: {} is not 1 to {most}", self.max_uses));
        }
        match self.range {
            Some((first, last)) if first > last || last == u64::MAX => {
                Err(format!("range: [{first}, {last}] is not first and last byte"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_signed_verifies_and_reads_back() {
        let certificate = Some(ContentDigest::from_bytes([9; 32]));
        let longest = CapabilityClaims { certificate, ..v6() };
        let bound = CapabilityClaims { certificate, range: None, network: None, ..example() };
        let short = CapabilityClaims { range: None, network: None, ..example() };
        for claims in [example(), short, v6(), bound, longest] {
            let made = signer().sign(claims.clone());
            assert!(made.expose().len() <= MAX_CAPABILITY_BYTES, "{}", made.expose().len());
            let parsed = Capability::parse(made.expose()).unwrap();
            assert_eq!(parsed.verify(&signer().key()).unwrap(), &claims);
        }
    }

    #[test]
    fn the_text_is_pinned() {
        let claims = CapabilityClaims { range: None, network: None, ..example() };
        let text = signer().sign(claims).expose().to_owned();
        assert!(text.starts_with("cvc_AQEABQUFBQUFBQUFBQUFBQUFBQYGBgYGBgYGBgYGBgYGBgYAAAAAarE8gA"), "{text}");
        assert_eq!(text.len(), 4 + (3 + 16 + 16 + 8 + 64usize).div_ceil(3) * 4 - 1);
    }

    #[test]
    fn another_stores_signature_is_none() {
        let made = signer().sign(example());
        let other = CapabilitySigner::from_seed(&[8; 32]).key();
        assert_eq!(made.verify(&other).unwrap_err(), CapabilityError::Signature);
    }

    #[test]
    fn each_changed_byte_is_found() {
        let made = signer().sign(example());
        let bytes = URL_SAFE_NO_PAD.decode(&made.expose()[4..]).unwrap();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[position] ^= 1 << bit;
                let text = format!("cvc_{}", URL_SAFE_NO_PAD.encode(changed));
                let opened = Capability::parse(&text).and_then(|c| c.verify(&signer().key()).cloned());
                assert!(opened.is_err(), "byte {position}, bit {bit}");
            }
        }
    }

    #[test]
    fn it_runs_out_at_its_second_and_binds_to_its_network() {
        let claims = example();
        assert!(
            !claims.is_expired(claims.expires_s * 1000 - 1) && claims.is_expired(claims.expires_s * 1000)
        );
        let is_open_to = |client: &str| claims.is_open_to(client.parse().unwrap(), None);
        assert!(is_open_to("192.0.2.7") && is_open_to("::ffff:192.0.2.7"));
        assert!(!is_open_to("192.0.3.7") && !is_open_to("::1"));
    }

    #[test]
    fn a_bound_one_needs_its_own_certificate() {
        let [its_own, other] = [[9; 32], [8; 32]].map(|bytes| Some(ContentDigest::from_bytes(bytes)));
        let claims = CapabilityClaims { certificate: its_own, ..example() };
        let client = "192.0.2.7".parse().unwrap();
        assert!(claims.is_open_to(client, its_own));
        assert!(!claims.is_open_to(client, other) && !claims.is_open_to(client, None));
        assert!(example().is_open_to(client, other), "one that is not bound is open with any");
    }

    #[test]
    fn keys_have_one_spelling() {
        let key = signer().key();
        assert_eq!(CapabilityKey::parse(&key.to_string()).unwrap(), key);
        for bad in ["", "00", &key.to_string().to_uppercase(), &"0".repeat(64)] {
            assert_eq!(CapabilityKey::parse(bad).unwrap_err(), CapabilityError::Key, "{bad}");
        }
    }

    #[test]
    fn it_does_not_print_itself() {
        let made = signer().sign(example());
        assert_eq!(format!("{made:?}"), "Capability(…)");
        assert_eq!(format!("{:?}", signer()), "CapabilitySigner(…)");
    }

    #[test]
    fn requests_are_checked() {
        let ask = |text: &str| {
            let text = text.replace("ID", &"05".repeat(16));
            serde_json::from_str::<NewCapability>(&text).map_err(|e| e.to_string()).and_then(|new| {
                new.check()?;
                Ok(new)
            })
        };
        assert_eq!(ask(r#"{"file_id":"ID","expires_in":60}"#).unwrap().max_uses, 1);
        ask(r#"{"file_id":"ID","expires_in":604800,"max_uses":3,"network":"192.0.2.0/24","range":[0,9]}"#)
            .unwrap();
        for bad in [
            r#"{"file_id":"ID","expires_in":0}"#,
            r#"{"file_id":"ID","expires_in":604801}"#,
            r#"{"file_id":"ID","expires_in":1,"max_uses":0}"#,
            r#"{"file_id":"ID","expires_in":1,"range":[9,0]}"#,
            r#"{"file_id":"ID","expires_in":1,"range":[0,18446744073709551615]}"#,
            r#"{"file_id":"ID","expires_in":1,"network":"192.0.2.0/33"}"#,
            r#"{"file_id":"ID","expires_in":1,"user":"admin"}"#,
        ] {
            ask(bad).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Capability::parse(&String::from_utf8_lossy(&bytes));
            let _ = Capability::parse(&format!("cvc_{}", URL_SAFE_NO_PAD.encode(&bytes)));
        }
    }

    fn signer() -> CapabilitySigner {
        CapabilitySigner::from_seed(&[7; 32])
    }

    fn example() -> CapabilityClaims {
        CapabilityClaims {
            id: FileId::from_bytes([5; 16]),
            method: CapabilityMethod::Get,
            file_id: FileId::from_bytes([6; 16]),
            expires_s: 1_790_000_256,
            range: Some(10..20),
            network: Some("192.0.2.0/24".parse().unwrap()),
            certificate: None,
        }
    }

    fn v6() -> CapabilityClaims {
        CapabilityClaims {
            method: CapabilityMethod::Put,
            network: Some("2001:db8::/48".parse().unwrap()),
            ..example()
        }
    }
}
