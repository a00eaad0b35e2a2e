//! `culvert tunnel status`.

use clap::Args;
use serde::Serialize;

use super::uapi::{self, DeviceView, PeerView, QueryError};
use super::{SocketArguments, names};
use crate::console::{Console, human_bytes, table};
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    sockets: SocketArguments,
}

/// One interface; with `--json` one object per line.
#[derive(Debug, Serialize)]
struct Interface {
    interface: String,
    #[serde(flatten)]
    device: DeviceView,
}

pub(crate) fn run(arguments: &StatusArguments, console: Console) -> Result<(), Failure> {
    let sockets = &arguments.sockets;
    let known = names::ask(&sockets.wgd_socket);
    for interface in sockets.interfaces()? {
        let socket = sockets.socket(&interface);
        let mut device = uapi::query(&socket, daemon::Clock.unix_milliseconds() / 1000)
            .map_err(|error| failure(&socket.display().to_string(), &error))?;
        names::apply(&known, &mut device);
        console.report(&Interface { interface, device }, |it| text(&it.interface, &it.device))?;
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

fn text(interface: &str, device: &DeviceView) -> String {
    let key = device.public_key.as_deref().unwrap_or("none");
    let port = device.listen_port.map_or("none".to_owned(), |port| port.to_string());
    let head = format!("{interface}  public key {key}  port {port}");
    if device.peers.is_empty() {
        return format!("{head}\nno peers");
    }
    let rows: Vec<Vec<String>> = device.peers.iter().map(row).collect();
    format!("{head}\n{}", table(&["PEER", "KEY", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT"], &rows))
}

fn row(peer: &PeerView) -> Vec<String> {
    vec![
        peer.name.as_deref().map_or("-".to_owned(), crate::console::printable),
        peer.public_key.clone(),
        peer.endpoint.as_deref().map_or("-".to_owned(), crate::console::printable),
        peer.last_handshake_age_seconds.map_or("never".to_owned(), age),
        human_bytes(peer.receive_bytes),
        human_bytes(peer.transmit_bytes),
    ]
}

/// `75` → `1m 15s ago`.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m {}s ago", seconds / 60, seconds % 60),
        _ => format!("{}h {}m ago", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_like_a_clock() {
        assert_eq!((age(5), age(75), age(7260)), ("5s ago".into(), "1m 15s ago".into(), "2h 1m ago".into()));
    }

    #[test]
    fn the_table_has_a_line_per_peer() {
        let peer = PeerView {
            name: Some("web1".into()),
            public_key: "K=".into(),
            last_handshake_age_seconds: Some(5),
            receive_bytes: 2048,
            ..PeerView::default()
        };
        let device = DeviceView { peers: vec![peer], listen_port: Some(51820), ..DeviceView::default() };
        assert_eq!(
            text("wg0", &device),
            "wg0  public key none  port 51820\n\
             PEER  KEY  ENDPOINT  HANDSHAKE  RECEIVED  SENT\n\
             web1  K=   -         5s ago     2.00 KiB  0 B"
        );
    }
}
