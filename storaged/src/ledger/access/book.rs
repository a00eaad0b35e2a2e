//! The book of access: people, cohorts, edges and tokens, as the changes so far have left them.
//!
//! **Invariant:** [`Book::take`] is the only way to alter a book, and every [`Change`] stands in a record; so the records
//! up to any moment give the book of that moment. A book is whole: no name in it dangles, and once there was an admin
//! who is not disabled there always is one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use store_proto::{
    AttributeRules, Cohort, EdgeName, Extension, FileId, FileType, Role, TokenDigest, UserName,
};

use crate::ledger::record::Action;

/// What holds for the whole store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The group whose members may use a cohort; `{cohort}` stands for its name (requirement A-130).
    pub group_pattern: String,
    /// Whether a cohort that is not open to somebody looks like one that is not there (requirement A-131).
    pub mask_cohorts: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { group_pattern: "{cohort}_users".to_owned(), mask_cohorts: false }
    }
}

impl Settings {
    /// The group whose members may use this cohort.
    pub fn group_of(&self, cohort: &Cohort) -> String {
        self.group_pattern.replace("{cohort}", cohort.as_str())
    }
}

/// Somebody who may show a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The cohorts that were opened to this user by name.
    pub cohorts: BTreeSet<Cohort>,
    /// Whether the user is shut out.
    pub disabled: bool,
    /// The groups this user is in.
    pub groups: BTreeSet<String>,
    /// What they are.
    pub role: Role,
}

/// What holds for the files of a cohort. Empty and absent mean: no rule beyond the store's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortRules {
    /// The ends of names that may be stored; any, if there are none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub extensions: BTreeSet<Extension>,
    /// The attributes that its files may have; any, if none is named.
    #[serde(default, skip_serializing_if = "AttributeRules::is_empty")]
    pub attributes: AttributeRules,
    /// Whether a file's first bytes must be what its name's end says.
    #[serde(default, skip_serializing_if = "ContentRule::is_any")]
    pub content: ContentRule,
    /// The types that may be stored; any, if there are none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub file_types: BTreeSet<FileType>,
    /// The largest file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file_bytes: Option<u64>,
    /// The sum of all files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// How many files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_files: Option<u64>,
    /// A file may not be deleted before it is so old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// Whether a file waits for the scanner's word.
    #[serde(default)]
    pub scan: Scan,
}

/// Whether a file's first bytes must be what its name's end says (requirement A-143).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentRule {
    /// They may be anything.
    #[default]
    Any,
    /// They are compared, as far as something is known of the end.
    Checked,
}

impl ContentRule {
    fn is_any(&self) -> bool {
        *self == ContentRule::Any
    }
}

/// Whether a file waits for the scanner's word (requirement A-145).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scan {
    /// It does not.
    #[default]
    None,
    /// Until then it is held.
    Required,
}

impl Scan {
    /// Takes the word of the command line.
    pub fn parse(text: &str) -> Option<Scan> {
        [Scan::None, Scan::Required].into_iter().find(|scan| scan.name() == text)
    }

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Scan::None => "none",
            Scan::Required => "required",
        }
    }
}

/// A token that is alive; the token itself is kept nowhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRow {
    /// When it was issued, milliseconds since 1970.
    pub created_ms: u64,
    /// When it runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// What its owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// SHA-256 of the token.
    pub sha256: TokenDigest,
    /// Whose it is.
    pub user: UserName,
}

impl Eq for TokenRow {}

impl PartialEq for TokenRow {
    fn eq(&self, other: &Self) -> bool {
        let TokenRow { created_ms, expires_ms, label, sha256, user } = self;
        *created_ms == other.created_ms
            && *expires_ms == other.expires_ms
            && *label == other.label
            && sha256.matches(&other.sha256)
            && *user == other.user
    }
}

