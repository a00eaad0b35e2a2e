//! The user a daemon becomes.

use nix::unistd::{Gid, Group, Uid};

/// A user and its primary group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Why a user could not be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such name.
    #[error("user {0:?} does not exist on this host (create it, or write uid:gid)")]
    Unknown(String),
    /// Neither a name nor `uid:gid`.
    #[error("{0:?} is neither a user name nor uid:gid")]
    Malformed(String),
    /// The user database could not be read.
    #[error("look up user {0:?}: {1}")]
    LookUp(String, nix::Error),
}

impl User {
    /// Finds `text`: a user name, or `uid:gid` in numbers (which need no entry in the user database).
    pub fn resolve(text: &str) -> Result<Self, UserError> {
        if let Some((uid, gid)) = text.split_once(':') {
            let number = |part: &str| part.parse::<u32>().map_err(|_| UserError::Malformed(text.to_owned()));
            return Ok(Self { uid: number(uid)?, gid: number(gid)? });
        }
        match nix::unistd::User::from_name(text) {
            Ok(Some(user)) => Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            Ok(None) => Err(UserError::Unknown(text.to_owned())),
            Err(error) => Err(UserError::LookUp(text.to_owned(), error)),
        }
    }

    /// The user this process runs as.
    pub fn current() -> Self {
        Self { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() }
    }

    /// Whether the running user namespace maps this user: inside `unshare -Ur` only 0 is mapped.
    pub fn is_mapped(&self) -> bool {
        let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return true };
        map.lines().any(|line| {
            let mut fields = line.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
                (fields.next(), fields.next(), fields.next())
            else {
                return false;
            };
            (first..first + count).contains(&u64::from(self.uid))
        })
    }

    /// The name of this user's group, for messages.
    pub fn group_name(&self) -> Option<String> {
        Group::from_gid(Gid::from_raw(self.gid)).ok().flatten().map(|group| group.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_entry_in_the_user_database() {
        assert_eq!(User::resolve("64011:64012").unwrap(), User { uid: 64011, gid: 64012 });
    }

    #[test]
    fn a_missing_user_is_named() {
        let error = User::resolve("no-such-user-here").unwrap_err().to_string();
        assert!(error.contains("no-such-user-here"), "{error}");
        assert!(User::resolve("12:x").is_err());
    }

    #[test]
    fn root_is_always_mapped() {
        assert!(User { uid: 0, gid: 0 }.is_mapped() || !nix::unistd::geteuid().is_root());
    }
}
