//! The closed list of what can be wrong with a request (RFC 9457 problem types).
//!
//! A `type` is stable; a title is for people. Both daemons answer with these and no others.

use serde::{Deserialize, Serialize};

macro_rules! problems {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $title:literal;)*) => {
        /// What is wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemKind {
            $($(#[$doc])* $variant,)*
        }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &[ProblemKind] = &[$(ProblemKind::$variant,)*];

            /// The last part of the URN.
            pub const fn name(self) -> &'static str {
                match self { $(ProblemKind::$variant => $name,)* }
            }

            /// The URN that stands in `type`.
            pub const fn urn(self) -> &'static str {
                match self { $(ProblemKind::$variant => concat!("urn:culvert:problem:", $name),)* }
            }

            /// The HTTP status it is answered with.
            pub const fn status(self) -> u16 {
                match self { $(ProblemKind::$variant => $status,)* }
            }

            /// A short sentence for people, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(ProblemKind::$variant => $title,)* }
            }
        }
    };
}

problems! {
    /// A header, the path, the query or the JSON is malformed.
    BadRequest = "bad-request", 400, "The request is malformed";
    /// The path breaks a rule of `LogicalPath`.
    InvalidPath = "invalid-path", 400, "The path is not allowed";
    /// The body does not have the digest that was announced.
    DigestMismatch = "digest-mismatch", 400, "The body does not match its digest";
    /// The body ended before its announced length, or its sender went away.
    IncompleteBody = "incomplete-body", 400, "The body ended early";
    /// No token, a malformed one, or one that stands for nobody.
    Unauthenticated = "unauthenticated", 401, "A valid token is required";
    /// The user may not do this in this cohort.
    CohortForbidden = "cohort-forbidden", 403, "The cohort is not open to this user for this action";
    /// The request did not come through a registered edge's tunnel, or lacks the internal key.
    EdgeForbidden = "edge-forbidden", 403, "The request did not come from a registered edge";
    /// No such cohort.
    UnknownCohort = "unknown-cohort", 404, "There is no such cohort";
    /// No such file.
    UnknownFile = "unknown-file", 404, "There is no such file";
    /// No such upload, or another user's, or one that has expired.
    UnknownUpload = "unknown-upload", 404, "There is no such upload";
    /// No such route.
    NotFound = "not-found", 404, "There is no such resource";
    /// The route exists, the method does not.
    MethodNotAllowed = "method-not-allowed", 405, "The method is not allowed here";
    /// The body made no progress for too long.
    BodyTimeout = "body-timeout", 408, "The body did not arrive in time";
    /// The path holds other bytes already.
    Conflict = "conflict", 409, "The path exists with other content";
    /// The same `Idempotency-Key` is under way.
    IdempotencyKeyInUse = "idempotency-key-in-use", 409, "A request with this key is under way";
    /// The same `Idempotency-Key` came with another request.
    IdempotencyKeyReused = "idempotency-key-reused", 422, "The key was used for another request";
    /// The cohort does not take this attribute, or not with this value.
    AttributeNotAllowed = "attribute-not-allowed", 422, "The file's attribute is not allowed";
    /// The sender goes on elsewhere than the upload is.
    OffsetMismatch = "offset-mismatch", 409, "The upload is at another offset";
    /// The upload's length was said before, or is less than has arrived.
    LengthMismatch = "length-mismatch", 409, "The upload has another length";
    /// Another request for the upload came, or is being ended.
    UploadBusy = "upload-busy", 423, "Another request writes this upload";
    /// The file waits for its scan, or has not passed it.
    FileWithheld = "file-withheld", 403, "The file is held or was rejected";
    /// Deletion is not due yet, or held.
    RetentionLocked = "retention-locked", 409, "The file is under retention";
    /// The capability has run out.
    ExpiredCapability = "expired-capability", 410, "The link has expired";
    /// The capability has been used up.
    UsedCapability = "used-capability", 410, "The link has been used";
    /// A precondition (`If-Match`, `If-None-Match`) does not hold.
    PreconditionFailed = "precondition-failed", 412, "A precondition does not hold";
    /// Longer than allowed.
    TooLarge = "too-large", 413, "The body is too large";
    /// The file's type is not on the list.
    TypeNotAllowed = "type-not-allowed", 415, "The file type is not allowed";
    /// The body is of a media type that the route does not take.
    UnsupportedMediaType = "unsupported-media-type", 415, "The body's media type is not taken here";
    /// The `Range` does not lie in the file.
    RangeNotSatisfiable = "range-not-satisfiable", 416, "The range does not lie in the file";
    /// The Host header names none of ours, or the store of another cohort.
    WrongStore = "wrong-store", 421, "The request belongs to another store";
    /// Too many failed attempts.
    LockedOut = "locked-out", 429, "Too many failed attempts";
    /// Too many requests.
    RateLimited = "rate-limited", 429, "Too many requests";
    /// The header block is too large.
    HeadersTooLarge = "headers-too-large", 431, "The request's headers are too large";
    /// A broken invariant on our side.
    Internal = "internal", 500, "The server failed";
    /// storaged answered with something edge does not understand.
    BadGateway = "bad-gateway", 502, "The store answered with something unexpected";
    /// The tunnel, or storaged behind it, is away.
    TunnelUnavailable = "tunnel-unavailable", 503, "The tunnel to the store is not available";
    /// The operation cannot be recorded, so it is refused.
    LedgerUnavailable = "ledger-unavailable", 503, "The operation cannot be recorded";
    /// The volume is away or failing.
    BackendUnavailable = "backend-unavailable", 503, "The storage is not available";
    /// Which peer delivered the request cannot be found out.
    PeerUnverified = "peer-unverified", 503, "The delivering peer cannot be verified now";
    /// The clocks of edge and storaged differ too much.
    ClockSkew = "clock-skew", 503, "The clocks of edge and store differ too much";
    /// As many requests run as are allowed to.
    Overloaded = "overloaded", 503, "The server is at its limit of concurrent requests";
    /// The disk or the quota is full.
    Quota = "quota", 507, "There is no room for the file";
}

