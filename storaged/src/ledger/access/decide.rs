//! What is asked of the book of access, and whether it may be.
//!
//! **Invariant:** [`Command::decide`] alters nothing; the changes it gives fit the book they were decided on, in their
//! order, and leave it whole.

use std::collections::BTreeSet;

use store_proto::{Cohort, EdgeName, FileId, Role, TokenDigest, UserName};

use crate::ledger::access::book::{Book, Change, CohortRules, Settings, TokenRow};
use crate::limits;

/// What is asked. Whoever asks has the right to: the admin socket has seen to that.
#[derive(Debug, Clone)]
pub enum Command {
    /// Make a user.
    AddUser {
        /// The name in records.
        user: UserName,
        /// What they are.
        role: Role,
        /// What is open to them.
        cohorts: BTreeSet<Cohort>,
    },
    /// Give another role.
    SetRole {
        /// Whose.
        user: UserName,
        /// Which.
        role: Role,
    },
    /// Shut out, with all tokens.
    DisableUser {
        /// Who.
        user: UserName,
    },
    /// Shut out somebody whom an identity provider vouches for, known here or not.
    ShutOut {
        /// Who.
        user: UserName,
    },
    /// Let in again.
    EnableUser {
        /// Who.
        user: UserName,
    },
    /// Put into a group.
    JoinGroup {
        /// Who.
        user: UserName,
        /// Which.
        group: String,
    },
    /// Take out of a group.
    LeaveGroup {
        /// Who.
        user: UserName,
        /// Which.
        group: String,
    },
    /// Make a token valid.
    IssueToken {
        /// Its id, drawn at random.
        token: FileId,
        /// Whose.
        user: UserName,
        /// SHA-256 of it.
        sha256: TokenDigest,
        /// When it runs out.
        expires_ms: Option<u64>,
        /// What its owner calls it.
        label: Option<String>,
    },
    /// End a token.
    RevokeToken {
        /// Which.
        token: FileId,
    },
    /// Make a cohort.
    AddCohort {
        /// Its name.
        cohort: Cohort,
        /// Its rules.
        rules: CohortRules,
    },
    /// Give a cohort other rules.
    SetCohort {
        /// Which.
        cohort: Cohort,
        /// All of its rules.
        rules: CohortRules,
    },
    /// Open a cohort to somebody.
    Grant {
        /// Which.
        cohort: Cohort,
        /// Who.
        user: UserName,
    },
    /// Close a cohort to somebody.
    Revoke {
        /// Which.
        cohort: Cohort,
        /// Who.
        user: UserName,
    },
    /// Register an edge.
    AddEdge {
        /// The name of its WireGuard peer.
        edge: EdgeName,
        /// For these cohorts.
        cohorts: BTreeSet<Cohort>,
    },
    /// Let an edge deliver for other cohorts.
    SetEdge {
        /// Which.
        edge: EdgeName,
        /// For these.
        cohorts: BTreeSet<Cohort>,
    },
    /// Strike an edge out.
    RemoveEdge {
        /// Which.
        edge: EdgeName,
    },
    /// Change the store's own settings.
    Set {
        /// All of them.
        settings: Settings,
    },
}

/// Why it may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A daemon's name.
    #[error("{0}: names that begin with `internal:` are those of edges that ask for themselves")]
    InternalName(UserName),
    /// No such user.
    #[error("there is no user {0}")]
    UnknownUser(UserName),
    /// No such cohort.
    #[error("there is no cohort {0}")]
    UnknownCohort(Cohort),
    /// No such edge.
    #[error("there is no edge {0}")]
    UnknownEdge(EdgeName),
    /// No such token, or it is dead already.
    #[error("there is no token {0}")]
    UnknownToken(FileId),
    /// The name is taken.
    #[error("there is a user {0} already")]
    UserExists(UserName),
    /// The name is taken.
    #[error("there is a cohort {0} already")]
    CohortExists(Cohort),
    /// The name is taken.
    #[error("there is an edge {0} already")]
    EdgeExists(EdgeName),
    /// The id or the digest is taken.
    #[error("this token was issued before")]
    TokenExists,
    /// It is so already.
    #[error("it is so already")]
    Unchanged,
    /// Nobody could put it right again.
    #[error("{0} is the last admin: make another one first")]
    LastAdmin(UserName),
    /// A token would be dead from the start.
    #[error("{0} is disabled: enable them first")]
    Disabled(UserName),
    /// The user is in the cohort's group, which this does not undo.
    #[error("{user} is in the group {group}, which opens the cohort: take them out of it")]
    ThroughGroup {
        /// Who.
        user: UserName,
        /// Which.
        group: String,
    },
    /// A text that is no group, label or pattern.
    #[error("{0}")]
    Malformed(String),
    /// A bound.
    #[error("there are {most} {what} already, which is the most")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
}

