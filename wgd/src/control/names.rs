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
    let mut open = names;
    while !open.is_empty() {
        let mut unknown = Vec::new();
        for name in open {
            match ask(&control, &name.host).await {
                Ok(Some(address)) => set_endpoint(&control, &name, address).await,
                Ok(None) => {
                    tracing::warn!(host = name.host, "endpoint: no such host; trying again");
                    unknown.push(name);
                }
                Err(NetcfgError::Off) => {
                    tracing::warn!(host = name.host, "endpoint: host names need netcfg = true");
                }
                Err(error) => {
                    tracing::warn!(host = name.host, %error, "endpoint: look-up failed; trying again");
                    unknown.push(name);
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

async fn ask(control: &Control, host: &str) -> Result<Option<IpAddr>, NetcfgError> {
    let request = Request::Resolve { host: host.to_owned() };
    match control.netcfg.ask(request, &[]).await?.0 {
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
