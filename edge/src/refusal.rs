//! Every way in which edge says no, as one closed enum.
//!
//! A refusal is at once the problem document, the status and the metric's reason. It never holds a
//! path, a token or a name, so it can be logged and counted as it is.

use std::time::Duration;

use identity::JwtError;
use store_proto::ProblemKind;

use crate::limits::RETRY_AFTER_SECONDS;

/// Why a request gets no 2xx; its text is the problem's detail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such route.
    #[error("there is nothing here; files live under /v1/cohorts/COHORT/files/PATH")]
    NoRoute,
    /// The route exists, the method does not.
    #[error("this resource answers {allow}")]
    Method {
        /// The `Allow` header's value.
        allow: &'static str,
    },
    /// The path of the file breaks a rule, which is named without the path.
    #[error("{0}")]
    Path(String),
    /// The cohort's name breaks a rule, which is named without the name.
    #[error("{0}")]
    CohortName(String),
    /// A query that the route does not take.
    #[error("the query is refused: {0}")]
    Query(&'static str),
    /// A body of edge's own API that is not understood; says where, not what.
    #[error("the body is refused: {0}")]
    Body(String),
    /// A header that cannot be honoured and must not be ignored.
    #[error("the header {name} is refused: {rule}")]
    Header {
        /// The header's name.
        name: &'static str,
        /// The broken rule, in words.
        rule: String,
    },
    /// The head is not HTTP/1.1 as edge speaks it.
    #[error("the request's head cannot be understood")]
    Head,
    /// The head is larger than edge reads.
    #[error("the request's head may have {limit} bytes")]
    HeadTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// No usable credentials.
    #[error("send the header Authorization: Bearer TOKEN; {0}")]
    Unauthenticated(&'static str),
    /// What a provider signed, or did not, is not taken.
    #[error("the token is not taken: {0}")]
    Provider(JwtError),
    /// The body is larger than allowed here.
    #[error("a body may have {limit} bytes here")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body ended early.
    #[error("the body ended before its announced end; nothing was stored")]
    IncompleteBody,
    /// The client paused for too long within a body, or sent it by the byte.
    #[error("the body made too little progress for {} s; nothing was stored", .after.as_secs())]
    SlowBody {
        /// The idle limit.
        after: Duration,
    },
    /// The body is of a type that the route does not take.
    #[error("the body must be of type {wanted}")]
    MediaType {
        /// The type that it takes.
        wanted: &'static str,
    },
    /// Another version of tus than ours.
    #[error("the one version of tus that is spoken here is 1.0.0")]
    TusVersion,
    /// The upload is elsewhere than the client goes on.
    #[error("the upload is at {at}")]
    Offset {
        /// Where it is.
        at: u64,
    },
    /// `If-Match` does not hold.
    #[error("the file is not in the state that If-Match asks for")]
    Precondition,
    /// The range lies outside the file.
    #[error("the file has {size} bytes")]
    Range {
        /// The file's size.
        size: u64,
    },
    /// The tunnel or storaged is away.
    #[error("the secure zone cannot be reached now; nothing was kept here")]
    TunnelUnavailable,
    /// storaged took too long for one answer while the tunnel lives.
    #[error("the store did not answer in time; whether a file is stored can be seen by asking for it")]
    StoreTimeout,
    /// storaged answered what edge cannot understand.
    #[error("the store's answer could not be understood")]
    StoreAnswer,
    /// storaged's log is not the continuation of what was seen of it.
    #[error("the store's log is not the one seen before; nothing is taken until that is settled")]
    OtherHistory,
    /// As many requests as allowed are under way.
    #[error("as many requests as allowed are under way; try again")]
    Busy,
    /// Too many failed attempts by this principal, or from this address.
    #[error("too many attempts failed; nothing is listened to for {} s", .left.as_secs() + 1)]
    LockedOut {
        /// How long this lasts.
        left: Duration,
    },
    /// More requests than the rate allows.
    #[error("too many requests; slow down")]
    RateLimited {
        /// How long until the next one is heard.
        wait: Duration,
    },
    /// edge is stopping.
    #[error("this edge is stopping; try again")]
    Draining,
    /// storaged's own refusal, passed on: its kind and what it says to the client.
    #[error("{}", .detail.as_deref().unwrap_or(kind.title()))]
    Store {
        /// What is wrong.
        kind: ProblemKind,
        /// storaged's words, only where they speak about the request.
        detail: Option<String>,
        /// When to come back, in seconds.
        retry_after_seconds: Option<u32>,
    },
}

/// The reason under which a refusal is counted; a metric label, so closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Authentication or authorisation.
    Auth,
    /// Too many.
    RateLimit,
    /// Too large.
    TooLarge,
    /// The request's own fault.
    BadRequest,
    /// edge is stopping.
    Draining,
    /// Tunnel or storaged.
    UpstreamDown,
    /// The state of the store: absent, conflict, precondition, no room.
    State,
}

impl Reason {
    /// All of them, so that their counters exist before the first refusal.
    pub const ALL: [Reason; 7] = [
        Reason::Auth,
        Reason::RateLimit,
        Reason::TooLarge,
        Reason::BadRequest,
        Reason::Draining,
        Reason::UpstreamDown,
        Reason::State,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Auth => "auth",
            Reason::RateLimit => "rate_limit",
            Reason::TooLarge => "too_large",
            Reason::BadRequest => "bad_request",
            Reason::Draining => "draining",
            Reason::UpstreamDown => "upstream_down",
            Reason::State => "state",
        }
    }
}