impl Command {
    /// The changes it leads to.
    pub fn decide(&self, book: &Book, now_ms: u64) -> Result<Vec<Change>, Refusal> {
        match self {
            Command::AddUser { user, role, cohorts } => {
                below("users", book.users.len(), limits::USERS)?;
                if user.is_internal() {
                    return Err(Refusal::InternalName(user.clone()));
                }
                if book.users.contains_key(user) {
                    return Err(Refusal::UserExists(user.clone()));
                }
                known_cohorts(book, cohorts)?;
                let mut changes = vec![Change::UserAdded { user: user.clone(), role: *role }];
                let granted = cohorts.iter().cloned();
                changes.extend(granted.map(|cohort| Change::Granted { cohort, user: user.clone() }));
                Ok(changes)
            }
            Command::SetRole { user, role } => {
                let known = known_user(book, user)?;
                changed(known.role != *role)?;
                if known.role == Role::Admin {
                    not_the_last_admin(book, user)?;
                }
                Ok(vec![Change::UserRoleSet { user: user.clone(), role: *role }])
            }
            Command::DisableUser { user } => {
                let known = known_user(book, user)?;
                changed(!known.disabled)?;
                if known.role == Role::Admin {
                    not_the_last_admin(book, user)?;
                }
                let mut changes = vec![Change::UserDisabled { user: user.clone() }];
                let tokens = book.tokens.iter().filter(|(_, row)| row.user == *user);
                changes.extend(
                    tokens.map(|(token, _)| Change::TokenRevoked { token: *token, user: user.clone() }),
                );
                Ok(changes)
            }
            Command::ShutOut { user } if book.users.contains_key(user) => {
                Command::DisableUser { user: user.clone() }.decide(book, now_ms)
            }
            Command::ShutOut { user } => {
                below("users", book.users.len(), limits::USERS)?;
                // Without a cohort and without a token: a name to be refused by.
                let added = Change::UserAdded { user: user.clone(), role: Role::Viewer };
                Ok(vec![added, Change::UserDisabled { user: user.clone() }])
            }
            Command::EnableUser { user } => {
                changed(known_user(book, user)?.disabled)?;
                Ok(vec![Change::UserEnabled { user: user.clone() }])
            }
            Command::JoinGroup { user, group } => {
                let known = known_user(book, user)?;
                check_group(group)?;
                below("groups of this user", known.groups.len(), limits::GROUPS_PER_USER)?;
                changed(!known.groups.contains(group))?;
                Ok(vec![Change::GroupJoined { user: user.clone(), group: group.clone() }])
            }
            Command::LeaveGroup { user, group } => {
                changed(known_user(book, user)?.groups.contains(group))?;
                Ok(vec![Change::GroupLeft { user: user.clone(), group: group.clone() }])
            }
            Command::IssueToken { token, user, sha256, expires_ms, label } => {
                let known = known_user(book, user)?;
                if known.disabled {
                    return Err(Refusal::Disabled(user.clone()));
                }
                let of_user = book.tokens.values().filter(|row| row.user == *user).count();
                below("tokens of this user", of_user, limits::TOKENS_PER_USER)?;
                if book.tokens.contains_key(token)
                    || book.tokens.values().any(|row| row.sha256.matches(sha256))
                {
                    return Err(Refusal::TokenExists);
                }
                if expires_ms.is_some_and(|expires| expires <= now_ms) {
                    return Err(Refusal::Malformed("the token would have expired already".to_owned()));
                }
                label.as_deref().map_or(Ok(()), check_label)?;
                let row = TokenRow {
                    created_ms: now_ms,
                    expires_ms: *expires_ms,
                    label: label.clone(),
                    sha256: *sha256,
                    user: user.clone(),
                };
                Ok(vec![Change::TokenIssued { token: *token, row }])
            }
            Command::RevokeToken { token } => {
                let row = book.tokens.get(token).ok_or(Refusal::UnknownToken(*token))?;
                Ok(vec![Change::TokenRevoked { token: *token, user: row.user.clone() }])
            }
            Command::AddCohort { cohort, rules } => {
                below("cohorts", book.cohorts.len(), limits::COHORTS)?;
                if book.cohorts.contains_key(cohort) {
                    return Err(Refusal::CohortExists(cohort.clone()));
                }
                Ok(vec![Change::CohortAdded { cohort: cohort.clone(), rules: rules.clone() }])
            }
            Command::SetCohort { cohort, rules } => {
                let known = book.cohorts.get(cohort).ok_or(Refusal::UnknownCohort(cohort.clone()))?;
                changed(known != rules)?;
                Ok(vec![Change::CohortSet { cohort: cohort.clone(), rules: rules.clone() }])
            }
            Command::Grant { cohort, user } => {
                known_cohorts(book, std::iter::once(cohort))?;
                changed(!known_user(book, user)?.cohorts.contains(cohort))?;
                Ok(vec![Change::Granted { cohort: cohort.clone(), user: user.clone() }])
            }
            Command::Revoke { cohort, user } => {
                known_cohorts(book, std::iter::once(cohort))?;
                let known = known_user(book, user)?;
                let group = book.settings.group_of(cohort);
                if known.groups.contains(&group) {
                    return Err(Refusal::ThroughGroup { user: user.clone(), group });
                }
                changed(known.cohorts.contains(cohort))?;
                Ok(vec![Change::Revoked { cohort: cohort.clone(), user: user.clone() }])
            }
            Command::AddEdge { edge, cohorts } => {
                below("edges", book.edges.len(), limits::EDGES)?;
                if book.edges.contains_key(edge) {
                    return Err(Refusal::EdgeExists(edge.clone()));
                }
                known_cohorts(book, cohorts)?;
                Ok(vec![Change::EdgeAdded { edge: edge.clone(), cohorts: cohorts.clone() }])
            }
            Command::SetEdge { edge, cohorts } => {
                let known = book.edges.get(edge).ok_or(Refusal::UnknownEdge(edge.clone()))?;
                known_cohorts(book, cohorts)?;
                changed(known != cohorts)?;
                Ok(vec![Change::EdgeSet { edge: edge.clone(), cohorts: cohorts.clone() }])
            }
            Command::RemoveEdge { edge } => {
                if !book.edges.contains_key(edge) {
                    return Err(Refusal::UnknownEdge(edge.clone()));
                }
                Ok(vec![Change::EdgeRemoved { edge: edge.clone() }])
            }
            Command::Set { settings } => {
                changed(book.settings != *settings)?;
                check_pattern(&settings.group_pattern)?;
                Ok(vec![Change::SettingsSet { settings: settings.clone() }])
            }
        }
    }
}

