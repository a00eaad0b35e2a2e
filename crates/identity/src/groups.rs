//! What a provider's claims open: `[[group_map]]`.
//!
//! **Invariant:** rights come out of a mapping that an operator wrote, never out of a claim alone. A token that does not
//! carry its groups because there are too many of them is refused, and is never taken for one of somebody without any.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use store_proto::{Cohort, Role};

use crate::issuer::fits;
use crate::limits::MAPPINGS;
use crate::verify::Verified;

/// `[[group_map]]`, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMapping {
    issuer: Option<String>,
    claim: Option<String>,
    value: Option<String>,
    cohort: Option<String>,
    role: Option<String>,
}

/// Whoever has `value` in `claim` has `role` in `cohort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The provider's short name.
    pub issuer: String,
    /// The claim's name, or a JSON pointer to it.
    pub claim: String,
    /// What must stand there, or be one of those that do.
    pub value: String,
    /// What it opens; none with the role of an auditor, who opens no cohort.
    pub cohort: Option<Cohort>,
    /// As what.
    pub role: Role,
}

/// The provider left the groups out of the token, because there were too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", OVERAGE)]
pub struct Overage;

/// What is told then.
pub const OVERAGE: &str = "the identity provider left the groups out of the token, because there are too many; have it \
                           emit only the groups that are assigned to this application, or application roles, and map \
                           those";

/// What somebody may do, as far as claims say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// The cohorts that are open, and as what.
    pub cohorts: BTreeMap<Cohort, Role>,
    /// Whether they read the ledger, and so no file.
    pub is_auditor: bool,
}

/// The lines of a file that would give the same.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[group_map]]\nissuer = {:?}\nclaim = {:?}", self.issuer, self.claim)?;
        writeln!(f, "value = {:?}", self.value)?;
        if let Some(cohort) = &self.cohort {
            writeln!(f, "cohort = {:?}", cohort.as_str())?;
        }
        writeln!(f, "role = {:?}", self.role.name())
    }
}

/// All mappings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupMap(Vec<Mapping>);

impl GroupMap {
    /// Understands what is written. `issuers` are the short names of those that are known; `wrong` is told the key and
    /// what is the matter with it.
    pub fn understand(raw: &[RawMapping], issuers: &[&str], wrong: &mut dyn FnMut(&str, String)) -> GroupMap {
        if raw.len() > MAPPINGS {
            wrong("group_map", format!("there are {}, and {MAPPINGS} at most", raw.len()));
        }
        let understood = raw.iter().enumerate().filter_map(|(at, raw)| {
            understand(raw, issuers, &mut |key, what| wrong(&format!("group_map[{at}].{key}"), what))
        });
        GroupMap(understood.collect())
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }

    /// What is open to somebody. An auditor reads no file: who is mapped to that role has no cohort, whatever else they
    /// are mapped to (separation of duties).
    pub fn rights(&self, of: &Verified) -> Result<Rights, Overage> {
        let mut rights = Rights::default();
        for mapping in self.0.iter().filter(|mapping| mapping.issuer == of.issuer) {
            if is_left_out(of, &mapping.claim) {
                return Err(Overage);
            }
            if !has(of, mapping) {
                continue;
            }
            match &mapping.cohort {
                None => rights.is_auditor = true,
                Some(cohort) => {
                    let role = rights.cohorts.entry(cohort.clone()).or_insert(mapping.role);
                    if rank(mapping.role) > rank(*role) {
                        *role = mapping.role;
                    }
                }
            }
        }
        if rights.is_auditor {
            rights.cohorts.clear();
        }
        Ok(rights)
    }
}

/// Each of these may what the one before it may, and more; an auditor stands beside them.
fn rank(role: Role) -> u8 {
    match role {
        Role::Auditor => 0,
        Role::Viewer => 1,
        Role::User => 2,
        Role::Admin => 3,
    }
}

fn find<'a>(of: &'a Verified, claim: &str) -> Option<&'a Value> {
    match claim.strip_prefix('/') {
        None => of.claims.get(claim),
        Some(path) => {
            let (first, rest) = path.split_once('/').map_or((path, ""), |(first, rest)| (first, rest));
            let member = of.claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
            if rest.is_empty() { Some(member) } else { member.pointer(&format!("/{rest}")) }
        }
    }
}

/// A text, or one of an array of texts; to the letter.
fn has(of: &Verified, mapping: &Mapping) -> bool {
    match find(of, &mapping.claim) {
        Some(Value::String(text)) => *text == mapping.value,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(&mapping.value)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
    }
}

/// OpenID Connect Core 1.0 §5.6.2: a distributed claim is named in `_claim_names` and is elsewhere. Entra ID says so for
/// `groups`, or, where the token came by way of an address bar, with `hasgroups` alone.
fn is_left_out(of: &Verified, claim: &str) -> bool {
    let top = claim.strip_prefix('/').map_or(claim, |path| path.split('/').next().unwrap_or(path));
    let elsewhere = of.claims.get("_claim_names").and_then(Value::as_object);
    let has_groups = match of.claims.get("hasgroups") {
        Some(Value::Bool(has)) => *has,
        Some(Value::String(has)) => has == "true",
        Some(Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_)) | None => false,
    };
    elsewhere.is_some_and(|names| names.contains_key(top))
        || (top == "groups" && has_groups && !of.claims.contains_key("groups"))
}

