//! The closed list of reasons to refuse a request: at once return value, metric label, word in the
//! trail and assertion in tests.

use store_proto::ProblemKind;

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// wgd did not say in time who delivered it.
    PeerUnanswered,
    /// No peer has the source address.
    PeerUnknown,
    /// The peer is not a registered edge.
    PeerNotRegistered,
    /// No internal key.
    KeyMissing,
    /// `X-Internal-Key` and `X-API-Key` differ.
    KeysDiffer,
    /// A wrong internal key.
    KeyWrong,
    /// The Host header is missing or names another.
    Host,
    /// The request is for another store.
    OtherStore,
    /// No request context.
    ContextMissing,
    /// An unreadable request context.
    ContextMalformed,
    /// The clocks differ by more than 60 s.
    ClockSkew,
    /// The context names another edge than the delivering peer.
    EdgeMismatch,
    /// The token stands for nobody.
    Token,
    /// The token has run out.
    TokenExpired,
    /// The user is shut out.
    UserDisabled,
    /// A provider's token that is malformed, unsigned, or signed by somebody else.
    Jwt,
    /// A token of a provider that is not known here, or for another audience.
    JwtIssuer,
    /// A token signed with a key that was not brought here.
    JwtKey,
    /// A provider's token that has run out, or is not valid yet.
    JwtExpired,
    /// A token without its groups, of which there are too many.
    GroupsOverage,
    /// A client's certificate that no authority of ours vouches for now.
    Certificate,
    /// One that was revoked, or of which that cannot be said.
    CertificateRevoked,
    /// One that is nobody's here.
    CertificateUser,
    /// A link that this store did not make, or does not know.
    Capability,
    /// A link that has run out or was revoked.
    CapabilityEnded,
    /// A link for something else, or for somewhere else.
    CapabilityScope,
    /// A link that was used as often as it may be.
    CapabilityUsed,
    /// Somebody who may not use the admin socket.
    AdminCaller,
    /// No such cohort.
    UnknownCohort,
    /// The cohort is not this edge's.
    EdgeCohort,
    /// The cohort is not open to this user.
    UserCohort,
    /// The user's role does not allow the action.
    Role,
    /// The path breaks a rule.
    Path,
    /// A header, the query or the JSON is malformed.
    Malformed,
    /// The file would be larger than allowed.
    TooLarge,
    /// The user asked more of the cohort within an hour than the rule lets pass.
    UnusualAccess,
    /// The upload was begun by somebody else.
    NotYours,
    /// The cohort does not take files of this type.
    FileType,
    /// The cohort does not take an attribute of the file, or not with its value.
    Attribute,
    /// The file is held for a scanner, or was rejected.
    Withheld,
}

impl Denial {
    /// Every reason.
    pub const ALL: [Denial; 40] = [
        Denial::PeerUnanswered,
        Denial::PeerUnknown,
        Denial::PeerNotRegistered,
        Denial::KeyMissing,
        Denial::KeysDiffer,
        Denial::KeyWrong,
        Denial::Host,
        Denial::OtherStore,
        Denial::ContextMissing,
        Denial::ContextMalformed,
        Denial::ClockSkew,
        Denial::EdgeMismatch,
        Denial::Token,
        Denial::TokenExpired,
        Denial::UserDisabled,
        Denial::Jwt,
        Denial::JwtIssuer,
        Denial::JwtKey,
        Denial::JwtExpired,
        Denial::GroupsOverage,
        Denial::Certificate,
        Denial::CertificateRevoked,
        Denial::CertificateUser,
        Denial::Capability,
        Denial::CapabilityEnded,
        Denial::CapabilityScope,
        Denial::CapabilityUsed,
        Denial::AdminCaller,
        Denial::UnknownCohort,
        Denial::EdgeCohort,
        Denial::UserCohort,
        Denial::Role,
        Denial::Path,
        Denial::Malformed,
        Denial::TooLarge,
        Denial::UnusualAccess,
        Denial::NotYours,
        Denial::FileType,
        Denial::Attribute,
        Denial::Withheld,
    ];

