//! Endpoints that the configuration gives by host name: looked up by `wgd-resolve`, again and again until each
//! is known.
//!
//! Invariant: a name that cannot be looked up delays nothing and nobody else; the peer can still be reached when
//! it speaks first.
use super::Control;
use crate::conf::HostName;
use crate::limits;
use crate::netcfg::{Answer, NetcfgError, Request};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use wg_proto::{DeviceUpdate, PeerUpdate};

/// Sets the endpoints of `names` as they become known.
pub(super) async fn look_up(control: Arc<Control>, names: Vec<HostName>) {
    let mut pause = limits::RESOLVE_RETRY;
    let mut open: Vec<(usize, HostName)> = names.into_iter().enumerate().collect();
    while !open.is_empty() {
        let mut unknown = Vec::new();
        for (index, name) in open {
            match ask(&control, index).await {
                Ok(Some(address)) => set_endpoint(&control, &name, address).await,
                Ok(None) => {
                    tracing::warn!(host = name.host, "endpoint: no such host; trying again");
                    unknown.push((index, name));
                }
                Err(NetcfgError::Off) => {
                    tracing::warn!(host = name.host, "endpoint: host names need netcfg = true");
                }
                Err(error) => {
                    tracing::warn!(host = name.host, %error, "endpoint: look-up failed; trying again");
                    unknown.push((index, name));
                }
            }
        }
        open = unknown;
        if !open.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(limits::RESOLVE_RETRY_MAX);
        }
    }
}

async fn ask(control: &Control, index: usize) -> Result<Option<IpAddr>, NetcfgError> {
    match control.netcfg.ask(Request::Resolve { index }, &[]).await?.0 {
        Answer::Resolved(addresses) => Ok(addresses.first().copied()),
        Answer::Done | Answer::Configured { .. } | Answer::Failed { .. } => Ok(None),
    }
}

async fn set_endpoint(control: &Control, name: &HostName, address: IpAddr) {
    let mut peer = PeerUpdate::of(name.peer);
    peer.update_only = true;
    peer.endpoint = Some(SocketAddr::new(address, name.port));
    let update = DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() };
    match control.apply(update).await {
        Ok(()) => tracing::debug!(host = name.host, %address, "endpoint looked up"),
        Err(error) => tracing::warn!(host = name.host, %error, "endpoint not set"),
    }
}