impl Refusal {
    /// The problem's type, and with it status and title.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Refusal::NoRoute => ProblemKind::NotFound,
            Refusal::Method { .. } => ProblemKind::MethodNotAllowed,
            Refusal::Path(_) => ProblemKind::InvalidPath,
            Refusal::CohortName(_)
            | Refusal::Query(_)
            | Refusal::Body(_)
            | Refusal::Header { .. }
            | Refusal::Head => ProblemKind::BadRequest,
            Refusal::HeadTooLarge { .. } => ProblemKind::HeadersTooLarge,
            Refusal::Unauthenticated(_) | Refusal::Provider(_) => ProblemKind::Unauthenticated,
            Refusal::TooLarge { .. } => ProblemKind::TooLarge,
            Refusal::IncompleteBody => ProblemKind::IncompleteBody,
            Refusal::SlowBody { .. } => ProblemKind::BodyTimeout,
            Refusal::Offset { .. } => ProblemKind::OffsetMismatch,
            Refusal::MediaType { .. } => ProblemKind::UnsupportedMediaType,
            Refusal::Precondition | Refusal::TusVersion => ProblemKind::PreconditionFailed,
            Refusal::Range { .. } => ProblemKind::RangeNotSatisfiable,
            Refusal::TunnelUnavailable => ProblemKind::TunnelUnavailable,
            Refusal::StoreTimeout => ProblemKind::BackendUnavailable,
            Refusal::StoreAnswer => ProblemKind::BadGateway,
            Refusal::OtherHistory => ProblemKind::LedgerUnavailable,
            Refusal::LockedOut { .. } => ProblemKind::LockedOut,
            Refusal::RateLimited { .. } => ProblemKind::RateLimited,
            Refusal::Busy | Refusal::Draining => ProblemKind::Overloaded,
            Refusal::Store { kind, .. } => *kind,
        }
    }

    /// Whether somebody showed what stands for nobody, and may be guessing. Of edge's own refusals only those that follow
    /// from a signature say anything of who asks.
    pub fn is_failed_attempt(&self) -> bool {
        if let Refusal::Provider(error) = self {
            return error.is_suspicious();
        }
        matches!(self, Refusal::Store { kind: ProblemKind::Unauthenticated, .. })
    }

    /// Whether the same request can be answered a little later.
    pub fn is_passing(&self) -> bool {
        self.kind().status() >= 500
    }

    /// Seconds for `Retry-After`: where coming back is the answer.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        if let Refusal::Store { retry_after_seconds: Some(seconds), .. } = self {
            return Some(*seconds);
        }
        if let Refusal::LockedOut { left: wait } | Refusal::RateLimited { wait } = self {
            // Rounded up: who comes back then is heard.
            return Some(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1));
        }
        (self.kind().status() == 503).then_some(RETRY_AFTER_SECONDS)
    }

    /// The reason it is counted under.
    pub fn reason(&self) -> Reason {
        if *self == Refusal::Draining {
            return Reason::Draining;
        }
        match self.kind() {
            ProblemKind::Unauthenticated
            | ProblemKind::CohortForbidden
            | ProblemKind::FileWithheld
            | ProblemKind::EdgeForbidden => Reason::Auth,
            ProblemKind::LockedOut | ProblemKind::RateLimited | ProblemKind::Overloaded => Reason::RateLimit,
            ProblemKind::TooLarge | ProblemKind::HeadersTooLarge => Reason::TooLarge,
            ProblemKind::BadRequest
            | ProblemKind::InvalidPath
            | ProblemKind::DigestMismatch
            | ProblemKind::IncompleteBody
            | ProblemKind::BodyTimeout
            | ProblemKind::NotFound
            | ProblemKind::MethodNotAllowed
            | ProblemKind::UnsupportedMediaType
            | ProblemKind::TypeNotAllowed
            | ProblemKind::AttributeNotAllowed
            | ProblemKind::IdempotencyKeyReused => Reason::BadRequest,
            ProblemKind::Internal
            | ProblemKind::BadGateway
            | ProblemKind::TunnelUnavailable
            | ProblemKind::LedgerUnavailable
            | ProblemKind::BackendUnavailable
            | ProblemKind::PeerUnverified
            | ProblemKind::ClockSkew
            | ProblemKind::WrongStore => Reason::UpstreamDown,
            ProblemKind::UnknownCohort
            | ProblemKind::UnknownFile
            | ProblemKind::UnknownUpload
            | ProblemKind::OffsetMismatch
            | ProblemKind::LengthMismatch
            | ProblemKind::UploadBusy
            | ProblemKind::Conflict
            | ProblemKind::IdempotencyKeyInUse
            | ProblemKind::RetentionLocked
            | ProblemKind::ExpiredCapability
            | ProblemKind::UsedCapability
            | ProblemKind::PreconditionFailed
            | ProblemKind::RangeNotSatisfiable
            | ProblemKind::Quota => Reason::State,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_tunnel_is_503_and_asks_to_come_back() {
        let refusal = Refusal::TunnelUnavailable;
        assert_eq!(refusal.kind().status(), 503);
        assert_eq!(refusal.kind().urn(), "urn:culvert:problem:tunnel-unavailable");
        assert_eq!(refusal.retry_after_seconds(), Some(RETRY_AFTER_SECONDS));
    }

    #[test]
    fn a_stores_denial_counts_as_authentication() {
        let kind = ProblemKind::Unauthenticated;
        let refusal = Refusal::Store { kind, detail: None, retry_after_seconds: None };
        assert_eq!(refusal.reason(), Reason::Auth);
        assert_eq!(refusal.retry_after_seconds(), None);
    }

    #[test]
    fn stopping_is_counted_apart_from_being_busy() {
        assert_eq!(Refusal::Draining.reason(), Reason::Draining);
        assert_eq!(Refusal::Busy.reason(), Reason::RateLimit);
    }
}
