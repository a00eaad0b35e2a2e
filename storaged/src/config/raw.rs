//! The configuration file as it is written; nothing is understood here.

use identity::{RawCertificate, RawIssuer, RawMapping};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// `storaged.toml`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    pub(super) role: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) bind_address: Option<String>,
    pub(super) tunnel_interface: Option<String>,
    pub(super) tunnel_prefix: Option<String>,
    pub(super) allowed_hosts: Option<Vec<String>>,
    pub(super) internal_api_key_file: Option<String>,
    pub(super) internal_api_key_next_file: Option<String>,
    pub(super) root_key_file: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) journal_mirror: Option<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) admin_socket: Option<String>,
    pub(super) admin_users: Vec<String>,
    pub(super) auditor_users: Vec<String>,
    pub(super) events_socket: Option<String>,
    pub(super) wgd_socket: Option<String>,
    pub(super) wgd_user: Option<String>,
    pub(super) run_as: Option<String>,
    pub(super) limits: RawLimits,
    pub(super) volume: Vec<RawVolume>,
    pub(super) client_ca_file: Option<String>,
    pub(super) client_crl_file: Option<String>,
    pub(super) certificate_map: Vec<RawCertificate>,
    pub(super) issuer: Vec<RawIssuer>,
    pub(super) group_map: Vec<RawMapping>,
    /// Stood here once; now in the ledger.
    pub(super) edge: Option<IgnoredAny>,
    /// Stood here once; now in the ledger.
    pub(super) cohort: Option<IgnoredAny>,
    /// Stood here once; now in the ledger.
    pub(super) user: Option<IgnoredAny>,
}

/// `[limits]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) body_idle_timeout_seconds: Option<u64>,
    pub(super) drain_timeout_seconds: Option<u64>,
    pub(super) transfers: Option<u64>,
    pub(super) connections: Option<u64>,
    pub(super) max_file_bytes: Option<u64>,
    pub(super) max_hourly_access: Option<u32>,
    pub(super) enforce_hourly_access: Option<bool>,
    pub(super) upload_expiry_seconds: Option<u64>,
    pub(super) state_reserve_bytes: Option<u64>,
    pub(super) scrub_cycle_days: Option<u64>,
    pub(super) scrub_bytes_per_second: Option<u64>,
}

/// `[[volume]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVolume {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) reserve_bytes: Option<u64>,
}
