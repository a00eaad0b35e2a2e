//! Who may do what: what the host's configuration says, and what the book of access says.
//!
//! **Invariant:** a [`Policy`] is a snapshot and whole: the book keeps its names from dangling, and there is at least one
//! internal key. It is rebuilt after every change of either half; swapping it is one pointer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use daemon::secret::SecretString;
use store_proto::{
    Action, AttributeRules, Cohort, EdgeName, Extension, FileId, FileType, Jwt, LogicalPath, Role,
    TokenDigest, UserName,
};

use crate::access_monitor::Rule;
use crate::denial::Denial;
use crate::ledger::access::{Book, ContentRule, Scan};
use crate::ledger::usage::Quota;
use crate::limits::SCANNER_GROUP;
use crate::objects::Opening;
use crate::providers::Providers;

/// What belongs to the host: the part of `storaged.toml` that a reload swaps.
#[derive(Debug, Clone)]
pub struct HostRules {
    /// Host headers that name this store, lower-case.
    pub allowed_hosts: Vec<String>,
    /// The internal keys that are alive: one, or two while they are being changed.
    pub internal_keys: Vec<SecretString>,
    /// How long an upload's body may be idle.
    pub body_idle: Duration,
    /// The largest file of any cohort.
    pub max_file_bytes: u64,
    /// When a user's hour is unusual.
    pub access: Rule,
    /// Who else vouches for users.
    pub providers: Providers,
}

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    rules: Arc<HostRules>,
    book: Arc<Book>,
    /// Tokens by their digest. A digest is no secret that can be guessed byte by byte: whoever sends a token does not
    /// choose what it hashes to, and the map's own hash is keyed. What is found is compared in constant time.
    by_digest: HashMap<[u8; 32], FileId>,
}

/// A registered edge.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The friendly name of its WireGuard peer.
    pub name: EdgeName,
    /// The cohorts that it may ask for.
    pub cohorts: BTreeSet<Cohort>,
}

/// A cohort, as its files are judged by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CohortPolicy {
    /// Its name.
    pub name: Cohort,
    /// Its largest file.
    pub max_file_bytes: u64,
    /// The sum of its files.
    pub quota_bytes: Option<u64>,
    /// The number of its files.
    pub quota_files: Option<u64>,
    /// The attributes that they may have.
    pub attributes: AttributeRules,
    /// The types that may be stored; any, if there are none.
    pub file_types: BTreeSet<FileType>,
    /// The ends of names that may be stored; any, if there are none.
    pub extensions: BTreeSet<Extension>,
    /// Whether a file's first bytes must be what its name's end says.
    pub content_checked: bool,
    /// A file may not be deleted before it is so old.
    pub retention_days: Option<u32>,
    /// Whether a file is held until the scanner says that it is clean.
    pub scan_required: bool,
}

impl CohortPolicy {
    /// What all its files may use.
    pub fn quota(&self) -> Quota {
        Quota { bytes: self.quota_bytes, files: self.quota_files }
    }

    /// What the first bytes of a file of this name must be; none: anything.
    pub fn opening(&self, path: &LogicalPath) -> Option<Opening> {
        Opening::of(path.file_name()).filter(|_| self.content_checked)
    }

    /// Whether a file of this name and type may be stored.
    pub fn takes(&self, path: &LogicalPath, file_type: Option<&FileType>) -> bool {
        let type_fits =
            self.file_types.is_empty() || file_type.is_some_and(|named| self.file_types.contains(named));
        let mut extensions = self.extensions.iter();
        type_fits && (self.extensions.is_empty() || extensions.any(|end| end.is_of(path.file_name())))
    }
}

/// Where a user's rights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// The book of access, at each look.
    Book,
    /// What a provider's claims opened, in this request; the book can only shut out.
    Claims(BTreeMap<Cohort, Role>),
}

/// A user who showed a proof that holds.
#[derive(Debug, Clone)]
pub struct User {
    /// The name in records.
    pub name: UserName,
    /// What they are.
    pub role: Role,
    /// Whether held files are open to them: the scanner's part.
    pub is_scanner: bool,
    /// The token that was shown; none where a capability or a provider stands for them.
    pub token: Option<FileId>,
    /// Where their rights come from.
    pub rights: Rights,
}

