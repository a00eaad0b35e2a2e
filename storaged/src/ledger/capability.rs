//! Area *capability*: links that open one file for whoever holds them.
//!
//! **Invariant:** a use is counted, and durable, before its first byte; a link is never used more often than it says. A
//! later stretch of the same use, from the same client within the grace time, is that use still. A link ends with its
//! expiry, its revocation, or the rights of whoever made it, which are looked at anew with each request.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use store_proto::{Cohort, FileId, UserName};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::subject::Subject;
use crate::ledger::tables::CorruptError;
use crate::limits::{CAPABILITIES_PER_USER, CAPABILITY_GRACE_MS, CAPABILITY_KEPT_MS, CAPABILITY_RESUMES};

/// Links by their id.
const LINKS: StateTable<Link> = StateTable::new("capability.links");
/// The user, blinded ‖ id: whose links there are.
const OF_USER: StateTable<FileId> = StateTable::new("capability.of_user");

/// A link, as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The cohort of its file.
    pub cohort: Cohort,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// When it runs out.
    pub expires_ms: u64,
    /// The file it opens.
    pub file_id: FileId,
    /// Its id.
    pub id: FileId,
    /// How often it may be used.
    pub max_uses: u32,
    /// Uses that may still be resumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<Use>,
    /// Whether it was ended before its time.
    pub revoked: bool,
    /// How often it was used.
    pub used: u32,
    /// Who made it: it is good for as long as they may read the file.
    pub user: UserName,
    /// The version of this row.
    pub v: u32,
    /// Whether an identity provider vouched for who made it, and not the book of access.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vouched: bool,
}

/// A use that may still be resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// Who used it.
    pub client: Option<IpAddr>,
    /// When it was last asked for.
    pub last_ms: u64,
    /// How often it was resumed.
    pub resumed: u32,
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Command {
    /// Make a link.
    Create {
        /// Who asks; the user in it makes the link.
        origin: Origin,
        /// The link, without uses.
        link: Box<Link>,
    },
    /// End a link.
    Revoke {
        /// Who asks.
        origin: Origin,
        /// Which.
        id: FileId,
        /// Only if it is this user's.
        of: Option<UserName>,
    },
    /// End all links of a user.
    RevokeAllOf {
        /// Who asks.
        origin: Origin,
        /// Whose.
        user: UserName,
    },
    /// Count a use, before its first byte.
    Use {
        /// Who asks.
        origin: Origin,
        /// Which.
        id: FileId,
        /// Whether a later stretch is asked for, and not the beginning.
        later_stretch: bool,
    },
    /// Not a byte went out: the use that was counted last does not count.
    Return {
        /// Which.
        id: FileId,
        /// Who had asked.
        client: Option<IpAddr>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Created,
    /// So many were ended.
    Revoked(u32),
    /// A new use was counted.
    Counted,
    /// It belongs to a use that was counted.
    Resumed,
    /// The count was taken back.
    Returned,
    /// It may not be.
    Refused(Refusal),
}

/// Why it may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such link, or somebody else's.
    #[error("there is no such link")]
    Unknown,
    /// Run out or revoked.
    #[error("the link has ended")]
    Ended,
    /// As often as it may.
    #[error("the link has been used up")]
    UsedUp,
    /// A bound.
    #[error("this user has as many links as may be")]
    TooMany,
}

impl Link {
    /// Whether it has run out or was revoked.
    pub fn has_ended(&self, now_ms: u64) -> bool {
        self.revoked || self.expires_ms <= now_ms
    }

    /// Counts a use, or finds the one that it belongs to.
    fn take(&mut self, client: Option<IpAddr>, later_stretch: bool, now_ms: u64) -> Result<Outcome, Refusal> {
        if self.has_ended(now_ms) {
            return Err(Refusal::Ended);
        }
        self.recent.retain(|known| now_ms.saturating_sub(known.last_ms) < CAPABILITY_GRACE_MS);
        if later_stretch {
            let same = |known: &&mut Use| known.client == client && known.resumed < CAPABILITY_RESUMES;
            if let Some(known) = self.recent.iter_mut().rev().find(same) {
                known.resumed += 1;
                known.last_ms = now_ms;
                return Ok(Outcome::Resumed);
            }
        }
        if self.used >= self.max_uses {
            return Err(Refusal::UsedUp);
        }
        self.used += 1;
        if self.recent.len() >= RECENT {
            self.recent.remove(0);
        }
        self.recent.push(Use { client, last_ms: now_ms, resumed: 0 });
        Ok(Outcome::Counted)
    }
}

/// Ended links of a user that are kept for lists. Few in tests, which make more than that.
const ENDED_KEPT: usize = if cfg!(test) { 20 } else { CAPABILITIES_PER_USER };
/// Uses that are remembered for being resumed.
const RECENT: usize = 32;

