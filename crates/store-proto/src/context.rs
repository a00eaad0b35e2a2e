//! The `Culvert-Context` header: who asks, through which edge, when.
//!
//! base64url (no padding) of a JSON object. It carries the user's own proof and never a mere claim
//! such as `user=…`: storaged verifies it again, so that a captured edge can act as nobody.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::limits::{MAX_CLOCK_SKEW_SECONDS, MAX_CONTEXT_HEADER_BYTES};
use crate::{Capability, ClientChain, ContentDigest, EdgeName, Jwt, RequestId, ServerRole, Token};

/// What stands in the header.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestContext {
    /// The edge, which must be the WireGuard peer that delivers the request.
    pub edge: EdgeName,
    /// What that edge is.
    pub role: ServerRole,
    /// Its process id.
    pub process_id: u32,
    /// Its wall clock, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Joins the logs of edge and storaged.
    pub request_id: RequestId,
    /// Whom edge serves, as edge saw it.
    pub client_address: IpAddr,
    /// Beside a link: SHA-256 of the certificate that the client proved to edge, for a link that is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ContentDigest>,
    /// What the user showed.
    pub proof: Proof,
}

/// What a user showed to edge.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// An API token.
    Token(Token),
    /// A token of an identity provider, as it came: storaged verifies it with its own keys.
    Jwt(Jwt),
    /// The certificates that a client proved to edge in its handshake, which edge alone saw.
    Certificate(ClientChain),
    /// A link, which stands for whoever made it, for one file.
    Capability(Box<Capability>),
}

/// Why a header is not a context. Never repeats the header: it holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Longer than [`MAX_CONTEXT_HEADER_BYTES`].
    #[error("the request context is longer than {MAX_CONTEXT_HEADER_BYTES} bytes")]
    TooLong,
    /// Not base64url without padding.
    #[error("the request context is not base64url")]
    Base64,
    /// Not the JSON object described above.
    #[error("the request context is not the expected JSON object")]
    Json,
}

impl RequestContext {
    /// The header's value.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings, numbers and unit variants always serialize");
        URL_SAFE_NO_PAD.encode(Zeroizing::new(json).as_slice())
    }

    /// Reads the header's value. Never panics, whatever the bytes.
    pub fn decode(header: &[u8]) -> Result<Self, ContextError> {
        if header.len() > MAX_CONTEXT_HEADER_BYTES {
            return Err(ContextError::TooLong);
        }
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(header).map_err(|_| ContextError::Base64)?);
        serde_json::from_slice(&json).map_err(|_| ContextError::Json)
    }

    /// The sender's clock minus ours, in milliseconds; positive: it is ahead.
    pub fn clock_offset_ms(&self, now_ms: u64) -> i64 {
        let difference = i128::from(self.timestamp_ms) - i128::from(now_ms);
        i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether the two clocks are further apart than allowed.
    pub fn is_skewed(&self, now_ms: u64) -> bool {
        self.timestamp_ms.abs_diff(now_ms) > MAX_CLOCK_SKEW_SECONDS * 1000
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_and_back() {
        let context = example();
        let decoded = RequestContext::decode(context.encode().as_bytes()).unwrap();
        assert_eq!(decoded.edge, context.edge);
        assert_eq!(decoded.request_id, context.request_id);
        assert_eq!(decoded.client_address, context.client_address);
        assert_eq!(decoded.timestamp_ms, context.timestamp_ms);
        let (Proof::Token(a), Proof::Token(b)) = (&decoded.proof, &context.proof) else {
            panic!("a token is a token")
        };
        assert!(a.digest().matches(&b.digest()));
    }

    #[test]
    fn the_json_is_the_documented_one() {
        let json: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(example().encode()).unwrap()).unwrap();
        let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["client_address", "edge", "process_id", "proof", "request_id", "role", "timestamp_ms"]
        );
        assert!(json["proof"]["token"].as_str().unwrap().starts_with("cvt_"));
        assert_eq!(json["role"], "web");
    }

    #[test]
    fn debug_output_holds_no_token() {
        let context = example();
        let Proof::Token(token) = &context.proof else { panic!("a token is a token") };
        assert!(!format!("{context:?}").contains(&token.expose()[4..]));
    }

    #[test]
    fn claims_and_other_fields_are_refused() {
        let mut json: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(example().encode()).unwrap()).unwrap();
        json["user"] = "admin".into();
        let header = URL_SAFE_NO_PAD.encode(json.to_string());
        assert_eq!(RequestContext::decode(header.as_bytes()).unwrap_err(), ContextError::Json);
        json.as_object_mut().unwrap().remove("user");
        json["proof"] = serde_json::json!({"user": "admin"});
        let header = URL_SAFE_NO_PAD.encode(json.to_string());
        assert_eq!(RequestContext::decode(header.as_bytes()).unwrap_err(), ContextError::Json);
    }

    #[test]
    fn the_longest_token_of_a_provider_fits() {
        let text = format!("a.b.{}", "c".repeat(crate::limits::MAX_JWT_BYTES - 4));
        let proof = Proof::Jwt(Jwt::parse(&text).unwrap());
        let decoded =
            RequestContext::decode(RequestContext { proof, ..example() }.encode().as_bytes()).unwrap();
        assert!(matches!(decoded.proof, Proof::Jwt(jwt) if jwt.expose() == text));
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_decoded() {
        let header = vec![b'A'; MAX_CONTEXT_HEADER_BYTES + 1];
        assert_eq!(RequestContext::decode(&header).unwrap_err(), ContextError::TooLong);
    }

    #[test]
    fn sixty_seconds_are_allowed_either_way() {
        let context = example();
        let t = context.timestamp_ms;
        assert!(!context.is_skewed(t + 60_000) && !context.is_skewed(t - 60_000));
        assert!(context.is_skewed(t + 60_001) && context.is_skewed(t - 60_001));
        assert_eq!(context.clock_offset_ms(t - 5), 5);
        let far = RequestContext { timestamp_ms: u64::MAX, ..example() };
        assert!(far.is_skewed(0));
        assert_eq!(far.clock_offset_ms(0), i64::MAX);
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = RequestContext::decode(&bytes);
            let _ = RequestContext::decode(URL_SAFE_NO_PAD.encode(&bytes).as_bytes());
        }

        #[test]
        fn one_flipped_byte_never_panics(position in 0usize..400, byte in any::<u8>()) {
            let mut header = example().encode().into_bytes();
            let position = position % header.len();
            header[position] = byte;
            let _ = RequestContext::decode(&header);
        }
    }

    fn example() -> RequestContext {
        RequestContext {
            edge: EdgeName::parse("web1").unwrap(),
            role: ServerRole::Web,
            process_id: 42,
            timestamp_ms: 1_790_000_000_000,
            request_id: RequestId::parse("r-1").unwrap(),
            client_address: "2001:db8::1".parse().unwrap(),
            certificate: None,
            proof: Proof::Token(Token::from_bytes([3; 32])),
        }
    }
}
