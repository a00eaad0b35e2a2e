//! Who may ask for what: the closed words that both sides use. storaged alone decides.

use serde::{Deserialize, Serialize};

use crate::FileId;

/// The answer of a store that is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreHealth {
    /// Always `ok`: what is not is a problem.
    pub status: String,
    /// The store's own id, as which each id that it makes begins.
    pub store: FileId,
}

/// What a user wants to do with a cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Write a file.
    Upload,
    /// Read a file, or its metadata.
    Download,
    /// See which files there are.
    List,
    /// Take a file out of the store.
    Delete,
}

impl Action {
    /// Every action.
    pub const ALL: [Action; 4] = [Action::Upload, Action::Download, Action::List, Action::Delete];

    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Action::Upload => "upload",
            Action::Download => "download",
            Action::List => "list",
            Action::Delete => "delete",
        }
    }
}

/// What a user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads and lists.
    Viewer,
    /// Reads, lists and writes.
    User,
    /// As `User`; later also cleans up, reports and changes policy.
    Admin,
    /// Reads the ledger and no file.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::User, Role::Admin, Role::Auditor];

    /// Takes the word of the configuration file.
    pub fn parse(text: &str) -> Option<Role> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }

    /// The word in the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::User => "user",
            Role::Admin => "admin",
            Role::Auditor => "auditor",
        }
    }
}

/// What a server is. There is no default (requirement C-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerRole {
    /// The public side: edge.
    Web,
    /// The storage side: storaged.
    Services,
    /// Loopback and namespaces made for tests.
    Testing,
}

impl ServerRole {
    /// Every role.
    pub const ALL: [ServerRole; 3] = [ServerRole::Web, ServerRole::Services, ServerRole::Testing];

    /// Takes the word of the configuration file or of `SERVER_ROLE`.
    pub fn parse(text: &str) -> Option<ServerRole> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }

    /// The word in the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            ServerRole::Web => "web",
            ServerRole::Services => "services",
            ServerRole::Testing => "testing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_and_the_file_use_the_same_words() {
        for role in Role::ALL {
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{}\"", role.name()));
            assert_eq!(Role::parse(role.name()), Some(role));
        }
        for role in ServerRole::ALL {
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{}\"", role.name()));
            assert_eq!(ServerRole::parse(role.name()), Some(role));
        }
        for action in Action::ALL {
            assert_eq!(serde_json::to_string(&action).unwrap(), format!("\"{}\"", action.name()));
        }
        assert_eq!(ServerRole::parse("Web"), None);
    }
}
