//! The verbs about people: users, tokens, cohorts, edges, and who may do what.
//!
//! **Invariant:** a verb that changes something is one wish to the ledger, whose record is the call's record; one that only
//! reads is recorded before it is answered. A token leaves in the answer that issued it, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store_proto::{AttributeRules, Cohort, EdgeName, Extension, FileId, FileType, Role, Token, UserName};

use crate::admin::Admin;
use crate::ledger::access::{self, Book, Change, CohortRules, ContentRule, Refusal, Scan, User, Wish};
use crate::ledger::{Action, Ending, capability, tables};
use crate::live::Ended;
use crate::serve::capabilities;

impl Admin {
    /// Carries out a verb of this file; `None` if it is none.
    pub(super) async fn access(
        &self,
        caller: Caller,
        verb: &str,
        args: &Value,
        out: &mut Replies,
    ) -> Option<Result<Value, AdminError>> {
        let result = match verb {
            "user.list" | "cohort.list" | "edge.list" | "token.list" | "access.list" => {
                self.look(caller, verb, args, out).await
            }
            "token.issue" => self.issue_token(caller, args).await,
            "user.disable" => self.user_disable(caller, args).await,
            "capability.key" => self.capability_key(caller).await,
            "capability.list" => self.capability_list(caller, args, out).await,
            "capability.revoke" => self.capability_revoke(caller, args).await,
            _ => match wish(verb, args, self.store.policy.load().book())? {
                Ok(wish) => self.change(caller, wish).await.map(|changes| {
                    let Ended { uploads, downloads, others } = self.store.end_without_right(&changes);
                    let ended =
                        json!({ "uploads": uploads, "downloads": downloads, "other_requests": others });
                    json!({ "changed": true, "ended": ended })
                }),
                Err(error) => Err(error),
            },
        };
        Some(match result {
            Err(error) if error.code == "bad-argument" => {
                let detail = format!("{verb}: bad argument");
                match self.record(Action::AdminRefused, Ending::Denied, caller, detail).await {
                    Ok(()) => Err(error),
                    Err(unrecorded) => Err(unrecorded),
                }
            }
            result => result,
        })
    }

    async fn change(&self, caller: Caller, wish: Wish) -> Result<Vec<Change>, AdminError> {
        let changed = self.store.change_access(super::origin(caller), wish).await;
        changed.map_err(|error| AdminError::new("ledger-unavailable", error))?.map_err(|refusal| {
            let code = match refusal {
                Refusal::LastAdmin(_) => "last-admin",
                Refusal::UnknownUser(_)
                | Refusal::UnknownCohort(_)
                | Refusal::UnknownEdge(_)
                | Refusal::UnknownToken(_)
                | Refusal::InternalName(_)
                | Refusal::UserExists(_)
                | Refusal::CohortExists(_)
                | Refusal::EdgeExists(_)
                | Refusal::TokenExists
                | Refusal::Unchanged
                | Refusal::Disabled(_)
                | Refusal::ThroughGroup { .. }
                | Refusal::Malformed(_)
                | Refusal::TooMany { .. } => "refused",
            };
            AdminError::new(code, refusal)
        })
    }

    /// Takes the rights away, then ends what is open: whoever was let in before is found among the live requests, and
    /// whoever comes later is refused.
    pub(super) async fn user_disable(&self, caller: Caller, args: &Value) -> Result<Value, AdminError> {
        let UserArgs { user } = understand(args)?;
        let vouched = self.store.policy.load().rules().providers.vouch_for(&user);
        let wish = match vouched {
            false => Wish::DisableUser { user: user.clone() },
            true => Wish::ShutOut { user: user.clone() },
        };
        let changed = self.change(caller, wish).await;
        if changed.is_err() && self.store.policy.load().named(&user).is_err() {
            // Shut out all the same, or since before: nothing of theirs goes on.
            self.store.live.end_user(&user);
        }
        let changes = changed?;
        let ended = self.store.end_what_is_open(super::origin(caller), &user).await;
        let closed = ended.map_err(|error| AdminError::new("ledger-unavailable", error))?;
        Ok(json!({
            "changed": true,
            "ended": {
                "tokens": changes.iter().filter(|change| matches!(change, Change::TokenRevoked { .. })).count(),
                "links": closed.links,
                "uploads": closed.requests.uploads,
                "downloads": closed.requests.downloads,
                "other_requests": closed.requests.others,
                "partial_uploads": closed.partial_uploads,
            },
        }))
    }

    pub(super) async fn capability_key(&self, caller: Caller) -> Result<Value, AdminError> {
        self.record(Action::AccessRead, Ending::Succeeded, caller, "capability.key".to_owned()).await?;
        Ok(json!({ "key": self.store.signer.key().to_string() }))
    }

