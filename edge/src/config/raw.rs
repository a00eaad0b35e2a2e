//! The configuration file as it is written.

use identity::RawIssuer;
use serde::Deserialize;

/// `edge.toml`. Every value is text or a number here; meaning comes with [`super::Config`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    pub(super) name: Option<String>,
    pub(super) role: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) listen: Option<String>,
    #[serde(default)]
    pub(super) plain_http: bool,
    pub(super) tls_certificate_file: Option<String>,
    pub(super) tls_key_file: Option<String>,
    pub(super) tls_min_version: Option<String>,
    pub(super) client_ca_file: Option<String>,
    pub(super) client_crl_file: Option<String>,
    pub(super) client_certificates: Option<String>,
    #[serde(default)]
    pub(super) proxy_protocol_from: Vec<String>,
    pub(super) services_url: Option<String>,
    pub(super) tunnel_prefix: Option<String>,
    pub(super) internal_api_key_file: Option<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) admin_socket: Option<String>,
    pub(super) events_socket: Option<String>,
    pub(super) admin_users: Option<Vec<String>>,
    pub(super) wgd_user: Option<String>,
    pub(super) run_as: Option<String>,
    pub(super) log_key: Option<String>,
    pub(super) checkpoint_floor_file: Option<String>,
    #[serde(default)]
    pub(super) upstream: Vec<RawUpstream>,
    #[serde(default)]
    pub(super) issuer: Vec<RawIssuer>,
    #[serde(default)]
    pub(super) limits: RawLimits,
}

/// One `[[upstream]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) name: Option<String>,
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) cohorts: Vec<String>,
    pub(super) log_key: Option<String>,
    pub(super) checkpoint_floor_file: Option<String>,
}

/// The `[limits]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) max_body_bytes: Option<u64>,
    pub(super) max_connections: Option<usize>,
    pub(super) max_connections_per_address: Option<usize>,
    pub(super) rate_per_second: Option<u32>,
    pub(super) rate_burst: Option<u32>,
    pub(super) auth_failure_limit: Option<u32>,
    pub(super) auth_cooloff: Option<String>,
    pub(super) max_requests: Option<usize>,
    pub(super) header_timeout: Option<String>,
    pub(super) idle_timeout: Option<String>,
    pub(super) drain_timeout: Option<String>,
}
