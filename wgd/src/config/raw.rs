//! The file as it is written.
use serde::Deserialize;
use std::path::PathBuf;

/// `/etc/culvert/wgd.toml`. Every key can be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) interface: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) run_as: Option<String>,
    pub(super) netcfg: Option<bool>,
    pub(super) device: Option<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) admin_socket: Option<PathBuf>,
    #[serde(default)]
    pub(super) admin_uids: Vec<u32>,
    #[serde(default)]
    pub(super) admin_users: Vec<String>,
    pub(super) events_socket: Option<PathBuf>,
    #[serde(default)]
    pub(super) event_listeners: Vec<PathBuf>,
    pub(super) probe_interval_seconds: Option<u64>,
    pub(super) handshake_delay_metric: Option<bool>,
    #[serde(default)]
    pub(super) whois_uids: Vec<u32>,
    #[serde(default)]
    pub(super) whois_users: Vec<String>,
    pub(super) tun_netns: Option<String>,
    pub(super) wireguard_dir: Option<PathBuf>,
    pub(super) uapi_directory: Option<PathBuf>,
    pub(super) state_directory: Option<PathBuf>,
}