/// One change of access, as its record tells it. The record and this alone rebuild the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Somebody new.
    UserAdded {
        /// Their name.
        user: UserName,
        /// What they are.
        role: Role,
    },
    /// Another role.
    UserRoleSet {
        /// Whose.
        user: UserName,
        /// Which.
        role: Role,
    },
    /// Shut out, with all tokens and links.
    UserDisabled {
        /// Who.
        user: UserName,
    },
    /// Let in again; needs a new token.
    UserEnabled {
        /// Who.
        user: UserName,
    },
    /// In a group.
    GroupJoined {
        /// Who.
        user: UserName,
        /// Which.
        group: String,
    },
    /// No longer in a group.
    GroupLeft {
        /// Who.
        user: UserName,
        /// Which.
        group: String,
    },
    /// A token lives.
    TokenIssued {
        /// Its id.
        token: FileId,
        /// The row.
        row: TokenRow,
    },
    /// A token is dead.
    TokenRevoked {
        /// Its id.
        token: FileId,
        /// Whose it was.
        user: UserName,
    },
    /// A cohort is there.
    CohortAdded {
        /// Its name.
        cohort: Cohort,
        /// Its rules.
        rules: CohortRules,
    },
    /// A cohort has other rules.
    CohortSet {
        /// Which.
        cohort: Cohort,
        /// All of its rules.
        rules: CohortRules,
    },
    /// A cohort is open to somebody.
    Granted {
        /// Which.
        cohort: Cohort,
        /// Who.
        user: UserName,
    },
    /// A cohort is no longer open to somebody.
    Revoked {
        /// Which.
        cohort: Cohort,
        /// Who.
        user: UserName,
    },
    /// An edge may deliver.
    EdgeAdded {
        /// The name of its WireGuard peer.
        edge: EdgeName,
        /// For these cohorts.
        cohorts: BTreeSet<Cohort>,
    },
    /// An edge may deliver for other cohorts.
    EdgeSet {
        /// Which.
        edge: EdgeName,
        /// For these.
        cohorts: BTreeSet<Cohort>,
    },
    /// An edge may not deliver any more.
    EdgeRemoved {
        /// Which.
        edge: EdgeName,
    },
    /// The store's own settings.
    SettingsSet {
        /// All of them.
        settings: Settings,
    },
}

impl Change {
    /// The action of its record.
    pub fn action(&self) -> Action {
        match self {
            Change::UserAdded { .. } => Action::AccessUserAdded,
            Change::UserRoleSet { .. } => Action::AccessUserRoleSet,
            Change::UserDisabled { .. } => Action::AccessUserDisabled,
            Change::UserEnabled { .. } => Action::AccessUserEnabled,
            Change::GroupJoined { .. } => Action::AccessGroupJoined,
            Change::GroupLeft { .. } => Action::AccessGroupLeft,
            Change::TokenIssued { .. } => Action::AccessTokenIssued,
            Change::TokenRevoked { .. } => Action::AccessTokenRevoked,
            Change::CohortAdded { .. } => Action::AccessCohortAdded,
            Change::CohortSet { .. } => Action::AccessCohortSet,
            Change::Granted { .. } => Action::AccessGranted,
            Change::Revoked { .. } => Action::AccessRevoked,
            Change::EdgeAdded { .. } => Action::AccessEdgeAdded,
            Change::EdgeSet { .. } => Action::AccessEdgeSet,
            Change::EdgeRemoved { .. } => Action::AccessEdgeRemoved,
            Change::SettingsSet { .. } => Action::AccessSettingsSet,
        }
    }

    /// The user that it is about, if it is about one.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Change::UserAdded { user, .. }
            | Change::UserRoleSet { user, .. }
            | Change::UserDisabled { user }
            | Change::UserEnabled { user }
            | Change::GroupJoined { user, .. }
            | Change::GroupLeft { user, .. }
            | Change::TokenRevoked { user, .. }
            | Change::Granted { user, .. }
            | Change::Revoked { user, .. } => Some(user),
            Change::TokenIssued { row, .. } => Some(&row.user),
            Change::CohortAdded { .. }
            | Change::CohortSet { .. }
            | Change::EdgeAdded { .. }
            | Change::EdgeSet { .. }
            | Change::EdgeRemoved { .. }
            | Change::SettingsSet { .. } => None,
        }
    }

    /// The cohort that it is about, if it is about one.
    pub fn cohort(&self) -> Option<&Cohort> {
        match self {
            Change::CohortAdded { cohort, .. }
            | Change::CohortSet { cohort, .. }
            | Change::Granted { cohort, .. }
            | Change::Revoked { cohort, .. } => Some(cohort),
            Change::UserAdded { .. }
            | Change::UserRoleSet { .. }
            | Change::UserDisabled { .. }
            | Change::UserEnabled { .. }
            | Change::GroupJoined { .. }
            | Change::GroupLeft { .. }
            | Change::TokenIssued { .. }
            | Change::TokenRevoked { .. }
            | Change::EdgeAdded { .. }
            | Change::EdgeSet { .. }
            | Change::EdgeRemoved { .. }
            | Change::SettingsSet { .. } => None,
        }
    }
}

