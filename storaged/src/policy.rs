//! Who may do what: the part of the configuration that a reload swaps.
//!
//! **Invariant:** a [`Policy`] is whole: every cohort that a user or an edge names exists, every name
//! stands once, and there is at least one internal key. Swapping it is one pointer.

use std::time::Duration;

use daemon::secret::SecretString;
use store_proto::{Action, Cohort, EdgeName, Role, TokenDigest, UserName};

use crate::denial::Denial;

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    /// Host headers that name this store, lower-case.
    pub allowed_hosts: Vec<String>,
    /// The internal keys that are alive: one, or two while they are being changed.
    pub internal_keys: Vec<SecretString>,
    /// The edges that may deliver requests.
    pub edges: Vec<Edge>,
    /// The cohorts that exist.
    pub cohorts: Vec<CohortPolicy>,
    /// The users that exist.
    pub users: Vec<User>,
    /// How long an upload's body may be idle.
    pub body_idle: Duration,
}

/// A registered edge.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The friendly name of its WireGuard peer.
    pub name: EdgeName,
    /// The cohorts that it may ask for.
    pub cohorts: Vec<Cohort>,
}

/// A cohort.
#[derive(Debug, Clone)]
pub struct CohortPolicy {
    /// Its name.
    pub name: Cohort,
    /// Its largest file.
    pub max_file_bytes: u64,
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// The name in records.
    pub name: UserName,
    /// What they are.
    pub role: Role,
    /// The cohorts that are open to them.
    pub cohorts: Vec<Cohort>,
    /// SHA-256 of their token.
    pub token: TokenDigest,
}

impl Policy {
    /// The edge with this peer name.
    pub fn edge(&self, name: &str) -> Option<&Edge> {
        self.edges.iter().find(|edge| edge.name.as_str() == name)
    }

    /// Whom a token stands for. Looks at every user, each in constant time.
    pub fn user(&self, token: &TokenDigest) -> Option<&User> {
        self.users.iter().fold(None, |found, user| if user.token.matches(token) { Some(user) } else { found })
    }

    /// Whether a key is one of those alive. Looks at every one, each in constant time.
    pub fn is_internal_key(&self, key: &[u8]) -> bool {
        self.internal_keys.iter().fold(false, |found, alive| alive.matches(key) | found)
    }

    /// Whether a Host header names this store.
    pub fn is_our_host(&self, host: &str) -> bool {
        self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    /// Role × cohort × action, for a user behind an edge.
    pub fn authorize(
        &self,
        edge: &Edge,
        user: &User,
        cohort: &Cohort,
        action: Action,
    ) -> Result<&CohortPolicy, Denial> {
        let Some(found) = self.cohorts.iter().find(|known| known.name == *cohort) else {
            return Err(Denial::UnknownCohort);
        };
        if !edge.cohorts.contains(cohort) {
            return Err(Denial::EdgeCohort);
        }
        if !user.cohorts.contains(cohort) {
            return Err(Denial::UserCohort);
        }
        if !role_allows(user.role, action) {
            return Err(Denial::Role);
        }
        Ok(found)
    }
}

/// What each role may do with files (requirement A-132).
pub fn role_allows(role: Role, action: Action) -> bool {
    match (role, action) {
        (Role::Viewer, Action::Download | Action::List) => true,
        (Role::Viewer, Action::Upload) => false,
        (Role::User | Role::Admin, Action::Upload | Action::Download | Action::List) => true,
        // Reads the ledger, and no file nor the name of one.
        (Role::Auditor, Action::Upload | Action::Download | Action::List) => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use store_proto::Token;

    use super::*;

    #[test]
    fn the_role_by_action_matrix() {
        let table = [
            (Role::Viewer, [false, true, true]),
            (Role::User, [true, true, true]),
            (Role::Admin, [true, true, true]),
            (Role::Auditor, [false, false, false]),
        ];
        for (role, allowed) in table {
            assert_eq!(Action::ALL.map(|action| role_allows(role, action)), allowed, "{}", role.name());
        }
    }

    #[test]
    fn user_edge_and_role_must_all_agree() {
        let policy = example();
        let (web1, web2) = (policy.edge("web1").unwrap(), policy.edge("web2").unwrap());
        let ada = policy.user(&Token::from_bytes([1; 32]).digest()).unwrap();
        let vic = policy.user(&Token::from_bytes([2; 32]).digest()).unwrap();
        let (a, b, none) = (cohort("a"), cohort("b"), cohort("none"));
        assert!(policy.authorize(web1, ada, &a, Action::Upload).is_ok());
        assert_eq!(policy.authorize(web2, ada, &a, Action::Upload).unwrap_err(), Denial::EdgeCohort);
        assert_eq!(policy.authorize(web2, ada, &b, Action::Upload).unwrap_err(), Denial::UserCohort);
        assert_eq!(policy.authorize(web1, ada, &none, Action::List).unwrap_err(), Denial::UnknownCohort);
        assert_eq!(policy.authorize(web1, vic, &a, Action::Upload).unwrap_err(), Denial::Role);
        assert!(policy.authorize(web1, vic, &a, Action::Download).is_ok());
        assert!(policy.user(&Token::from_bytes([3; 32]).digest()).is_none());
    }

    #[test]
    fn two_internal_keys_live_at_once() {
        let policy = example();
        assert!(policy.is_internal_key(b"0123456789abcdef0123456789abcdef"));
        assert!(policy.is_internal_key(b"fedcba9876543210fedcba9876543210"));
        assert!(!policy.is_internal_key(b"0123456789abcdef0123456789abcdeF") && !policy.is_internal_key(b""));
    }

    fn cohort(name: &str) -> Cohort {
        Cohort::parse(name).unwrap()
    }

    fn example() -> Policy {
        let user = |name: &str, role, byte| User {
            name: UserName::parse(name).unwrap(),
            role,
            cohorts: vec![cohort("a")],
            token: Token::from_bytes([byte; 32]).digest(),
        };
        let edge =
            |name: &str, of: &str| Edge { name: EdgeName::parse(name).unwrap(), cohorts: vec![cohort(of)] };
        Policy {
            allowed_hosts: vec!["10.100.0.11:8001".into()],
            internal_keys: vec![
                SecretString::new("0123456789abcdef0123456789abcdef".into()),
                SecretString::new("fedcba9876543210fedcba9876543210".into()),
            ],
            edges: vec![edge("web1", "a"), edge("web2", "b")],
            cohorts: ["a", "b"].map(|name| CohortPolicy { name: cohort(name), max_file_bytes: 100 }).into(),
            users: vec![user("ada", Role::User, 1), user("vic", Role::Viewer, 2)],
            body_idle: Duration::from_secs(1),
        }
    }
}
