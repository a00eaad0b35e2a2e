//! What `wg` writes and reads back: many prefixes, many peers, keys, and the rules about the own key.
//!
//! ```text
//!  middle
//!  wg ── /run/wireguard/wg0.sock ── wgd ── wg0
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::trio::{INTERFACE, Station, Trio, ping};
use culvert_netns::wait;
use culvert_netns::wireguard::{self, KeyPair};

/// wgd stays the user who starts it, as other implementations do, and says so.
const STOCK: &[&str] = &["no user is configured"];

/// Points of small order on Curve25519 (RFC 7748, section 6.1 leaves them to the application), as public keys: a shared
/// secret with one of them is zero or one of few values.
const LOW_ORDER_KEYS: [&str; 7] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7f///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
];

fn main() -> ExitCode {
    let scenario =
        |name, run: fn(&Scene) -> Result<()>| Scenario::new(name, run).needs(&["wgd"]).expecting(STOCK);
    runner::main(&[
        scenario("one_peer_with_130560_prefixes_is_read_back", many_prefixes),
        scenario("forty_peers_with_52_prefixes_each_are_read_back", forty_peers),
        scenario("thirty_peers_are_shown_as_configuration", thirty_peers),
        scenario("a_peer_with_197_prefixes_stands_beside_one_without", prefixes_and_none),
        scenario("an_interface_that_does_not_exist_is_an_error", no_such_interface),
        scenario("keys_are_read_back", keys_read_back),
        scenario("dev_null_clears_keys", keys_cleared),
        scenario("the_own_key_is_no_peer", own_key),
        scenario("a_private_key_is_shown_clamped", clamped),
        scenario("overlapping_prefixes_are_replaced", overlapping),
        scenario("peers_with_low_order_keys_are_accepted_and_sent_nothing", low_order_keys),
        scenario("a_life_of_changes_leaves_no_descriptor_and_no_thread", no_leaks),
    ])
}

/// One station, whose wgd has not been configured.
fn alone(scene: &Scene) -> Result<(Trio, Running)> {
    let trio = Trio::build(&scene.lab)?;
    let running = trio.left.start(INTERFACE)?;
    Ok((trio, running))
}

fn setconf(station: &Station, text: &str) -> Result<()> {
    let path = station.file("new.conf", text)?;
    station.host.execute(&format!("wg setconf {INTERFACE} {path}")).map(drop)
}

/// Keys that nobody has: any 32 bytes are a public key.
fn public_key(number: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("cHVibGlja2V5");
    for digit in [number / 64 % 64, number % 64] {
        text.push(char::from(ALPHABET[digit]));
    }
    text + &"A".repeat(29) + "="
}

/// The prefixes of each peer, as `wg show allowed-ips` prints them.
fn shown_prefixes(station: &Station) -> Result<BTreeMap<String, Vec<String>>> {
    // The longest answer is longer than the harness keeps of one line of a program's output.
    let script = format!("wg show {INTERFACE} allowed-ips | tr '\\t ' '\\n\\n'");
    station.host.run(&["sh", "-c", &format!("{script} > /run/shown")])?.success()?;
    let mut peers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut peer = String::new();
    for word in station.host.read("/run/shown")?.split_whitespace() {
        if word.len() == 44 && word.ends_with('=') {
            peer = word.to_owned();
            peers.entry(peer.clone()).or_default();
        } else {
            peers.entry(peer.clone()).or_default().push(word.to_owned());
        }
    }
    Ok(peers)
}

fn many_prefixes(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    let mut text = format!(
        "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\n",
        trio.left.keys.private, trio.right.keys.public
    );
    for a in 1..=255 {
        for b in 0..=255 {
            // As in the kernel's test, where b is written in decimal digits after the colons.
            writeln!(text, "AllowedIPs = {a}.{b}.0.0/16,{a}::{b}/128").context("write")?;
        }
    }
    setconf(&trio.left, &text)?;
    let shown = shown_prefixes(&trio.left)?;
    let prefixes = shown.get(&trio.right.keys.public).context("the peer is not there")?;
    ensure!(shown.len() == 1 && prefixes.len() == 255 * 256 * 2, "{} prefixes", prefixes.len());
    Ok(())
}

fn forty_peers(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    let mut text = format!("[Interface]\nPrivateKey = {}\n", trio.left.keys.private);
    for a in 1..=40 {
        writeln!(text, "[Peer]\nPublicKey = {}", public_key(a)).context("write")?;
        for b in 1..=52 {
            writeln!(text, "AllowedIPs = {a}.{b}.0.0/16").context("write")?;
        }
    }
    setconf(&trio.left, &text)?;
    let shown = shown_prefixes(&trio.left)?;
    ensure!(shown.len() == 40, "{} peers", shown.len());
    for (peer, prefixes) in shown {
        ensure!(prefixes.len() == 52, "{peer} has {prefixes:?}");
    }
    Ok(())
}