impl Area for Command {
    fn waits_for_mirror(&self) -> bool {
        match self {
            Command::Create { .. } | Command::Revoke { .. } | Command::RevokeAllOf { .. } => true,
            // As the download that follows.
            Command::Use { .. } | Command::Return { .. } => false,
        }
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Create { origin, link } => create(app, origin, *link),
            Command::Revoke { origin, id, of } => {
                let link = app.get(&LINKS, id.as_bytes())?;
                match link.filter(|link| !link.revoked && of.as_ref().is_none_or(|of| *of == link.user)) {
                    Some(link) => revoke(app, &origin, link).map(|()| Outcome::Revoked(1)),
                    None => Ok(Outcome::Refused(Refusal::Unknown)),
                }
            }
            Command::RevokeAllOf { origin, user } => {
                let mut ended = 0;
                for id in ids_of(app, &user)? {
                    if let Some(link) =
                        app.get(&LINKS, id.as_bytes())?.filter(|link| !link.has_ended(app.now_ms()))
                    {
                        revoke(app, &origin, link)?;
                        ended += 1;
                    }
                }
                Ok(Outcome::Revoked(ended))
            }
            Command::Use { origin, id, later_stretch } => {
                let Some(mut link) = app.get(&LINKS, id.as_bytes())? else {
                    return Ok(Outcome::Refused(Refusal::Unknown));
                };
                let taken = link.take(origin.client_address, later_stretch, app.now_ms());
                let taken = match taken {
                    Ok(taken) => taken,
                    Err(refusal) => return Ok(Outcome::Refused(refusal)),
                };
                app.put(&LINKS, id.as_bytes(), &link)?;
                let detail = if taken == Outcome::Resumed {
                    format!("link {id}, resumed")
                } else {
                    format!("link {id}, use {} of {}", link.used, link.max_uses)
                };
                record(app, Action::AccessCapabilityUsed, &origin, &link, detail)?;
                Ok(taken)
            }
            Command::Return { id, client } => {
                let Some(mut link) = app.get(&LINKS, id.as_bytes())? else {
                    return Ok(Outcome::Refused(Refusal::Unknown));
                };
                link.used = link.used.saturating_sub(1);
                if let Some(at) = link.recent.iter().rposition(|known| known.client == client) {
                    link.recent.remove(at);
                }
                app.put(&LINKS, id.as_bytes(), &link)?;
                Ok(Outcome::Returned)
            }
        }
    }
}

fn create(app: &mut Application<'_, '_>, origin: Origin, link: Link) -> Result<Outcome, CorruptError> {
    let (mut alive, mut ended) = (0, Vec::new());
    for id in ids_of(app, &link.user)? {
        match app.get(&LINKS, id.as_bytes())? {
            Some(old) if old.has_ended(app.now_ms()) => ended.push((old.expires_ms, old.id)),
            Some(_) => alive += 1,
            None => {}
        }
    }
    if alive >= CAPABILITIES_PER_USER {
        return Ok(Outcome::Refused(Refusal::TooMany));
    }
    // Their records stay; the rows have nothing more to say, and whoever ends links as fast as they make them may not
    // make this walk longer and longer.
    ended.sort_unstable();
    let too_many = ended.len().saturating_sub(ENDED_KEPT);
    for (number, (expires_ms, id)) in ended.into_iter().enumerate() {
        if number < too_many || expires_ms.saturating_add(CAPABILITY_KEPT_MS) <= app.now_ms() {
            app.delete(&LINKS, id.as_bytes())?;
            let key = of_user_key(app, &link.user, id);
            app.delete(&OF_USER, &key)?;
        }
    }
    let key = of_user_key(app, &link.user, link.id);
    app.put(&OF_USER, &key, &link.id)?;
    app.put(&LINKS, link.id.as_bytes(), &link)?;
    let detail = format!("link {}, {} uses", link.id, link.max_uses);
    record(app, Action::AccessCapabilityIssued, &origin, &link, detail)?;
    Ok(Outcome::Created)
}

fn revoke(app: &mut Application<'_, '_>, origin: &Origin, mut link: Link) -> Result<(), CorruptError> {
    link.revoked = true;
    app.put(&LINKS, link.id.as_bytes(), &link)?;
    let detail = format!("link {}, used {} of {}", link.id, link.used, link.max_uses);
    record(app, Action::AccessCapabilityRevoked, origin, &link, detail)
}

fn record(
    app: &mut Application<'_, '_>,
    action: Action,
    origin: &Origin,
    link: &Link,
    detail: String,
) -> Result<(), CorruptError> {
    let mut record = app.record(action, Phase::Outcome, origin.clone());
    record.ending = Some(Ending::Succeeded);
    record.cohort = Some(link.cohort.clone());
    record.file_id = Some(link.file_id);
    record.detail = Some(detail);
    record.subject_ref = Some(Subject::Link(link.id).into());
    app.append(record).map(drop)
}