    pub(super) async fn capability_list(
        &self,
        caller: Caller,
        args: &Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let question: LookArgs = understand(args)?;
        self.record(Action::AccessRead, Ending::Succeeded, caller, format!("capability.list {args}")).await?;
        let reader = self.store.ledger.reader().clone();
        let reading = tokio::task::spawn_blocking(move || {
            capability::list(&reader.snapshot()?, question.user.as_ref())
        });
        let links = reading
            .await
            .map_err(|error| AdminError::new("internal", error))?
            .map_err(|error| AdminError::new("ledger-unavailable", error))?;
        let now_ms = self.store.clock.unix_milliseconds();
        for link in &links {
            let item = capabilities::describe(link, now_ms);
            out.item(item).await.map_err(|error| AdminError::new("gone", error))?;
        }
        Ok(json!({ "items": links.len() }))
    }

    pub(super) async fn capability_revoke(&self, caller: Caller, args: &Value) -> Result<Value, AdminError> {
        let LinkArgs { capability } = understand(args)?;
        let command = capability::Command::Revoke { origin: super::origin(caller), id: capability, of: None };
        let outcome = self.store.ledger.submit(command).await;
        match outcome.map_err(|error| AdminError::new("ledger-unavailable", error))? {
            capability::Outcome::Revoked(_) => {
                let ended = self.store.live.end_link(capability);
                Ok(json!({ "changed": true, "ended": { "downloads": ended.downloads } }))
            }
            capability::Outcome::Created
            | capability::Outcome::Counted
            | capability::Outcome::Resumed
            | capability::Outcome::Returned
            | capability::Outcome::Refused(_) => {
                let detail = "capability.revoke: no such link".to_owned();
                self.record(Action::AdminRefused, Ending::Denied, caller, detail).await?;
                Err(AdminError::new("refused", format!("there is no link {capability}, or it has ended")))
            }
        }
    }

    async fn issue_token(&self, caller: Caller, args: &Value) -> Result<Value, AdminError> {
        let IssueArgs { user, expires_in_s, label } = understand(args)?;
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| AdminError::new("internal", error))?;
        let token = Token::from_bytes(bytes);
        let id = tables::random_id().map_err(|error| AdminError::new("internal", error))?;
        let now_ms = self.store.clock.unix_milliseconds();
        let expires_ms = expires_in_s.map(|seconds| now_ms.saturating_add(seconds.saturating_mul(1000)));
        let sha256 = token.digest();
        self.change(caller, Wish::IssueToken { token: id, user, sha256, expires_ms, label }).await?;
        Ok(json!({ "id": id, "token": token.expose(), "expires": expires_ms.map(tables::rfc3339) }))
    }

    async fn look(
        &self,
        caller: Caller,
        verb: &str,
        args: &Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let question: LookArgs = understand(args)?;
        self.record(Action::AccessRead, Ending::Succeeded, caller, format!("{verb} {args}")).await?;
        let reader = self.store.ledger.reader().clone();
        let at = question.at_ms;
        let reading = tokio::task::spawn_blocking(move || {
            let snapshot = reader.snapshot()?;
            let book = match at {
                Some(at) => Book::at(&reader, at)?,
                None => Book::read(&snapshot)?,
            };
            Ok::<_, crate::ledger::CorruptError>((book, access::last_seen(&snapshot)?))
        });
        let (book, seen) = reading
            .await
            .map_err(|error| AdminError::new("internal", error))?
            .map_err(|error| AdminError::new("ledger-unavailable", error))?;
        let items = match verb {
            "user.list" => users(&book),
            "cohort.list" => cohorts(&book),
            "edge.list" => edges(&book),
            "token.list" => tokens(&book, &seen.into_iter().collect(), question.user.as_ref()),
            _ => who_may(&book, question.cohort.as_ref(), question.user.as_ref()),
        };
        let count = items.len();
        for item in items {
            out.item(item).await.map_err(|error| AdminError::new("gone", error))?;
        }
        let settings = &book.settings;
        Ok(json!({
            "items": count,
            "mask_cohorts": settings.mask_cohorts,
            "group_pattern": settings.group_pattern,
        }))
    }
}