fn known_user<'a>(book: &'a Book, user: &UserName) -> Result<&'a crate::ledger::access::book::User, Refusal> {
    book.users.get(user).ok_or_else(|| Refusal::UnknownUser(user.clone()))
}

fn known_cohorts<'a>(book: &Book, cohorts: impl IntoIterator<Item = &'a Cohort>) -> Result<(), Refusal> {
    match cohorts.into_iter().find(|cohort| !book.cohorts.contains_key(*cohort)) {
        Some(unknown) => Err(Refusal::UnknownCohort(unknown.clone())),
        None => Ok(()),
    }
}

fn changed(differs: bool) -> Result<(), Refusal> {
    if differs { Ok(()) } else { Err(Refusal::Unchanged) }
}

fn not_the_last_admin(book: &Book, user: &UserName) -> Result<(), Refusal> {
    let disabled = book.users.get(user).is_some_and(|known| known.disabled);
    if disabled || book.live_admins() > 1 { Ok(()) } else { Err(Refusal::LastAdmin(user.clone())) }
}

fn below(what: &'static str, count: usize, most: usize) -> Result<(), Refusal> {
    if count < most { Ok(()) } else { Err(Refusal::TooMany { what, most }) }
}

fn check_group(group: &str) -> Result<(), Refusal> {
    let fits = (1..=limits::GROUP_BYTES).contains(&group.len())
        && group.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-:@/".contains(&c));
    let rule = "a group must be 1 to 128 characters of A-Z, a-z, 0-9, `_`, `.`, `-`, `:`, `@` and `/`";
    if fits { Ok(()) } else { Err(Refusal::Malformed(rule.to_owned())) }
}

fn check_label(label: &str) -> Result<(), Refusal> {
    let fits = label.len() <= limits::LABEL_BYTES && !label.chars().any(char::is_control);
    let rule = "a label must be at most 128 bytes without control characters";
    if fits { Ok(()) } else { Err(Refusal::Malformed(rule.to_owned())) }
}

/// One pattern for all cohorts must not give one group for two of them.
fn check_pattern(pattern: &str) -> Result<(), Refusal> {
    if pattern.matches("{cohort}").count() != 1 {
        return Err(Refusal::Malformed(format!("group_pattern: {pattern:?} must hold {{cohort}} once")));
    }
    check_group(&pattern.replace("{cohort}", "c"))
}
