//! `culvert key rotate`: wgd does it, this asks for it and shows how it goes.
//!
//! Invariant: no key passes through here; wgd makes it, tells its peer inside the tunnel and writes it down.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::admin;
use crate::console::{Console, printable};
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct RotateArguments {
    /// The pre-shared key of each peer [default: the static key]
    #[arg(long, conflicts_with = "static_key")]
    psk: bool,
    /// This host's static key, whose public half all peers have
    #[arg(long = "static")]
    static_key: bool,
    /// With --psk: of this peer alone (name or public key)
    #[arg(long, value_name = "NAME|KEY")]
    peer: Option<String>,
    /// No overlap: the old key is gone at once and on the deny list of this host and of its peers
    #[arg(long)]
    compromised: bool,
    /// The interface that wgd is expected to have
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// wgd's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/wgd.sock")]
    wgd_socket: PathBuf,
}

pub(super) fn run(arguments: &RotateArguments, console: Console) -> Result<(), Failure> {
    if arguments.peer.is_some() && !arguments.psk {
        return Err(Failure::usage("--peer goes with --psk: the static key is the same for all peers"));
    }
    let asked = json!({
        "kind": if arguments.psk { "psk" } else { "static" },
        "peer": arguments.peer,
        "compromised": arguments.compromised,
        "interface": arguments.interface,
    });
    let verdict = admin::call(&arguments.wgd_socket, "rotate", asked, &[], |item| {
        if console.is_json() { console.json_line(&item) } else { console.line(&step(&item)) }
    })?;
    if console.is_json() {
        console.json_line(&verdict)?
    } else {
        console.line(&told(&verdict))?
    }
    match verdict["result"].as_str() {
        Some("rotated") => Ok(()),
        Some("pending") => Err(Failure::cannot_tell("the rotation is not finished yet")),
        Some(_) | None => Err(Failure::failed("the key is not in force with every peer")),
    }
}

fn name_of(peer: &Value) -> String {
    let name = peer["peer"].as_str().or(peer["public_key"].as_str()).unwrap_or("?");
    printable(name)
}

fn step(item: &Value) -> String {
    format!("{}: {}", name_of(item), printable(item["step"].as_str().unwrap_or("?")))
}

fn told(verdict: &Value) -> String {
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let mut lines = vec![match verdict["message"].as_str() {
        Some(message) => format!("{}: {}", text(&verdict["result"]), printable(message)),
        None => text(&verdict["result"]),
    }];
    for peer in verdict["peers"].as_array().into_iter().flatten() {
        lines.push(format!("{}: {}: {}", name_of(peer), text(&peer["outcome"]), text(&peer["message"])));
    }
    if verdict["public_key"].is_string() {
        lines.push(format!("public key: {}", text(&verdict["public_key"])));
    }
    if verdict["kept"].is_string() {
        lines.push(format!("kept: {}", text(&verdict["kept"])));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_names_each_peer_and_what_to_do() {
        let verdict = json!({
            "result": "degraded",
            "public_key": "NEW=",
            "kept": "on disk",
            "peers": [{ "peer": "old1", "outcome": "not-wgd", "message": "give it our public key" }],
        });
        assert_eq!(
            told(&verdict),
            "degraded\nold1: not-wgd: give it our public key\npublic key: NEW=\nkept: on disk"
        );
    }
}