impl ProblemKind {
    /// Finds the kind of a `type` member.
    pub fn from_urn(urn: &str) -> Option<ProblemKind> {
        Self::ALL.iter().copied().find(|kind| kind.urn() == urn)
    }
}

/// The `application/problem+json` body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// The URN of the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind's title.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What about this occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ProblemBody {
    /// The body of a kind, with a detail about this occurrence.
    pub fn new(kind: ProblemKind, detail: Option<String>) -> Self {
        Self { kind: kind.urn().to_owned(), title: kind.title().to_owned(), status: kind.status(), detail }
    }

    /// The kind, if it is one of ours.
    pub fn known_kind(&self) -> Option<ProblemKind> {
        ProblemKind::from_urn(&self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_urn_and_an_error_status() {
        for (i, kind) in ProblemKind::ALL.iter().enumerate() {
            assert!((400..600).contains(&kind.status()), "{}", kind.name());
            assert_eq!(ProblemKind::from_urn(kind.urn()), Some(*kind));
            assert!(ProblemKind::ALL[i + 1..].iter().all(|other| other.name() != kind.name()));
        }
        assert_eq!(ProblemKind::from_urn("urn:culvert:problem:nothing"), None);
    }

    #[test]
    fn the_documented_statuses_stand() {
        for (name, status) in [
            ("unauthenticated", 401),
            ("locked-out", 429),
            ("cohort-forbidden", 403),
            ("unknown-cohort", 404),
            ("too-large", 413),
            ("type-not-allowed", 415),
            ("digest-mismatch", 400),
            ("conflict", 409),
            ("retention-locked", 409),
            ("quota", 507),
            ("rate-limited", 429),
            ("tunnel-unavailable", 503),
            ("ledger-unavailable", 503),
            ("backend-unavailable", 503),
            ("clock-skew", 503),
            ("wrong-store", 421),
            ("expired-capability", 410),
            ("used-capability", 410),
        ] {
            let kind = ProblemKind::ALL.iter().find(|kind| kind.name() == name).unwrap();
            assert_eq!(kind.status(), status, "{name}");
        }
    }

    #[test]
    fn the_body_is_rfc_9457() {
        let body = ProblemBody::new(ProblemKind::Quota, Some("volume `main` is full".into()));
        let json = serde_json::to_value(&body).unwrap();
        assert_eq!(json["type"], "urn:culvert:problem:quota");
        assert_eq!(json["status"], 507);
        assert_eq!(body.known_kind(), Some(ProblemKind::Quota));
    }
}