fn thirty_peers(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    let mut text = String::new();
    for number in 1..=30 {
        writeln!(text, "[Peer]\nPublicKey = {}", public_key(number)).context("write")?;
    }
    text.push_str("AllowedIPs = 255.2.3.4/32,abcd::255/128\n");
    setconf(&trio.left, &text)?;
    let shown = trio.left.host.execute(&format!("wg showconf {INTERFACE}"))?;
    ensure!(shown.matches("[Peer]").count() == 30, "{shown}");
    ensure!(shown.contains("AllowedIPs = 255.2.3.4/32, abcd::255/128"), "{shown}");
    Ok(())
}

fn prefixes_and_none(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    let (first, second) = (&trio.left.keys.public, &trio.right.keys.public);
    let prefixes: Vec<String> = (1..=197).map(|number| format!("abcd::{number}")).collect();
    trio.left.set(&format!("peer {first}"))?;
    trio.left.set(&format!("peer {second} allowed-ips {}", prefixes.join(",")))?;
    let shown = trio.left.show("allowed-ips")?;
    let lines: Vec<&str> = shown.lines().collect();
    let [one, other] = lines[..] else { anyhow::bail!("{} lines", lines.len()) };
    ensure!(one == format!("{first}\t(none)"), "{one}");
    let (key, prefixes) = other.split_once('\t').context("no tab")?;
    ensure!(key == second && prefixes.split(' ').count() == 197, "{other}");
    Ok(())
}

fn no_such_interface(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    let (_, said) = trio.left.host.run(&["wg", "show", "doesnotexist"])?.refusal()?;
    // The reason differs between kernels with and without WireGuard of their own.
    ensure!(said.contains("Unable to access interface"), "{said}");
    Ok(())
}

/// Sets a private key and a peer with a preshared key.
fn set_keys(trio: &Trio) -> Result<()> {
    let key = trio.left.file("key", &trio.left.keys.private)?;
    let psk = trio.left.file("psk", trio.preshared_key())?;
    trio.left.set(&format!("private-key {key} peer {} preshared-key {psk}", trio.right.keys.public))
}

fn keys_read_back(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    set_keys(&trio)?;
    ensure!(trio.left.show("private-key")? == trio.left.keys.private);
    ensure!(trio.left.show("public-key")? == trio.left.keys.public);
    ensure!(
        trio.left.show("preshared-keys")? == format!("{}\t{}", trio.right.keys.public, trio.preshared_key())
    );
    Ok(())
}

fn keys_cleared(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    set_keys(&trio)?;
    trio.left
        .set(&format!("private-key /dev/null peer {} preshared-key /dev/null", trio.right.keys.public))?;
    ensure!(trio.left.show("private-key")? == "(none)");
    ensure!(trio.left.show("preshared-keys")? == format!("{}\t(none)", trio.right.keys.public));
    Ok(())
}

fn own_key(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    let own = &trio.right.keys;
    let (first, second) =
        (trio.left.file("first", &trio.left.keys.private)?, trio.left.file("second", &own.private)?);
    trio.left.set(&format!("private-key {first} peer {}", own.public))?;
    ensure!(trio.left.show("peers")? == own.public);
    // A peer goes when its key becomes the interface's own,
    trio.left.set(&format!("private-key {second}"))?;
    ensure!(trio.left.show("public-key")? == own.public);
    ensure!(trio.left.show("peers")?.is_empty(), "a peer has the interface's own key");
    // cannot be added while it is,
    trio.left.set(&format!("peer {}", own.public))?;
    ensure!(trio.left.show("peers")?.is_empty(), "a peer was added with the interface's own key");
    // and can when it is no more.
    trio.left.set(&format!("private-key {first}"))?;
    trio.left.set(&format!("peer {}", own.public))?;
    ensure!(trio.left.show("peers")? == own.public);
    Ok(())
}

fn clamped(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    // The first six bits of the first byte, all set: the three lowest bits of a private key are cleared (RFC 7748, 5).
    let rest = &trio.left.keys.private[1..];
    let key = trio.left.file("key", &format!("/{rest}"))?;
    trio.left.set(&format!("private-key {key}"))?;
    let shown = trio.left.show("private-key")?;
    // '/' is 63, '+' is 62: the third-lowest bit of the byte is the lowest of the first digit.
    ensure!(shown == format!("+{rest}"), "another key than the clamped one is shown");
    Ok(())
}