/// What [`Book::take`] refuses: no sequence of recorded changes leads there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a recorded change of access does not fit what was before it: {0}")]
pub struct Misfit(pub &'static str);

/// Everything that decides about access.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Book {
    /// The store's own settings.
    pub settings: Settings,
    /// Everybody.
    pub users: BTreeMap<UserName, User>,
    /// The cohorts.
    pub cohorts: BTreeMap<Cohort, CohortRules>,
    /// The edges, each with the cohorts it may ask for.
    pub edges: BTreeMap<EdgeName, BTreeSet<Cohort>>,
    /// The tokens that live.
    pub tokens: BTreeMap<FileId, TokenRow>,
}

impl Book {
    /// The cohorts that are open to a user: by name, or through a group.
    pub fn cohorts_of(&self, user: &User) -> BTreeSet<Cohort> {
        self.cohorts.keys().filter(|cohort| self.is_open(user, cohort)).cloned().collect()
    }

    /// Whether a cohort is open to a user.
    pub fn is_open(&self, user: &User, cohort: &Cohort) -> bool {
        user.cohorts.contains(cohort) || user.groups.contains(&self.settings.group_of(cohort))
    }

    /// The admins who are not disabled.
    pub fn live_admins(&self) -> usize {
        self.users.values().filter(|user| user.role == Role::Admin && !user.disabled).count()
    }

    /// Takes one change in.
    pub fn take(&mut self, change: &Change) -> Result<(), Misfit> {
        match change {
            Change::UserAdded { user, role } => {
                let new =
                    User { cohorts: BTreeSet::new(), disabled: false, groups: BTreeSet::new(), role: *role };
                vacant(self.users.insert(user.clone(), new).is_none(), "a user is added twice")
            }
            Change::UserRoleSet { user, role } => {
                self.user(user)?.role = *role;
                Ok(())
            }
            Change::UserDisabled { user } => {
                self.user(user)?.disabled = true;
                Ok(())
            }
            Change::UserEnabled { user } => {
                self.user(user)?.disabled = false;
                Ok(())
            }
            Change::GroupJoined { user, group } => {
                self.user(user)?.groups.insert(group.clone());
                Ok(())
            }
            Change::GroupLeft { user, group } => {
                self.user(user)?.groups.remove(group);
                Ok(())
            }
            Change::TokenIssued { token, row } => {
                self.user(&row.user)?;
                vacant(self.tokens.insert(*token, row.clone()).is_none(), "a token is issued twice")
            }
            Change::TokenRevoked { token, .. } => {
                vacant(self.tokens.remove(token).is_some(), "a token is revoked that is not there")
            }
            Change::CohortAdded { cohort, rules } => vacant(
                self.cohorts.insert(cohort.clone(), rules.clone()).is_none(),
                "a cohort is added twice",
            ),
            Change::CohortSet { cohort, rules } => {
                let known = self.cohorts.get_mut(cohort).ok_or(Misfit("a cohort is not there"))?;
                *known = rules.clone();
                Ok(())
            }
            Change::Granted { cohort, user } => {
                self.known(cohort)?;
                self.user(user)?.cohorts.insert(cohort.clone());
                Ok(())
            }
            Change::Revoked { cohort, user } => {
                self.user(user)?.cohorts.remove(cohort);
                Ok(())
            }
            Change::EdgeAdded { edge, cohorts } => {
                cohorts.iter().try_for_each(|cohort| self.known(cohort))?;
                vacant(self.edges.insert(edge.clone(), cohorts.clone()).is_none(), "an edge is added twice")
            }
            Change::EdgeSet { edge, cohorts } => {
                cohorts.iter().try_for_each(|cohort| self.known(cohort))?;
                *self.edges.get_mut(edge).ok_or(Misfit("an edge is not there"))? = cohorts.clone();
                Ok(())
            }
            Change::EdgeRemoved { edge } => {
                vacant(self.edges.remove(edge).is_some(), "an edge is removed that is not there")
            }
            Change::SettingsSet { settings } => {
                self.settings = settings.clone();
                Ok(())
            }
        }
    }

    fn user(&mut self, name: &UserName) -> Result<&mut User, Misfit> {
        self.users.get_mut(name).ok_or(Misfit("a user is not there"))
    }

    fn known(&self, cohort: &Cohort) -> Result<(), Misfit> {
        vacant(self.cohorts.contains_key(cohort), "a cohort is not there")
    }
}

fn vacant(fits: bool, why: &'static str) -> Result<(), Misfit> {
    if fits { Ok(()) } else { Err(Misfit(why)) }
}
