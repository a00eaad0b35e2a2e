//! storaged: keeps files, and a record of everything that happened to them, behind the tunnel.
//!
//! **Invariant:** a request counts only if the WireGuard peer that delivered it is a registered edge, the
//! internal key matches, the user's own proof verifies here, and policy allows the action; nothing is
//! acknowledged before it is durable and recorded; nothing is served before its intent is recorded.
#![forbid(unsafe_code)]

pub mod access_monitor;
pub mod admin;
pub mod backup;
pub mod cli;
pub mod config;
mod database_file;
pub mod deletion;
pub mod denial;
pub mod ending;
pub mod host;
pub mod init;
pub mod integrity;
pub mod keeper;
pub mod keys;
pub mod ledger;
pub mod ledger_disk;
pub mod limits;
pub mod listen;
pub mod live;
pub mod metrics;
pub mod objects;
pub mod offline;
pub mod policy;
pub mod policy_in_force;
pub mod providers;
pub mod reaper;
pub mod report;
pub mod restore;
pub mod run;
pub mod sandbox;
pub mod seen;
pub mod serve;
pub mod store;
pub mod strangers;
pub mod volumes;
pub mod whois;

#[cfg(test)]
#[path = "../../crates/daemon/testing/documented.rs"]
mod documented;