fn understand<A: DeserializeOwned>(args: &Value) -> Result<A, AdminError> {
    let args = if args.is_null() { json!({}) } else { args.clone() };
    serde_json::from_value(args).map_err(|error| AdminError::new("bad-argument", error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserArgs {
    user: UserName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkArgs {
    capability: FileId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleArgs {
    user: UserName,
    role: Role,
    #[serde(default)]
    cohorts: BTreeSet<Cohort>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupArgs {
    user: UserName,
    group: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueArgs {
    user: UserName,
    expires_in_s: Option<u64>,
    label: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenArgs {
    token: FileId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberArgs {
    cohort: Cohort,
    user: UserName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeArgs {
    edge: EdgeName,
    #[serde(default)]
    cohorts: BTreeSet<Cohort>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeNameArgs {
    edge: EdgeName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsArgs {
    mask_cohorts: Option<bool>,
    group_pattern: Option<String>,
}

/// What is not named stays; what is in `clear` goes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CohortArgs {
    cohort: Cohort,
    extensions: Option<BTreeSet<Extension>>,
    attributes: Option<AttributeRules>,
    content: Option<ContentRule>,
    file_types: Option<BTreeSet<FileType>>,
    max_file_bytes: Option<u64>,
    quota_bytes: Option<u64>,
    quota_files: Option<u64>,
    retention_days: Option<u32>,
    scan: Option<Scan>,
    #[serde(default)]
    clear: BTreeSet<Rule>,
}

/// A rule that a cohort need not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Extensions,
    Attributes,
    FileTypes,
    MaxFileBytes,
    QuotaBytes,
    QuotaFiles,
    RetentionDays,
}

impl CohortArgs {
    fn rules(self, mut rules: CohortRules) -> CohortRules {
        for rule in self.clear {
            match rule {
                Rule::Extensions => rules.extensions.clear(),
                Rule::Attributes => rules.attributes = AttributeRules::default(),
                Rule::FileTypes => rules.file_types.clear(),
                Rule::MaxFileBytes => rules.max_file_bytes = None,
                Rule::QuotaBytes => rules.quota_bytes = None,
                Rule::QuotaFiles => rules.quota_files = None,
                Rule::RetentionDays => rules.retention_days = None,
            }
        }
        CohortRules {
            extensions: self.extensions.unwrap_or(rules.extensions),
            attributes: self.attributes.unwrap_or(rules.attributes),
            content: self.content.unwrap_or(rules.content),
            file_types: self.file_types.unwrap_or(rules.file_types),
            max_file_bytes: self.max_file_bytes.or(rules.max_file_bytes),
            quota_bytes: self.quota_bytes.or(rules.quota_bytes),
            quota_files: self.quota_files.or(rules.quota_files),
            retention_days: self.retention_days.or(rules.retention_days),
            scan: self.scan.unwrap_or(rules.scan),
        }
    }
}

/// At most one of both names; `at_ms`: as it was then.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LookArgs {
    at_ms: Option<u64>,
    cohort: Option<Cohort>,
    user: Option<UserName>,
}

/// What a verb asks the ledger for; `None` if it is no verb of a change.
fn wish(verb: &str, args: &Value, book: &Book) -> Option<Result<Wish, AdminError>> {
    Some(match verb {
        "user.add" => {
            understand(args).map(|RoleArgs { user, role, cohorts }| Wish::AddUser { user, role, cohorts })
        }
        "user.role" => understand(args).map(|RoleArgs { user, role, .. }| Wish::SetRole { user, role }),
        "user.enable" => understand(args).map(|UserArgs { user }| Wish::EnableUser { user }),
        "user.join" => understand(args).map(|GroupArgs { user, group }| Wish::JoinGroup { user, group }),
        "user.leave" => understand(args).map(|GroupArgs { user, group }| Wish::LeaveGroup { user, group }),
        "token.revoke" => understand(args).map(|TokenArgs { token }| Wish::RevokeToken { token }),
        "cohort.add" => understand(args).map(|args: CohortArgs| Wish::AddCohort {
            cohort: args.cohort.clone(),
            rules: args.rules(CohortRules::default()),
        }),
        "cohort.set" => understand(args).map(|args: CohortArgs| {
            let cohort = args.cohort.clone();
            let rules = args.rules(book.cohorts.get(&cohort).cloned().unwrap_or_default());
            Wish::SetCohort { cohort, rules }
        }),
        "cohort.grant" => understand(args).map(|MemberArgs { cohort, user }| Wish::Grant { cohort, user }),
        "cohort.revoke" => understand(args).map(|MemberArgs { cohort, user }| Wish::Revoke { cohort, user }),
        "edge.add" => understand(args).map(|EdgeArgs { edge, cohorts }| Wish::AddEdge { edge, cohorts }),
        "edge.set" => understand(args).map(|EdgeArgs { edge, cohorts }| Wish::SetEdge { edge, cohorts }),
        "edge.remove" => understand(args).map(|EdgeNameArgs { edge }| Wish::RemoveEdge { edge }),
        "access.set" => understand(args).map(|args: SettingsArgs| {
            let mut settings = book.settings.clone();
            settings.mask_cohorts = args.mask_cohorts.unwrap_or(settings.mask_cohorts);
            settings.group_pattern = args.group_pattern.unwrap_or(settings.group_pattern);
            Wish::Set { settings }
        }),
        _ => return None,
    })
}

fn users(book: &Book) -> Vec<Value> {
    let item = |(name, user): (&UserName, &User)| {
        let tokens = book.tokens.values().filter(|row| row.user == *name).count();
        json!({
            "user": name,
            "role": user.role,
            "disabled": user.disabled,
            "cohorts": book.cohorts_of(user),
            "groups": user.groups,
            "tokens": tokens,
        })
    };
    book.users.iter().map(item).collect()
}

fn cohorts(book: &Book) -> Vec<Value> {
    let item = |(cohort, rules): (&Cohort, &CohortRules)| {
        let users = book.users.values().filter(|user| !user.disabled && book.is_open(user, cohort)).count();
        let edges: Vec<&EdgeName> =
            book.edges.iter().filter(|(_, cohorts)| cohorts.contains(cohort)).map(|(edge, _)| edge).collect();
        json!({ "cohort": cohort, "rules": rules, "users": users, "edges": edges })
    };
    book.cohorts.iter().map(item).collect()
}

fn edges(book: &Book) -> Vec<Value> {
    book.edges.iter().map(|(edge, cohorts)| json!({ "edge": edge, "cohorts": cohorts })).collect()
}

fn tokens(book: &Book, seen: &BTreeMap<FileId, u32>, user: Option<&UserName>) -> Vec<Value> {
    let of_user = book.tokens.iter().filter(|(_, row)| user.is_none_or(|user| row.user == *user));
    let item = |(id, row): (&FileId, &access::TokenRow)| {
        let day = seen.get(id).map(|day| tables::rfc3339(u64::from(*day) * 86_400_000));
        json!({
            "id": id,
            "user": row.user,
            "label": row.label,
            "created": tables::rfc3339(row.created_ms),
            "expires": row.expires_ms.map(tables::rfc3339),
            "last_used_day": day.and_then(|day| day.get(..10).map(str::to_owned)),
        })
    };
    of_user.map(item).collect()
}

/// Each pair of a user and a cohort that is open to them, with why.
fn who_may(book: &Book, cohort: Option<&Cohort>, user: Option<&UserName>) -> Vec<Value> {
    let mut items = Vec::new();
    for (name, known) in book.users.iter().filter(|(name, _)| user.is_none_or(|user| user == *name)) {
        for open in book.cohorts_of(known).iter().filter(|open| cohort.is_none_or(|cohort| cohort == *open)) {
            let group = book.settings.group_of(open);
            let through = known.groups.contains(&group).then_some(group);
            items.push(json!({
                "user": name,
                "cohort": open,
                "role": known.role,
                "disabled": known.disabled,
                "granted": known.cohorts.contains(open),
                "group": through,
            }));
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_before_the_ledger_is_asked() {
        let ask = |verb: &str, args: Value| wish(verb, &args, &Book::default());
        assert!(ask("user.add", json!({"user": "ada", "role": "user"})).unwrap().is_ok());
        for (verb, bad) in [
            ("user.add", json!({"user": "a b", "role": "user"})),
            ("user.add", json!({"user": "ada", "role": "root"})),
            ("user.enable", json!({"user": "ada", "force": true})),
            ("token.revoke", json!({"token": "../x"})),
            ("cohort.add", json!({"cohort": "C1"})),
            ("cohort.set", json!({"cohort": "c1", "clear": ["name"]})),
            ("edge.add", Value::Null),
        ] {
            let error = ask(verb, bad.clone()).unwrap().unwrap_err();
            assert_eq!(error.code, "bad-argument", "{verb} {bad}");
        }
        assert!(ask("user.fly", Value::Null).is_none());
    }

    #[test]
    fn rules_that_are_not_named_stay() {
        let mut book = Book::default();
        let add = wish("cohort.add", &json!({"cohort": "c1", "quota_bytes": 5, "max_file_bytes": 3}), &book);
        for change in add.unwrap().unwrap().decide(&book, 0).unwrap() {
            book.take(&change).unwrap();
        }
        let set = wish(
            "cohort.set",
            &json!({"cohort": "c1", "retention_days": 9, "clear": ["quota_bytes"]}),
            &book,
        );
        let Wish::SetCohort { rules, .. } = set.unwrap().unwrap() else { panic!("another wish") };
        let expected =
            CohortRules { max_file_bytes: Some(3), retention_days: Some(9), ..CohortRules::default() };
        assert_eq!(rules, expected);
    }
}
