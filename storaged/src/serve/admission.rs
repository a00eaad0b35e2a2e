//! The locks, in their order. Each is one function; removing any one of them fails a test.
//!
//! 1. the delivering peer is a registered edge — by wgd's word, not by a header
//! 2. the internal key matches
//! 3. the Host header names this store
//! 4. the context is readable, fresh, and names the delivering edge
//! 5. the token, or what a provider signed, stands for a user
//! 6. policy allows the action on the cohort ([`Admitted::authorize`])

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use store_proto::{Action, CapabilityClaims, Cohort, FileId, Proof, RequestContext, Role, UserName, headers};
use tunnel_events::PeerIdentity;

use crate::denial::Denial;
use crate::ledger::Origin;
use crate::policy::{CohortPolicy, Edge, Policy, User};
use crate::serve::capabilities;
use crate::store::Store;

/// A request whose first five locks are open.
#[derive(Debug)]
pub struct Admitted {
    policy: Arc<Policy>,
    edge: Edge,
    user: User,
    /// What a link says, where one was shown instead of a token.
    link: Option<CapabilityClaims>,
    /// What its records say.
    pub origin: Origin,
}

/// A refused request: why, and what its record says.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub denial: Denial,
    /// What is known of it.
    pub origin: Box<Origin>,
}

impl Admitted {
    /// The sixth lock.
    pub fn authorize(&self, cohort: &Cohort, action: Action) -> Result<CohortPolicy, Denial> {
        self.policy.authorize(&self.edge, &self.user, cohort, action)
    }

    /// Whether held files are open to the user.
    pub fn is_scanner(&self) -> bool {
        self.user.is_scanner
    }

    /// Whom the proof stands for.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// What the link says, where one was shown.
    pub fn link(&self) -> Option<&CapabilityClaims> {
        self.link.as_ref()
    }

    /// Whether the user reads the ledger.
    pub fn is_auditor(&self) -> bool {
        match self.user.role {
            // A link stands for a file, not for its maker's role.
            Role::Auditor => self.link.is_none(),
            Role::Viewer | Role::User | Role::Admin => false,
        }
    }

    /// Takes the rules that hold now: what was taken away since the first look is gone.
    pub(super) fn judge_by(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// The rules this request is judged by, whatever is reloaded meanwhile.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// The first lock alone: what a health check needs.
pub async fn admit_edge(store: &Store, source: IpAddr) -> Result<(Arc<Policy>, Edge, Origin), Refused> {
    let mut origin = Origin { source_address: Some(source), ..Origin::default() };
    let refuse = |denial, origin: &Origin| Refused { denial, origin: Box::new(origin.clone()) };
    let policy = store.policy.load_full();
    let peer = delivering_peer(store, source).await.map_err(|denial| refuse(denial, &origin))?;
    origin.peer_public_key = Some(peer.public_key.clone());
    let edge = registered_edge(&policy, &peer).map_err(|denial| refuse(denial, &origin))?;
    origin.edge = Some(edge.name.clone());
    Ok((policy, edge, origin))
}

/// The locks of a daemon that asks for itself and not for a user: it is `internal:EDGE` in records (requirement A-135).
pub async fn admit_daemon(store: &Store, source: IpAddr, headers: &HeaderMap) -> Result<Origin, Refused> {
    let (policy, edge, origin) = admit_edge(store, source).await?;
    match internal_key(&policy, headers).and_then(|()| host(&policy, headers)) {
        Ok(()) => Ok(Origin { user: Some(UserName::internal(&edge.name)), ..origin }),
        Err(denial) => Err(Refused { denial, origin: Box::new(origin) }),
    }
}

/// The first five locks.
pub async fn admit(store: &Store, source: IpAddr, headers: &HeaderMap) -> Result<Admitted, Refused> {
    let (policy, edge, mut origin) = admit_edge(store, source).await?;
    let refuse = |denial, origin: &Origin| Refused { denial, origin: Box::new(origin.clone()) };
    internal_key(&policy, headers).map_err(|denial| refuse(denial, &origin))?;
    host(&policy, headers).map_err(|denial| refuse(denial, &origin))?;
    this_store(store, headers).map_err(|denial| refuse(denial, &origin))?;
    let context = read_context(headers).map_err(|denial| refuse(denial, &origin))?;
    origin.request_id = Some(context.request_id.clone());
    origin.client_address = Some(context.client_address);
    origin.edge_process_id = Some(context.process_id);
    let now_ms = store.clock.unix_milliseconds();
    store.metrics.edge_clock_offset_seconds.set(seconds(context.clock_offset_ms(now_ms)));
    fresh(&context, now_ms).map_err(|denial| refuse(denial, &origin))?;
    same_edge(&context, &edge).map_err(|denial| refuse(denial, &origin))?;
    let proven = prove(store, &policy, &context, now_ms).await;
    let (user, link) = proven.map_err(|denial| refuse(denial, &origin))?;
    origin.user = Some(user.name.clone());
    Ok(Admitted { policy, edge, user, link, origin })
}

async fn delivering_peer(store: &Store, source: IpAddr) -> Result<PeerIdentity, Denial> {
    match store.whois.ask(source).await {
        Ok(Some(peer)) => Ok(peer),
        Ok(None) => Err(Denial::PeerUnknown),
        Err(_unanswered) => Err(Denial::PeerUnanswered),
    }
}

fn registered_edge(policy: &Policy, peer: &PeerIdentity) -> Result<Edge, Denial> {
    policy.edge(&peer.peer).ok_or(Denial::PeerNotRegistered)
}

/// Requirement C-01: `X-Internal-Key`, or its alias `X-API-Key`; if there are several they must be equal.
fn internal_key(policy: &Policy, headers: &HeaderMap) -> Result<(), Denial> {
    let mut keys =
        [headers::X_INTERNAL_KEY, headers::X_API_KEY].into_iter().flat_map(|name| headers.get_all(name));
    let first = keys.next().ok_or(Denial::KeyMissing)?;
    if keys.any(|other| other != first) {
        return Err(Denial::KeysDiffer);
    }
    if policy.is_internal_key(first.as_bytes()) { Ok(()) } else { Err(Denial::KeyWrong) }
}

fn host(policy: &Policy, headers: &HeaderMap) -> Result<(), Denial> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
        (Some(host), None) if policy.is_our_host(host) => Ok(()),
        _ => Err(Denial::Host),
    }
}