fn overlapping(scene: &Scene) -> Result<()> {
    let (trio, _running) = alone(scene)?;
    let peer = &trio.right.keys.public;
    for (many, one) in [
        ("0.0.0.0/0,10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16", "0.0.0.0/0"),
        ("::/0,1700::/111,5000::/4,e000::/37,9000::/75", "::/0"),
    ] {
        trio.left.set(&format!("peer {peer} allowed-ips {many}"))?;
        let shown = shown_prefixes(&trio.left)?;
        ensure!(shown[peer].len() == 5, "{shown:?}");
        trio.left.set(&format!("peer {peer} allowed-ips {one}"))?;
        let shown = shown_prefixes(&trio.left)?;
        ensure!(shown[peer] == [one], "{shown:?}");
    }
    trio.left.set(&format!("peer {peer} remove"))?;
    ensure!(trio.left.show("peers")?.is_empty());
    Ok(())
}

fn low_order_keys(scene: &Scene) -> Result<()> {
    let (trio, mut running) = alone(scene)?;
    let ear = trio.left.host.outer().within(|| {
        let ear = UdpSocket::bind("127.0.0.1:1111").context("bind")?;
        ear.set_read_timeout(Some(Duration::from_secs(2))).context("bound reads")?;
        Ok(ear)
    })?;
    let key = trio.left.file("key", &trio.left.keys.private)?;
    trio.left.set(&format!("private-key {key}"))?;
    for peer in LOW_ORDER_KEYS {
        trio.left.set(&format!("peer {peer} persistent-keepalive 1 endpoint 127.0.0.1:1111"))?;
    }
    trio.left.host.execute(&format!("ip link set {INTERFACE} up"))?;
    let shown = trio.left.show("peers")?;
    ensure!(shown.lines().count() == LOW_ORDER_KEYS.len(), "{shown}");
    // Two keepalive intervals, in which a handshake would begin.
    let heard = ear.recv_from(&mut [0; 256]);
    ensure!(heard.is_err(), "a handshake was begun with a peer whose key is of low order: {heard:?}");
    running.still_runs()?;
    // The rest of the interface is well.
    trio.left
        .set(&format!("peer {} endpoint 127.0.0.1:1111 persistent-keepalive 1", trio.right.keys.public))?;
    ear.recv_from(&mut [0; 256]).context("from a peer whose key is good")?;
    Ok(())
}

/// Open descriptors and threads of a daemon and its helpers.
fn holdings(running: &Running) -> Result<Vec<(String, usize, usize)>> {
    let count = |path: String| -> Result<usize> {
        Ok(fs::read_dir(&path).with_context(|| format!("list {path}"))?.count())
    };
    let mut all = Vec::new();
    for (pid, name) in [(running.pid(), "wgd".to_owned())].into_iter().chain(running.children()?) {
        all.push((name, count(format!("/proc/{pid}/fd"))?, count(format!("/proc/{pid}/task"))?));
    }
    Ok(all)
}

/// In place of the kernel's search for references that keep each other alive.
fn no_leaks(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let tunnels = trio.tunnel_over_loopback()?;
    let live_through = |rounds: u16| -> Result<()> {
        for round in 0..rounds {
            let port = 2000 + round;
            trio.right.set(&format!("listen-port {port} fwmark {}", round + 1))?;
            trio.left.set(&format!("peer {} endpoint 127.0.0.1:{port}", trio.right.keys.public))?;
            let other = KeyPair::generate(&trio.right.host)?.public;
            trio.right.set(&format!("peer {other} allowed-ips 10.9.0.0/16 endpoint 127.0.0.1:9"))?;
            ping(&trio.left.host, trio.right.inner.v4)?;
            trio.right.set(&format!("peer {other} remove"))?;
            let key = trio.left.file("key", &trio.left.keys.private)?;
            trio.left.set(&format!("private-key {key}"))?;
            wireguard::show(&trio.right.host, INTERFACE)?;
        }
        Ok(())
    };
    // Caches and lazily started parts are there after the first rounds.
    live_through(2)?;
    let settled = || -> Result<_> { Ok([holdings(&tunnels.left)?, holdings(&tunnels.right)?]) };
    let before = settled()?;
    live_through(12)?;
    wait::until("as few descriptors and threads as before", Duration::from_secs(5), || {
        let after = settled()?;
        ensure!(after == before, "before {before:?}, after {after:?}");
        Ok(())
    })?;
    for running in [tunnels.left, tunnels.right] {
        let status = running.stop()?;
        ensure!(status.success(), "wgd ended with {status}");
    }
    ensure!(!trio.left.host.path("/run/wireguard/wg0.sock").exists(), "a socket is left");
    let links = trio.left.host.execute("ip -oneline link")?;
    ensure!(!links.contains(INTERFACE), "an interface is left: {links}");
    Ok(())
}
