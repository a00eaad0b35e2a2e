//! WireGuard by the stock tools: keys, `wg show`, and wireguard-go as the other side.

use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::host::{Host, Place};
use crate::lab::{tool_of_host, tools};
use crate::program::Running;

/// A key pair, in WireGuard's base64.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

impl KeyPair {
    /// A new pair, by `wg genkey` and `wg pubkey`.
    pub fn generate(host: &Host) -> Result<KeyPair> {
        let made = host.run(&["sh", "-c", "k=$(wg genkey); echo $k; echo $k | wg pubkey"])?.success()?;
        let (private, public) = made.split_once('\n').context("wg printed no pair")?;
        Ok(KeyPair { private: private.to_owned(), public: public.trim().to_owned() })
    }
}

/// A new preshared key.
pub fn generate_preshared_key(host: &Host) -> Result<String> {
    Ok(host.run(&["wg", "genpsk"])?.success()?.trim().to_owned())
}

/// A peer as `wg show <if> dump` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownPeer {
    /// Its public key.
    pub public_key: String,
    /// Whether it has a preshared key.
    pub has_preshared_key: bool,
    /// Where it is.
    pub endpoint: Option<String>,
    /// The addresses behind it.
    pub allowed_ips: Vec<String>,
    /// Seconds since the epoch of its last handshake; 0 for none.
    pub latest_handshake: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Seconds between keep-alives.
    pub keepalive: Option<u16>,
}

/// The peers of `interface`, as the stock tool sees them.
pub fn show(host: &Host, interface: &str) -> Result<Vec<ShownPeer>> {
    parse_dump(&host.run(&["wg", "show", interface, "dump"])?.success()?)
}

/// Reads what `wg show <if> dump` prints.
pub(crate) fn parse_dump(dump: &str) -> Result<Vec<ShownPeer>> {
    dump.lines().skip(1).map(|line| parse_peer(line).with_context(|| format!("read `{line}`"))).collect()
}

fn parse_peer(line: &str) -> Result<ShownPeer> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [key, psk, endpoint, allowed, handshake, received, sent, keepalive] = fields[..] else {
        anyhow::bail!("{} fields", fields.len());
    };
    Ok(ShownPeer {
        public_key: key.to_owned(),
        has_preshared_key: psk != "(none)",
        endpoint: (endpoint != "(none)").then(|| endpoint.to_owned()),
        allowed_ips: allowed.split(',').map(str::to_owned).collect(),
        latest_handshake: handshake.parse().context("the handshake's time")?,
        received: received.parse().context("bytes received")?,
        sent: sent.parse().context("bytes sent")?,
        keepalive: keepalive.parse().ok(),
    })
}

/// Debian's wireguard-go on a host: its device is `interface`, in the host's outer network, configured by `wg setconf`
/// from `/etc/wireguard/<interface>.conf` without wg-quick's own keys.
pub fn start_wireguard_go(host: &Host, interface: &str, address: &str, config: &str) -> Result<Running> {
    start_other(&["wireguard-go"], host, interface, address, config)
}

/// Mullvad's gotatun, the same way (`cargo xtask test slow` builds it).
pub fn start_gotatun(host: &Host, interface: &str, address: &str, config: &str) -> Result<Running> {
    let program = tool_of_host(&tools()?.join("bin/gotatun"))?;
    // Else it becomes whoever logged in, and nobody did.
    start_other(&[&program, "--disable-drop-privileges"], host, interface, address, config)
}

/// Any daemon that `wg` can configure, which makes `interface` when it is started as `COMMAND -f INTERFACE`.
pub fn start_other(
    command: &[&str],
    host: &Host,
    interface: &str,
    address: &str,
    config: &str,
) -> Result<Running> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let path = format!("/etc/wireguard/{interface}.conf");
    host.write_secret(&path, config)?;
    let mut running = host
        .program(program)
        .arguments(arguments)
        .arguments(&["-f", interface])
        .variable("WG_PROCESS_FOREGROUND", "1")
        .start()?;
    running.until("answer on its socket", Duration::from_secs(10), || {
        host.run(&["wg", "show", interface, "listen-port"])?.success()
    })?;
    host.run(&["wg", "setconf", interface, &path])?.success()?;
    host.run(&["ip", "address", "add", address, "dev", interface])?.success()?;
    host.run(&["ip", "link", "set", interface, "mtu", "1420", "up"])?.success()?;
    Ok(running)
}

/// Pings `address` until one answer came; fails after `bound`.
pub fn ping(host: &Host, place: Place, address: &str, bound: Duration) -> Result<()> {
    let seconds = bound.as_secs().max(1).to_string();
    // With -w, -c counts answers, and success means that it got them.
    host.run_at(place, &["ping", "-c", "1", "-i", "0.2", "-w", &seconds, address])?.success().map(drop)
}

/// The keys of a configuration as they stand there and as bytes.
pub fn secrets(conf: &str) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for line in conf.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        if ["PrivateKey", "PresharedKey"].contains(&key.trim()) {
            let text = value.trim();
            let bytes = STANDARD.decode(text).context("a key in base64")?;
            // A private key is clamped in its first and last byte.
            found.push(bytes[1..31].to_vec());
            found.push(text.as_bytes().to_vec());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_dump_is_read() {
        let peer = parse_peer("KEY=\t(none)\t192.0.2.1:51820\t10.0.0.1/32,fd00::/8\t17\t1\t2\toff").unwrap();
        assert_eq!(peer.allowed_ips, ["10.0.0.1/32", "fd00::/8"]);
        assert_eq!((peer.latest_handshake, peer.received, peer.sent, peer.keepalive), (17, 1, 2, None));
        assert!(!peer.has_preshared_key);
    }
}