fn understand(raw: &RawMapping, issuers: &[&str], wrong: &mut dyn FnMut(&str, String)) -> Option<Mapping> {
    let mut text = |key: &str, value: &Option<String>, hint: &str| match value {
        Some(value) if fits(value) => Some(value.clone()),
        Some(_) | None => {
            wrong(key, format!("is missing, empty or too long: {hint}"));
            None
        }
    };
    let issuer = text("issuer", &raw.issuer, "the name of an [[issuer]]");
    let claim = text("claim", &raw.claim, "the claim, as \"groups\" or, deeper, \"/realm_access/roles\"");
    let value = text("value", &raw.value, "what stands in the claim");
    if let Some(issuer) = issuer.as_ref().filter(|issuer| !issuers.contains(&issuer.as_str())) {
        wrong("issuer", format!("{issuer:?} is no [[issuer]]"));
        return None;
    }
    let role = raw.role.as_deref().and_then(Role::parse);
    if role.is_none() {
        wrong(
            "role",
            format!("{:?} is none of viewer, user, admin, auditor", raw.role.as_deref().unwrap_or("")),
        );
    }
    let cohort = match raw.cohort.as_deref().map(Cohort::parse) {
        Some(Err(error)) => {
            wrong("cohort", error.to_string());
            return None;
        }
        Some(Ok(cohort)) => Some(cohort),
        None => None,
    };
    match (role?, &cohort) {
        (Role::Auditor, Some(_)) => {
            wrong("cohort", "an auditor reads the ledger and no file: leave it out".to_owned());
            None
        }
        (Role::Viewer | Role::User | Role::Admin, None) => {
            wrong("cohort", "is missing: which cohort this opens".to_owned());
            None
        }
        (role, _) => Some(Mapping { issuer: issuer?, claim: claim?, value: value?, cohort, role }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(claim: &str, value: &str, cohort: Option<&str>, role: &str) -> RawMapping {
        RawMapping {
            issuer: Some("clinic".into()),
            claim: Some(claim.into()),
            value: Some(value.into()),
            cohort: cohort.map(str::to_owned),
            role: Some(role.into()),
        }
    }

    fn map(raw: &[RawMapping]) -> GroupMap {
        GroupMap::understand(raw, &["clinic"], &mut |key, what| panic!("{key}: {what}"))
    }

    fn of(claims: Value) -> Verified {
        let Value::Object(claims) = claims else { panic!("an object") };
        let principal = store_proto::UserName::parse("clinic:ada").unwrap();
        Verified { principal, issuer: "clinic".into(), expires_s: 1, claims }
    }

    fn c(name: &str) -> Cohort {
        Cohort::parse(name).unwrap()
    }

    #[test]
    fn a_group_opens_its_cohort_and_the_widest_role_counts() {
        let map = map(&[
            raw("groups", "a-readers", Some("a"), "viewer"),
            raw("groups", "a-writers", Some("a"), "user"),
            raw("/realm_access/roles", "b", Some("b"), "admin"),
            raw("https://example.org/team", "c", Some("c"), "viewer"),
        ]);
        let claims = json!({"groups": ["a-writers", "a-readers", 7], "realm_access": {"roles": ["b"]},
            "https://example.org/team": "c"});
        let expected = [(c("a"), Role::User), (c("b"), Role::Admin), (c("c"), Role::Viewer)];
        assert_eq!(map.rights(&of(claims)).unwrap().cohorts, BTreeMap::from(expected));
        for none in [json!({}), json!({"groups": "a-readers-not"}), json!({"groups": {"a-readers": 1}})] {
            assert_eq!(map.rights(&of(none)).unwrap(), Rights::default());
        }
        let other = Verified { issuer: "lab".into(), ..of(json!({"groups": ["a-readers"]})) };
        assert_eq!(map.rights(&other).unwrap(), Rights::default(), "another provider's groups are others");
    }

    #[test]
    fn an_auditor_has_no_cohort_whatever_else_they_are() {
        let map = map(&[raw("groups", "audit", None, "auditor"), raw("groups", "a", Some("a"), "admin")]);
        let rights = map.rights(&of(json!({"groups": ["a", "audit"]}))).unwrap();
        assert_eq!(rights, Rights { cohorts: BTreeMap::new(), is_auditor: true });
    }

    #[test]
    fn groups_that_were_left_out_are_a_refusal_that_names_the_fix() {
        let map = map(&[raw("roles", "x", Some("b"), "user"), raw("groups", "a", Some("a"), "user")]);
        for claims in [
            json!({"roles": ["x"], "_claim_names": {"groups": "src1"}, "_claim_sources": {}}),
            json!({"roles": ["x"], "hasgroups": true}),
            json!({"hasgroups": "true"}),
        ] {
            let error = map.rights(&of(claims)).unwrap_err();
            assert!(error.to_string().contains("have it emit only the groups that are assigned"), "{error}");
        }
        let elsewhere = json!({"groups": ["a"], "_claim_names": {"address": "src1"}});
        assert!(map.rights(&of(elsewhere)).is_ok(), "another claim's absence is nothing to us");
    }

    #[test]
    fn mistakes_name_their_key() {
        for (raw, expected) in [
            (raw("", "x", Some("a"), "user"), "group_map[0].claim: is missing"),
            (raw("groups", "x", Some("A"), "user"), "group_map[0].cohort: a cohort must be"),
            (raw("groups", "x", None, "user"), "group_map[0].cohort: is missing"),
            (raw("groups", "x", Some("a"), "auditor"), "group_map[0].cohort: an auditor"),
            (raw("groups", "x", Some("a"), "root"), "group_map[0].role: \"root\""),
            (
                RawMapping { issuer: Some("lab".into()), ..raw("g", "x", Some("a"), "user") },
                "group_map[0].issuer: \"lab\"",
            ),
        ] {
            let mut found = Vec::new();
            GroupMap::understand(&[raw], &["clinic"], &mut |key, what| found.push(format!("{key}: {what}")));
            assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}: {found:?}");
        }
    }
}