impl Policy {
    /// Puts both halves together.
    pub fn new(rules: Arc<HostRules>, book: Arc<Book>) -> Policy {
        let by_digest = book.tokens.iter().map(|(id, row)| (*row.sha256.as_bytes(), *id)).collect();
        Policy { rules, book, by_digest }
    }

    /// The host's half.
    pub fn rules(&self) -> &Arc<HostRules> {
        &self.rules
    }

    /// The ledger's half.
    pub fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// The edge with this peer name.
    pub fn edge(&self, name: &str) -> Option<Edge> {
        let name = EdgeName::parse(name).ok()?;
        let cohorts = self.book.edges.get(&name)?.clone();
        Some(Edge { name, cohorts })
    }

    /// Whom a token stands for.
    pub fn user(&self, token: &TokenDigest, now_ms: u64) -> Result<User, Denial> {
        let id = self.by_digest.get(token.as_bytes()).ok_or(Denial::Token)?;
        let row = self.book.tokens.get(id).filter(|row| row.sha256.matches(token)).ok_or(Denial::Token)?;
        if row.expires_ms.is_some_and(|expires| expires <= now_ms) {
            return Err(Denial::TokenExpired);
        }
        self.named(&row.user).map(|user| User { token: Some(*id), ..user })
    }

    /// A user by name, if they are not shut out.
    pub fn named(&self, name: &UserName) -> Result<User, Denial> {
        let user = self.book.users.get(name).filter(|user| !user.disabled).ok_or(Denial::UserDisabled)?;
        let is_scanner = user.groups.contains(SCANNER_GROUP);
        Ok(User { name: name.clone(), role: user.role, is_scanner, token: None, rights: Rights::Book })
    }

    /// Whom a provider's token stands for, if they are not shut out.
    pub fn vouched(&self, jwt: &Jwt, now_ms: u64) -> Result<User, Denial> {
        let (name, rights) = self.rules.providers.prove(jwt, now_ms)?;
        let role = if rights.is_auditor { Role::Auditor } else { Role::Viewer };
        self.with_rights(name, role, rights.cohorts)
    }

    /// Who made a link when a provider vouched for them: they could read the cohort's files then, and nothing more goes
    /// through a link.
    pub fn vouched_before(&self, name: &UserName, cohort: &Cohort) -> Result<User, Denial> {
        self.with_rights(name.clone(), Role::Viewer, BTreeMap::from([(cohort.clone(), Role::Viewer)]))
    }

    fn with_rights(
        &self,
        name: UserName,
        role: Role,
        cohorts: BTreeMap<Cohort, Role>,
    ) -> Result<User, Denial> {
        let user = User { name, role, is_scanner: false, token: None, rights: Rights::Claims(cohorts) };
        self.still(&user).map(|()| user)
    }

    /// Whether somebody who was let in a moment ago would not be shut out now.
    pub fn still(&self, user: &User) -> Result<(), Denial> {
        let known = self.book.users.get(&user.name);
        let is_in = match user.rights {
            Rights::Book => {
                let lives = user.token.is_none_or(|token| self.book.tokens.contains_key(&token));
                if !lives {
                    return Err(Denial::Token);
                }
                known.is_some_and(|known| !known.disabled)
            }
            // A provider's subject is in the book only if somebody shut them out once.
            Rights::Claims(_) => known.is_none_or(|known| !known.disabled),
        };
        if is_in { Ok(()) } else { Err(Denial::UserDisabled) }
    }

    /// Whether a key is one of those alive. Looks at every one, each in constant time.
    pub fn is_internal_key(&self, key: &[u8]) -> bool {
        self.rules.internal_keys.iter().fold(false, |found, alive| alive.matches(key) | found)
    }

