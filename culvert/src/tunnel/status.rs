//! `culvert tunnel status`.

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::uapi::{self, DeviceView, QueryError, State};
use super::{SocketArguments, follow, table, wgd};
use crate::admin;
use crate::console::Console;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    sockets: SocketArguments,
    /// Measure the round trip to each peer first: takes up to a second, and needs wgd
    #[arg(long, conflicts_with = "follow")]
    probe: bool,
    /// Show what happens from now on, line by line, until Ctrl-C: up, down, handshake, roamed, key changed
    #[arg(long)]
    follow: bool,
}

/// One interface; with `--json` one object per line.
#[derive(Debug, Serialize)]
struct Interface {
    interface: String,
    peers_up: usize,
    #[serde(flatten)]
    device: DeviceView,
}

pub(crate) fn run(arguments: &StatusArguments, console: Console) -> Result<(), Failure> {
    let sockets = &arguments.sockets;
    if arguments.follow {
        return follow::run(&sockets.wgd_socket, sockets.interface.as_deref(), console);
    }
    let probed =
        arguments.probe.then(|| admin::call(&sockets.wgd_socket, "probe", json!({}), &[], |_| Ok(())));
    let probed = probed.transpose()?;
    let told = wgd::device(&sockets.wgd_socket);
    let own = |interface: &str| told.as_ref().is_some_and(|(name, _)| name == interface);
    let interfaces = match sockets.interfaces() {
        // Who may ask wgd need not be allowed to look at the control sockets.
        Err(_) if told.is_some() && sockets.interface.is_none() => Vec::new(),
        interfaces => interfaces?,
    };
    let mut shown = Vec::new();
    for interface in interfaces.into_iter().filter(|name| !own(name)) {
        let socket = sockets.socket(&interface);
        let device = uapi::query(&socket, daemon::Clock.unix_milliseconds() / 1000)
            .map_err(|error| failure(&socket.display().to_string(), &error))?;
        shown.push((interface, device));
    }
    if let Some((interface, mut device)) = told
        && sockets.interface.as_ref().is_none_or(|wanted| *wanted == interface)
    {
        if let Some(probed) = &probed {
            take_results(probed, &mut device);
        }
        shown.push((interface, device));
    }
    shown.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (position, (interface, device)) in shown.into_iter().enumerate() {
        if position > 0 && !console.is_json() {
            console.line("")?;
        }
        let peers_up = device.peers.iter().filter(|peer| peer.state() == State::Up).count();
        let interface = Interface { interface, peers_up, device };
        console.report(&interface, |it| table::text(&it.interface, &it.device))?;
    }
    Ok(())
}

pub(crate) fn failure(socket: &str, error: &QueryError) -> Failure {
    let message = format!("{socket}: {error}");
    match error {
        QueryError::NotRunning(_) | QueryError::Errno(_) => Failure::failed(message),
        QueryError::NotAllowed(_) | QueryError::Broken(_) | QueryError::Malformed { .. } => {
            Failure::cannot_tell(message)
        }
    }
}

/// What came of the probes, from wgd's answer.
fn take_results(probed: &Value, device: &mut DeviceView) {
    for result in probed["peers"].as_array().into_iter().flatten() {
        let is = |peer: &&mut uapi::PeerView| result["public_key"] == peer.public_key.as_str();
        if let Some(peer) = device.peers.iter_mut().find(is) {
            peer.probe = result["result"].as_str().map(str::to_owned);
            if let Some(round_trip) = result["rtt_ms"].as_f64() {
                (peer.rtt_ms, peer.rtt_from) = (Some(round_trip), Some("probe".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::uapi::PeerView;

    #[test]
    fn results_go_to_their_peers() {
        let peer = |key: &str| PeerView { public_key: key.into(), ..PeerView::default() };
        let mut device = DeviceView { peers: vec![peer("A="), peer("B=")], ..DeviceView::default() };
        let probed = json!({"peers": [
            {"public_key": "B=", "result": "answered", "rtt_ms": 2.5},
            {"public_key": "A=", "result": "no answer", "rtt_ms": null},
        ]});
        take_results(&probed, &mut device);
        assert_eq!((device.peers[0].probe.as_deref(), device.peers[0].rtt_ms), (Some("no answer"), None));
        assert_eq!((device.peers[1].probe.as_deref(), device.peers[1].rtt_ms), (Some("answered"), Some(2.5)));
    }
}
