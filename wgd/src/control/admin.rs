//! Verbs of the admin socket: `status`, `probe`, `rotate`, `events` and `reload`.
use super::{Control, follow, probe, rotation};
use crate::io::Command;
use daemon::Clock;
use daemon::admin::{AdminError, Caller, Handler, Replies};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use wg_proto::PeerState;

/// Answers the admin socket.
pub(super) struct Verbs(pub(super) Arc<Control>);

impl Handler for Verbs {
    fn handle<'a>(
        &'a self,
        _caller: Caller,
        verb: &'a str,
        args: Value,
        _descriptors: Vec<OwnedFd>,
        out: &'a mut Replies,
    ) -> BoxFuture<'a, Result<Value, AdminError>> {
        Box::pin(async move {
            match verb {
                "status" => status(&self.0).await,
                "probe" => probe::once(&self.0, &args).await,
                "rotate" => rotation::rotate(&self.0, &args, out).await,
                "events" => follow::events(&self.0.watched, out).await,
                "reload" => {
                    let result = self.0.reload().await;
                    self.0.metrics.reloaded(result.is_ok());
                    result.map_err(|error| AdminError::new("reload-failed", error))?;
                    Ok(json!({ "reloaded": self.0.config.tunnel_file() }))
                }
                other => Err(AdminError::unknown_verb(other)),
            }
        })
    }
}

/// The operator's view: endpoints are in it, secrets are not.
async fn status(control: &Control) -> Result<Value, AdminError> {
    let gone = |error| AdminError::new("unavailable", error);
    let state = control.state().await.map_err(gone)?;
    let (counters, io) = control.data.ask(Command::Counters).await.map_err(gone)?;
    let drops: serde_json::Map<String, Value> = counters
        .drops
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.label().to_owned(), json!(count)))
        .collect();
    Ok(json!({
        "interface": control.config.interface,
        "version": env!("CARGO_PKG_VERSION"),
        "public_key": state.public_key.map(wg_proto::PublicKey::to_base64),
        "listen_port": state.listen_port,
        "fwmark": state.fwmark,
        "mtu": io.mtu,
        "link_up": io.link_is_up,
        "device": {
            "kind": if io.offloaded.tun.is_some() { "offload" } else { "plain" },
            "tcp": io.offloaded.tun.is_some(),
            "udp": io.offloaded.tun.is_some_and(|offloads| offloads.udp),
            "udp_send": io.offloaded.udp_send,
            "udp_receive": io.offloaded.udp_receive,
        },
        "netcfg": control.netcfg.is_there(),
        "under_load": state.under_load,
        "drops": drops,
        "peers": state.peers.iter().map(|peer| describe(control, peer)).collect::<Vec<_>>(),
        "key_memory": linux::secret_arena::protection().map(linux::secret_memory::Protection::name),
        "keys_outside": linux::secret_arena::missed(),
        "lockdown": daemon::lockdown::describe(&control.lockdown),
    }))
}

fn describe(control: &Control, peer: &PeerState) -> Value {
    let now = Clock.now();
    let age = peer.last_handshake.map(|at| now.saturating_duration_since(at));
    json!({
        "name": peer.friendly_name.as_deref(),
        "public_key": peer.public_key.to_base64(),
        "endpoint": peer.endpoint.map(|endpoint| endpoint.remote.to_string()),
        "allowed_ips": peer.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "up": age.is_some_and(|age| age < crate::limits::PEER_UP),
        "latest_handshake_unix": peer.last_handshake.map(|at| control.epoch.date(at).as_secs()),
        "latest_handshake_age_seconds": age.map(|age| age.as_secs()),
        "tx_bytes": peer.tx_bytes,
        "rx_bytes": peer.rx_bytes,
        "persistent_keepalive_seconds": peer.persistent_keepalive,
        "preshared_key": peer.preshared_key.is_some(),
        "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        "rtt_from": peer.rtt.map(|_| if peer.probes.round_trip.is_some() { "probe" } else { "handshake" }),
        "probes": { "sent": peer.probes.sent, "answered": peer.probes.answered, "lost": peer.probes.lost },
        "loss_ratio": peer.loss,
        "lost_packets": peer.numbers.lost,
        "expected_packets": peer.numbers.expected,
        "up_seconds": peer.up_since.map(|at| now.saturating_duration_since(at).as_secs()),
        "endpoint_changes": peer.endpoint_changes,
        "rotation": peer.rotation.map(|under_way| json!({
            "kind": rotation::kind_name(under_way.kind),
            "step": rotation::step_name(under_way.step),
            "seconds": now.saturating_duration_since(under_way.began).as_secs(),
            "stalled": under_way.is_stalled,
        })),
    })
}