fn of_user_prefix(view: &impl View, user: &UserName) -> [u8; 32] {
    view.blind("capability user", &[user.as_str().as_bytes()])
}

fn of_user_key(view: &impl View, user: &UserName, id: FileId) -> Vec<u8> {
    [of_user_prefix(view, user).as_slice(), id.as_bytes()].concat()
}

fn ids_of(view: &impl View, user: &UserName) -> Result<Vec<FileId>, CorruptError> {
    let rows = view.scan(&OF_USER, &of_user_prefix(view, user), None, usize::MAX)?;
    Ok(rows.into_iter().map(|(_, id)| id).collect())
}

/// The link with this id.
pub fn find(view: &impl View, id: FileId) -> Result<Option<Link>, CorruptError> {
    view.get(&LINKS, id.as_bytes())
}

/// The links of a user, or everybody's, ended ones included.
pub fn list(view: &impl View, user: Option<&UserName>) -> Result<Vec<Link>, CorruptError> {
    let Some(user) = user else {
        let rows = view.scan(&LINKS, b"", None, usize::MAX)?;
        return Ok(rows.into_iter().map(|(_, link)| link).collect());
    };
    let mut links = Vec::new();
    for id in ids_of(view, user)? {
        links.extend(find(view, id)?);
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_counted_once_and_may_be_resumed_for_a_while() {
        let (here, there) = (Some(IpAddr::from([192, 0, 2, 1])), Some(IpAddr::from([192, 0, 2, 2])));
        let mut link = link(1);
        assert_eq!(link.take(here, false, 10), Ok(Outcome::Counted));
        assert_eq!(link.take(here, false, 11), Err(Refusal::UsedUp), "the beginning again is another use");
        assert_eq!(link.take(there, true, 12), Err(Refusal::UsedUp), "somebody else resumes nothing");
        assert_eq!(link.take(here, true, 13), Ok(Outcome::Resumed));
        assert_eq!(link.take(here, true, 13 + CAPABILITY_GRACE_MS), Err(Refusal::UsedUp), "too late");
        assert_eq!((link.used, link.recent.len()), (1, 0));
    }

    #[test]
    fn resuming_ends_too() {
        let mut link = link(1);
        link.take(None, false, 1).unwrap();
        for _ in 0..CAPABILITY_RESUMES {
            assert_eq!(link.take(None, true, 2), Ok(Outcome::Resumed));
        }
        assert_eq!(link.take(None, true, 2), Err(Refusal::UsedUp));
    }

    #[test]
    fn a_later_stretch_without_a_beginning_is_a_use() {
        let mut link = link(2);
        assert_eq!(link.take(None, true, 1), Ok(Outcome::Counted));
        assert_eq!(link.take(None, true, 2), Ok(Outcome::Resumed));
    }

    #[test]
    fn an_ended_link_opens_nothing() {
        let mut link = link(9);
        assert_eq!(link.take(None, false, 2 * CAPABILITY_GRACE_MS), Err(Refusal::Ended));
        link.revoked = true;
        assert_eq!(link.take(None, false, 1), Err(Refusal::Ended));
        assert_eq!(link.used, 0);
    }

    #[test]
    fn links_that_are_made_and_ended_again_do_not_pile_up() {
        let keys = crate::ledger::tests::fresh_keys();
        let ledger = crate::ledger::tests::fresh_ledger(&keys, &Default::default());
        let origin = Origin::default;
        for number in 0..3 * ENDED_KEPT as u128 {
            let id = FileId::from_bytes(number.to_be_bytes());
            let link = Box::new(Link { id, ..link(1) });
            let made = ledger.submit_blocking(Command::Create { origin: origin(), link }).unwrap();
            assert_eq!(made, Outcome::Created);
            ledger.submit_blocking(Command::Revoke { origin: origin(), id, of: None }).unwrap();
        }
        let kept = list(&ledger.reader().snapshot().unwrap(), None).unwrap().len();
        assert!((ENDED_KEPT..=ENDED_KEPT + 1).contains(&kept), "{kept}");
    }

    fn link(max_uses: u32) -> Link {
        Link {
            cohort: Cohort::parse("c1").unwrap(),
            created_ms: 0,
            expires_ms: 2 * CAPABILITY_GRACE_MS,
            file_id: FileId::from_bytes([2; 16]),
            id: FileId::from_bytes([1; 16]),
            max_uses,
            recent: Vec::new(),
            revoked: false,
            used: 0,
            user: UserName::parse("ada").unwrap(),
            v: 1,
            vouched: false,
        }
    }
}