    /// Whether a Host header names this store.
    pub fn is_our_host(&self, host: &str) -> bool {
        self.rules.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    /// Whether a cohort that is not open to somebody looks like one that is not there.
    pub fn masks_cohorts(&self) -> bool {
        self.book.settings.mask_cohorts
    }

    /// What holds for the files of a cohort.
    pub fn cohort(&self, name: &Cohort) -> Option<CohortPolicy> {
        let rules = self.book.cohorts.get(name)?;
        let most = self.rules.max_file_bytes;
        Some(CohortPolicy {
            name: name.clone(),
            max_file_bytes: rules.max_file_bytes.unwrap_or(most).min(most),
            quota_bytes: rules.quota_bytes,
            quota_files: rules.quota_files,
            attributes: rules.attributes.clone(),
            file_types: rules.file_types.clone(),
            extensions: rules.extensions.clone(),
            content_checked: rules.content == ContentRule::Checked,
            retention_days: rules.retention_days,
            scan_required: rules.scan == Scan::Required,
        })
    }

    /// Role × cohort × action, for a user behind an edge.
    pub fn authorize(
        &self,
        edge: &Edge,
        user: &User,
        cohort: &Cohort,
        action: Action,
    ) -> Result<CohortPolicy, Denial> {
        let found = self.cohort(cohort).ok_or(Denial::UnknownCohort)?;
        if !edge.cohorts.contains(cohort) {
            return Err(Denial::EdgeCohort);
        }
        self.still(user)?;
        let role = match &user.rights {
            Rights::Book => {
                let known = self.book.users.get(&user.name).ok_or(Denial::UserDisabled)?;
                self.book.is_open(known, cohort).then_some(known.role)
            }
            Rights::Claims(cohorts) => cohorts.get(cohort).copied(),
        };
        let role = match role {
            Some(role) => role,
            // Whoever reads the ledger has no cohort at all.
            None if user.rights != Rights::Book && user.role == Role::Auditor => return Err(Denial::Role),
            None => return Err(Denial::UserCohort),
        };
        if !role_allows(role, action) {
            return Err(Denial::Role);
        }
        Ok(found)
    }
}

/// What each role may do with files (requirement A-132).
pub fn role_allows(role: Role, action: Action) -> bool {
    match (role, action) {
        (Role::Viewer, Action::Download | Action::List) => true,
        (Role::Viewer, Action::Upload | Action::Delete) => false,
        (Role::User | Role::Admin, Action::Upload | Action::Download | Action::List) => true,
        // What is written stays: a deletion is not a part of writing.
        (Role::User, Action::Delete) => false,
        (Role::Admin, Action::Delete) => true,
        // Reads the ledger, and no file nor the name of one.
        (Role::Auditor, Action::Upload | Action::Download | Action::List | Action::Delete) => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use store_proto::Token;

    use super::*;
    use crate::ledger::access::Wish;

    #[test]
    fn the_role_by_action_matrix() {
        let table = [
            (Role::Viewer, [false, true, true, false]),
            (Role::User, [true, true, true, false]),
            (Role::Admin, [true, true, true, true]),
            (Role::Auditor, [false, false, false, false]),
        ];
        for (role, allowed) in table {
            assert_eq!(Action::ALL.map(|action| role_allows(role, action)), allowed, "{}", role.name());
        }
    }

    #[test]
    fn user_edge_and_role_must_all_agree() {
        let policy = example();
        let (web1, web2) = (policy.edge("web1").unwrap(), policy.edge("web2").unwrap());
        let ada = policy.user(&Token::from_bytes([1; 32]).digest(), 0).unwrap();
        let vic = policy.user(&Token::from_bytes([2; 32]).digest(), 0).unwrap();
        let (a, b, none) = (cohort("a"), cohort("b"), cohort("none"));
        assert!(policy.authorize(&web1, &ada, &a, Action::Upload).is_ok());
        assert_eq!(policy.authorize(&web2, &ada, &a, Action::Upload).unwrap_err(), Denial::EdgeCohort);
        assert_eq!(policy.authorize(&web2, &ada, &b, Action::Upload).unwrap_err(), Denial::UserCohort);
        assert_eq!(policy.authorize(&web1, &ada, &none, Action::List).unwrap_err(), Denial::UnknownCohort);
        assert_eq!(policy.authorize(&web1, &vic, &a, Action::Upload).unwrap_err(), Denial::Role);
        assert!(policy.authorize(&web1, &vic, &a, Action::Download).is_ok());
        let nobody = Token::from_bytes([3; 32]).digest();
        assert_eq!(policy.user(&nobody, 0).unwrap_err(), Denial::Token);
    }

    #[test]
    fn a_token_runs_out_and_a_disabled_user_is_nobody() {
        let policy = example();
        let vic = Token::from_bytes([2; 32]).digest();
        assert!(policy.user(&vic, 999).is_ok());
        assert_eq!(policy.user(&vic, 1000).unwrap_err(), Denial::TokenExpired);
        let mut book = Book::clone(policy.book());
        book.users.get_mut(&name("ada")).unwrap().disabled = true;
        let policy = Policy::new(Arc::clone(policy.rules()), Arc::new(book));
        let ada = Token::from_bytes([1; 32]).digest();
        assert_eq!(policy.user(&ada, 0).unwrap_err(), Denial::UserDisabled);
    }

    #[test]
    fn a_group_opens_its_cohort() {
        let policy = example();
        let mut book = Book::clone(policy.book());
        let join = Wish::JoinGroup { user: name("vic"), group: "b_users".into() };
        for change in join.decide(&book, 0).unwrap() {
            book.take(&change).unwrap();
        }
        let policy = Policy::new(Arc::clone(policy.rules()), Arc::new(book));
        let (web2, vic) = (policy.edge("web2").unwrap(), policy.named(&name("vic")).unwrap());
        assert!(policy.authorize(&web2, &vic, &cohort("b"), Action::Download).is_ok());
    }

    #[test]
    fn a_providers_subject_has_what_the_claims_open_and_the_book_can_only_shut_out() {
        let policy = example();
        let (web1, a, b) = (policy.edge("web1").unwrap(), cohort("a"), cohort("b"));
        let of_clinic = name("clinic:ada");
        let opened = BTreeMap::from([(a.clone(), Role::User)]);
        let ada = policy.with_rights(of_clinic.clone(), Role::Viewer, opened.clone()).unwrap();
        assert!(policy.authorize(&web1, &ada, &a, Action::Upload).is_ok());
        assert_eq!(policy.authorize(&web1, &ada, &a, Action::Delete).unwrap_err(), Denial::Role);
        let web2 = policy.edge("web2").unwrap();
        assert_eq!(policy.authorize(&web2, &ada, &b, Action::List).unwrap_err(), Denial::UserCohort);
        let mut book = Book::clone(policy.book());
        for change in (Wish::ShutOut { user: of_clinic.clone() }).decide(&book, 0).unwrap() {
            book.take(&change).unwrap();
        }
        let policy = Policy::new(Arc::clone(policy.rules()), Arc::new(book));
        assert_eq!(policy.authorize(&web1, &ada, &a, Action::Upload).unwrap_err(), Denial::UserDisabled);
        assert!(policy.with_rights(of_clinic.clone(), Role::Viewer, opened).is_err());
        assert!(policy.vouched_before(&of_clinic, &a).is_err(), "their links end too");
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

    fn name(name: &str) -> UserName {
        UserName::parse(name).unwrap()
    }

    fn example() -> Policy {
        let mut book = Book::default();
        let user = |of: &str, role| Wish::AddUser { user: name(of), role, cohorts: [cohort("a")].into() };
        let token = |of: &str, byte, expires_ms| Wish::IssueToken {
            token: FileId::from_bytes([byte; 16]),
            user: name(of),
            sha256: Token::from_bytes([byte; 32]).digest(),
            expires_ms,
            label: None,
        };
        let edge = |name: &str, of: &str| Wish::AddEdge {
            edge: EdgeName::parse(name).unwrap(),
            cohorts: [cohort(of)].into(),
        };
        for wish in [
            Wish::AddCohort { cohort: cohort("a"), rules: Default::default() },
            Wish::AddCohort { cohort: cohort("b"), rules: Default::default() },
            user("ada", Role::User),
            user("vic", Role::Viewer),
            token("ada", 1, None),
            token("vic", 2, Some(1000)),
            edge("web1", "a"),
            edge("web2", "b"),
        ] {
            for change in wish.decide(&book, 0).unwrap() {
                book.take(&change).unwrap();
            }
        }
        let rules = HostRules {
            allowed_hosts: vec!["10.100.0.11:8001".into()],
            internal_keys: vec![
                SecretString::new("0123456789abcdef0123456789abcdef".into()),
                SecretString::new("fedcba9876543210fedcba9876543210".into()),
            ],
            body_idle: Duration::from_secs(1),
            max_file_bytes: 100,
            access: Rule { max_hourly_access: 1000, enforce: false },
            providers: Providers::default(),
        };
        Policy::new(Arc::new(rules), Arc::new(book))
    }
}
