//! `culvert tunnel check`: one question, answered by the exit code.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::uapi::{self, DeviceView, PeerView, QueryError};
use super::{SocketArguments, names, status, wgd};
use crate::console::Console;
use crate::failure::Failure;
use crate::limits::{CHECK_TIMEOUT, SESSION_LIFE};

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    sockets: SocketArguments,
    /// A peer is up while its last handshake is younger than this
    #[arg(long, value_name = "SECONDS", default_value_t = SESSION_LIFE.as_secs())]
    max_age: u64,
    /// Look at this peer alone (name or public key)
    #[arg(long, value_name = "PEER")]
    peer: Option<String>,
}

/// One peer's verdict.
#[derive(Debug, Serialize)]
struct Verdict {
    interface: String,
    peer: String,
    up: bool,
    last_handshake_age_seconds: Option<u64>,
}

pub(crate) fn run(arguments: &CheckArguments, console: Console) -> Result<(), Failure> {
    let sockets = &arguments.sockets;
    let deadline = daemon::Clock.now() + CHECK_TIMEOUT;
    let left = || deadline.saturating_duration_since(daemon::Clock.now());
    // All at once, so that those who do not answer take their time together.
    let asked_for_names = wgd::ask(&sockets.wgd_socket);
    let asked: Vec<_> = sockets
        .interfaces()?
        .into_iter()
        .map(|interface| {
            let socket = sockets.socket(&interface);
            let answer = ask(&socket);
            (interface, socket, answer)
        })
        .collect();
    let mut devices = Vec::new();
    for (interface, socket, answer) in asked {
        let late = || Err(QueryError::Broken(std::io::ErrorKind::TimedOut.into()));
        let device = answer.recv_timeout(left()).unwrap_or_else(|_| late());
        let device = device.map_err(|error| status::failure(&socket.display().to_string(), &error))?;
        devices.push((interface, device));
    }
    let known = asked_for_names.recv_timeout(left()).map(|status| names::of(&status)).unwrap_or_default();
    let mut verdicts = Vec::new();
    for (interface, mut device) in devices {
        names::apply(&known, &mut device);
        let wanted = |peer: &&PeerView| arguments.peer.as_deref().is_none_or(|wanted| is(peer, wanted));
        let max_age = Duration::from_secs(arguments.max_age);
        verdicts.extend(device.peers.iter().filter(wanted).map(|peer| judge(&interface, peer, max_age)));
    }
    if verdicts.is_empty() {
        return Err(Failure::failed(match &arguments.peer {
            Some(peer) => format!("no peer {peer}"),
            None => "the tunnel has no peers".to_owned(),
        }));
    }
    for verdict in &verdicts {
        console.report(verdict, line)?;
    }
    match verdicts.iter().filter(|verdict| !verdict.up).count() {
        0 => Ok(()),
        down => Err(Failure::failed(format!("{down} of {} peers down", verdicts.len()))),
    }
}

/// On a thread of its own, for a daemon may hang, or answer byte by byte.
fn ask(socket: &Path) -> Receiver<Result<DeviceView, QueryError>> {
    let (sender, answer) = mpsc::channel();
    let socket: PathBuf = socket.to_owned();
    let asking = std::thread::Builder::new().name("check".to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(uapi::query(&socket, daemon::Clock.unix_milliseconds() / 1000));
    });
    // Without a thread the sender is gone, as when nobody answers in time.
    drop(asking);
    answer
}

fn is(peer: &PeerView, wanted: &str) -> bool {
    peer.public_key == wanted || peer.name.as_deref() == Some(wanted)
}

fn judge(interface: &str, peer: &PeerView, max_age: Duration) -> Verdict {
    let age = peer.last_handshake_age_seconds;
    Verdict {
        interface: interface.to_owned(),
        peer: peer.name.clone().unwrap_or_else(|| peer.public_key.clone()),
        up: age.is_some_and(|age| age < max_age.as_secs()),
        last_handshake_age_seconds: age,
    }
}

fn line(verdict: &Verdict) -> String {
    let Verdict { interface, peer, up, last_handshake_age_seconds } = verdict;
    let word = if *up { "up" } else { "DOWN" };
    let age = last_handshake_age_seconds.map_or("never".to_owned(), |age| format!("{age} s ago"));
    format!("{interface} {peer}: {word}, last handshake {age}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_up_until_its_keys_have_run_out() {
        for (age, up) in [(Some(0), true), (Some(179), true), (Some(180), false), (None, false)] {
            let peer = PeerView { last_handshake_age_seconds: age, ..PeerView::default() };
            assert_eq!(judge("wg0", &peer, SESSION_LIFE).up, up, "{age:?}");
        }
    }
}
