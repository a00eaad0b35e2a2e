//! The storageds behind this edge: one, by `services_url`, or several, by `[[upstream]]` with the cohorts of each.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use daemon::config::Problems;
use ipnet::IpNet;
use receipt::LogKey;
use store_proto::{Cohort, EdgeName};

use super::raw::{RawConfig, RawUpstream};
use super::{required, services_address};
use crate::limits::UPSTREAMS;

/// What the one storaged is called that has no name.
const ONLY: &str = "services";

/// One storaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamRules {
    /// As logs and metrics call it.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Whose files it has; the first one is asked for those that stand nowhere.
    pub cohorts: BTreeSet<Cohort>,
    /// The key of its log; `None`: the first one shown is adopted.
    pub log_key: Option<LogKey>,
    /// Where a checkpoint is below which its log cannot be: a path or `credential:NAME`.
    pub checkpoint_floor_file: Option<String>,
}

/// At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTable {
    /// In the order of the file.
    pub all: Vec<UpstreamRules>,
    is_table: bool,
}

impl UpstreamTable {
    /// The keys in which they differ.
    pub(super) fn needs_restart(&self, other: &UpstreamTable) -> Vec<&'static str> {
        if self == other {
            return Vec::new();
        }
        let ([mine], [theirs], false) = (&self.all[..], &other.all[..], self.is_table || other.is_table)
        else {
            return vec!["upstream"];
        };
        let changed = [
            ("services_url", mine.address != theirs.address),
            ("log_key", mine.log_key != theirs.log_key),
            ("checkpoint_floor_file", mine.checkpoint_floor_file != theirs.checkpoint_floor_file),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }

    /// The ports that edge connects to.
    pub fn ports(&self) -> Vec<u16> {
        let ports: BTreeSet<u16> = self.all.iter().map(|upstream| upstream.address.port()).collect();
        ports.into_iter().collect()
    }
}

/// The keys of the top, for the one that has no table; `text` comes from the environment or the file.
fn only(problems: &mut Problems, raw: &RawConfig, url: Option<&str>, place: Place) -> Option<UpstreamRules> {
    let url = required(problems, "services_url", url, "such as \"http://10.100.0.11:8001\", or [[upstream]]");
    let address = url.and_then(|url| place.address(problems, "services_url", url));
    let log_key = log_key(problems, "", raw.log_key.as_deref(), raw.checkpoint_floor_file.is_some());
    Some(UpstreamRules {
        name: ONLY.to_owned(),
        address: address?,
        cohorts: BTreeSet::new(),
        log_key,
        checkpoint_floor_file: raw.checkpoint_floor_file.clone(),
    })
}

/// Where storageds may be.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// `None`: it could not be understood, which was told.
    pub(super) tunnel: Option<IpNet>,
    pub(super) testing: bool,
}

impl Place {
    fn address(self, problems: &mut Problems, key: &str, url: &str) -> Option<SocketAddr> {
        problems.take(key, services_address(url, self.tunnel?, self.testing))
    }
}

fn log_key(problems: &mut Problems, before: &str, text: Option<&str>, has_floor: bool) -> Option<LogKey> {
    if has_floor && text.is_none() {
        let key = format!("{before}checkpoint_floor_file");
        problems.add(&key, "needs log_key: a checkpoint is worth what its signature is");
    }
    text.and_then(|text| problems.take(&format!("{before}log_key"), LogKey::parse(text)))
}

pub(super) fn upstreams(
    problems: &mut Problems,
    raw: &RawConfig,
    services_url: Option<&str>,
    place: Place,
) -> Option<UpstreamTable> {
    if raw.upstream.is_empty() {
        let only = only(problems, raw, services_url, place)?;
        return Some(UpstreamTable { all: vec![only], is_table: false });
    }
    for (key, stands) in [
        ("services_url", services_url.is_some()),
        ("log_key", raw.log_key.is_some()),
        ("checkpoint_floor_file", raw.checkpoint_floor_file.is_some()),
    ] {
        if stands {
            problems.add(key, "stands beside [[upstream]]: say it there, for each of them");
        }
    }
    if raw.upstream.len() > UPSTREAMS {
        problems.add("upstream", format!("there are {}, and {UPSTREAMS} at most", raw.upstream.len()));
    }
    let mut table = UpstreamTable { all: Vec::new(), is_table: true };
    for (at, raw) in raw.upstream.iter().enumerate() {
        let upstream = one(problems, at, raw, place, &table.all);
        table.all.extend(upstream);
    }
    Some(table)
}

fn one(
    problems: &mut Problems,
    at: usize,
    raw: &RawUpstream,
    place: Place,
    others: &[UpstreamRules],
) -> Option<UpstreamRules> {
    let before = format!("upstream[{at}].");
    let key = |key: &str| format!("{before}{key}");
    let name = required(problems, &key("name"), raw.name.as_deref(), "as logs and metrics call it");
    let name = name.and_then(|name| problems.take(&key("name"), EdgeName::parse(name)));
    if let Some(name) = name.as_ref().filter(|name| others.iter().any(|other| other.name == name.as_str())) {
        problems.add(&key("name"), format!("{:?} stands twice", name.as_str()));
    }
    let url = required(problems, &key("url"), raw.url.as_deref(), "such as \"http://10.100.0.11:8001\"");
    let address = url.and_then(|url| place.address(problems, &key("url"), url));
    if let Some(other) = others.iter().find(|other| Some(other.address) == address) {
        problems.add(&key("url"), format!("is that of {:?} too", other.name));
    }
    let mut cohorts = BTreeSet::new();
    for text in &raw.cohorts {
        let Some(cohort) = problems.take(&key("cohorts"), Cohort::parse(text)) else { continue };
        if let Some(other) = others.iter().find(|other| other.cohorts.contains(&cohort)) {
            let what = format!("{text:?} is of {:?} already: a cohort lives on one of them", other.name);
            problems.add(&key("cohorts"), what);
        }
        cohorts.insert(cohort);
    }
    let log_key = log_key(problems, &before, raw.log_key.as_deref(), raw.checkpoint_floor_file.is_some());
    let checkpoint_floor_file = raw.checkpoint_floor_file.clone();
    Some(UpstreamRules {
        name: name?.as_str().to_owned(),
        address: address?,
        cohorts,
        log_key,
        checkpoint_floor_file,
    })
}

impl UpstreamTable {
    /// As the keys of the top.
    pub(super) fn write_top(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(only) = self.all.first().filter(|_| !self.is_table) else { return Ok(()) };
        writeln!(f, "services_url = \"http://{}\"", only.address)?;
        only.write_log(f)
    }

    /// As tables.
    pub(super) fn write_tables(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for upstream in self.all.iter().filter(|_| self.is_table) {
            let cohorts: Vec<&str> = upstream.cohorts.iter().map(Cohort::as_str).collect();
            writeln!(f, "\n[[upstream]]\nname = {:?}\nurl = \"http://{}\"", upstream.name, upstream.address)?;
            writeln!(f, "cohorts = {cohorts:?}")?;
            upstream.write_log(f)?;
        }
        Ok(())
    }
}

impl UpstreamRules {
    fn write_log(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.log_key {
            writeln!(f, "log_key = \"{key}\"")?;
        }
        match &self.checkpoint_floor_file {
            Some(reference) => writeln!(f, "checkpoint_floor_file = {reference:?}"),
            None => Ok(()),
        }
    }
}