/// An address may lead to another store than when edge last looked: what it has for one of them is not the other's.
fn this_store(store: &Store, headers: &HeaderMap) -> Result<(), Denial> {
    let own = FileId::mark_text(store.keys.store().0.mark());
    let is_ours = |named: &HeaderValue| named.as_bytes() == own.as_bytes();
    if headers.get_all(headers::CULVERT_STORE).iter().all(is_ours) { Ok(()) } else { Err(Denial::OtherStore) }
}

fn read_context(headers: &HeaderMap) -> Result<RequestContext, Denial> {
    let mut contexts = headers.get_all(headers::CULVERT_CONTEXT).iter();
    match (contexts.next(), contexts.next()) {
        (Some(header), None) => {
            RequestContext::decode(header.as_bytes()).map_err(|_| Denial::ContextMalformed)
        }
        (Some(_), Some(_)) => Err(Denial::ContextMalformed),
        (None, _) => Err(Denial::ContextMissing),
    }
}

fn fresh(context: &RequestContext, now_ms: u64) -> Result<(), Denial> {
    if context.is_skewed(now_ms) { Err(Denial::ClockSkew) } else { Ok(()) }
}

fn same_edge(context: &RequestContext, edge: &Edge) -> Result<(), Denial> {
    if context.edge == edge.name { Ok(()) } else { Err(Denial::EdgeMismatch) }
}

async fn prove(
    store: &Store,
    policy: &Policy,
    context: &RequestContext,
    now_ms: u64,
) -> Result<(User, Option<CapabilityClaims>), Denial> {
    match &context.proof {
        Proof::Token(token) => {
            let user = policy.user(&token.digest(), now_ms)?;
            if let Some(token) = user.token {
                store.seen.note(token, now_ms, &store.ledger).await;
            }
            Ok((user, None))
        }
        Proof::Jwt(jwt) => Ok((policy.vouched(jwt, now_ms)?, None)),
        Proof::Certificate(chain) => {
            let owner = policy.rules().providers.owner(chain, now_ms)?;
            Ok((policy.named(owner)?, None))
        }
        Proof::Capability(shown) => {
            let (user, claims) = capabilities::holder(store, policy, shown, context, now_ms)?;
            Ok((user, Some(claims)))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an offset of 285,000 years is off by a millisecond")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}