    /// The word in metrics and in the trail.
    pub const fn name(self) -> &'static str {
        match self {
            Denial::PeerUnanswered => "peer_unanswered",
            Denial::PeerUnknown => "peer_unknown",
            Denial::PeerNotRegistered => "peer_not_registered",
            Denial::KeyMissing => "key_missing",
            Denial::KeysDiffer => "keys_differ",
            Denial::KeyWrong => "key_wrong",
            Denial::Host => "host",
            Denial::OtherStore => "other_store",
            Denial::ContextMissing => "context_missing",
            Denial::ContextMalformed => "context_malformed",
            Denial::ClockSkew => "clock_skew",
            Denial::EdgeMismatch => "edge_mismatch",
            Denial::Token => "token",
            Denial::TokenExpired => "token_expired",
            Denial::UserDisabled => "user_disabled",
            Denial::Jwt => "jwt",
            Denial::JwtIssuer => "jwt_issuer",
            Denial::JwtKey => "jwt_key",
            Denial::JwtExpired => "jwt_expired",
            Denial::GroupsOverage => "groups_overage",
            Denial::Certificate => "certificate",
            Denial::CertificateRevoked => "certificate_revoked",
            Denial::CertificateUser => "certificate_user",
            Denial::Capability => "capability",
            Denial::CapabilityEnded => "capability_ended",
            Denial::CapabilityScope => "capability_scope",
            Denial::CapabilityUsed => "capability_used",
            Denial::AdminCaller => "admin_caller",
            Denial::UnknownCohort => "unknown_cohort",
            Denial::EdgeCohort => "edge_cohort",
            Denial::UserCohort => "user_cohort",
            Denial::Role => "role",
            Denial::Path => "path",
            Denial::Malformed => "malformed",
            Denial::TooLarge => "too_large",
            Denial::UnusualAccess => "unusual_access",
            Denial::NotYours => "not_yours",
            Denial::FileType => "file_type",
            Denial::Attribute => "attribute",
            Denial::Withheld => "withheld",
        }
    }

    /// Whether the cohort exists and is not open to whom the request is for: what masking hides.
    pub const fn is_closed_cohort(self) -> bool {
        matches!(self, Denial::EdgeCohort | Denial::UserCohort)
    }

    /// What helps whoever asks, where the kind of problem alone does not say it.
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Denial::Jwt => Some("the token's form, algorithm or signature is not one that is taken here"),
            Denial::JwtIssuer => {
                Some("the token's issuer is not known here, or it was made for another audience")
            }
            Denial::JwtKey => Some(
                "the token is signed with a key that is not known here; if the provider has changed its keys, \
                 its JWKS must be brought",
            ),
            Denial::JwtExpired => Some("the token has expired, or is not valid yet"),
            Denial::GroupsOverage => Some(identity::groups::OVERAGE),
            Denial::Certificate => Some("the client's certificate is not one that is taken here"),
            Denial::CertificateRevoked => {
                Some("the client's certificate was revoked, or the list of revocations is too old to say")
            }
            Denial::CertificateUser => Some("the client's certificate is nobody's here"),
            Denial::PeerUnanswered
            | Denial::PeerUnknown
            | Denial::PeerNotRegistered
            | Denial::KeyMissing
            | Denial::KeysDiffer
            | Denial::KeyWrong
            | Denial::Host
            | Denial::OtherStore
            | Denial::ContextMissing
            | Denial::ContextMalformed
            | Denial::ClockSkew
            | Denial::EdgeMismatch
            | Denial::Token
            | Denial::TokenExpired
            | Denial::UserDisabled
            | Denial::Capability
            | Denial::CapabilityEnded
            | Denial::CapabilityScope
            | Denial::CapabilityUsed
            | Denial::AdminCaller
            | Denial::UnknownCohort
            | Denial::EdgeCohort
            | Denial::UserCohort
            | Denial::Role
            | Denial::Path
            | Denial::Malformed
            | Denial::TooLarge
            | Denial::UnusualAccess
            | Denial::NotYours
            | Denial::FileType
            | Denial::Attribute
            | Denial::Withheld => None,
        }
    }

    /// What the sender is told. What failed among the locks is told to edge's operator, who is one of us;
    /// which user or cohort exists is not told apart beyond the public API.
    pub const fn problem(self) -> ProblemKind {
        match self {
            Denial::PeerUnanswered => ProblemKind::PeerUnverified,
            Denial::PeerUnknown
            | Denial::PeerNotRegistered
            | Denial::KeyMissing
            | Denial::KeyWrong
            | Denial::EdgeMismatch => ProblemKind::EdgeForbidden,
            Denial::KeysDiffer | Denial::ContextMissing | Denial::ContextMalformed | Denial::Malformed => {
                ProblemKind::BadRequest
            }
            Denial::Host | Denial::OtherStore => ProblemKind::WrongStore,
            Denial::ClockSkew => ProblemKind::ClockSkew,
            Denial::Token
            | Denial::TokenExpired
            | Denial::UserDisabled
            | Denial::Jwt
            | Denial::JwtIssuer
            | Denial::JwtKey
            | Denial::JwtExpired
            | Denial::Certificate
            | Denial::CertificateRevoked
            | Denial::CertificateUser
            | Denial::Capability => ProblemKind::Unauthenticated,
            Denial::CapabilityEnded => ProblemKind::ExpiredCapability,
            Denial::CapabilityUsed => ProblemKind::UsedCapability,
            Denial::UnknownCohort => ProblemKind::UnknownCohort,
            Denial::EdgeCohort
            | Denial::UserCohort
            | Denial::GroupsOverage
            | Denial::Role
            | Denial::CapabilityScope
            | Denial::AdminCaller => ProblemKind::CohortForbidden,
            Denial::Path => ProblemKind::InvalidPath,
            Denial::TooLarge => ProblemKind::TooLarge,
            Denial::UnusualAccess => ProblemKind::RateLimited,
            Denial::NotYours => ProblemKind::UnknownUpload,
            Denial::FileType => ProblemKind::TypeNotAllowed,
            Denial::Attribute => ProblemKind::AttributeNotAllowed,
            Denial::Withheld => ProblemKind::FileWithheld,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_word() {
        for (i, denial) in Denial::ALL.iter().enumerate() {
            assert!(Denial::ALL[i + 1..].iter().all(|other| other.name() != denial.name()));
        }
    }
}
