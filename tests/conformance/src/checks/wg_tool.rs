//! The stock tool's own commands and files (§1.2).

use anyhow::{Context as _, Result, ensure};
use culvert_netns::wait;

use crate::check::{Check, Section};
use crate::keys::{OTHER, OWN, PRESHARED, THIRD, base64};
use crate::pair::{OTHER_INNER, OTHER_OUTER, PORT, Pair};
use crate::stage::{INTERFACE, SOON, Stage};
use crate::uapi::Uapi;

pub(super) const CHECKS: &[Check] = &[
    check("setconf_and_showconf_are_a_round_trip", |stage| {
        let daemon = stage.start()?;
        let file = conf();
        setconf(stage, "setconf", &file)?;
        let shown = showconf(stage)?;
        ensure!(lines(&shown) == lines(&file), "{shown}");
        let before = daemon.get()?;
        setconf(stage, "setconf", &shown)?;
        ensure!(sorted(&daemon.get()?) == sorted(&before), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("addconf_adds_and_keeps_what_is_there", |stage| {
        let daemon = stage.start()?;
        setconf(stage, "setconf", &conf())?;
        let more = format!("[Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.0/16\n", base64(OWN.public));
        // The private key is OWN's: a peer of that key would be ignored, so it becomes another's.
        daemon.set(&format!("private_key={}\n", THIRD.private))?;
        setconf(stage, "addconf", &more)?;
        let answer = daemon.get()?;
        ensure!(answer.device("listen_port") == Some("41820"), "{answer:?}");
        ensure!(answer.peer(OWN.public)?.allowed_ips() == ["10.9.0.0/16"], "{answer:?}");
        ensure!(answer.peer(OTHER.public)?.value("preshared_key") == Some(PRESHARED), "{answer:?}");
        Ok(())
    }),
    check("syncconf_keeps_sessions_and_removes_stale_peers", |stage| {
        let pair = Pair::with_session(stage)?;
        pair.subject.set(&format!("public_key={}\nallowed_ip=10.7.0.0/16\n", THIRD.public))?;
        let before = pair.transfer()?;
        let file = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\n[Peer]\nPublicKey = {}\n\
             AllowedIPs = {OTHER_INNER}/32, 10.8.0.0/16\nEndpoint = {OTHER_OUTER}:{PORT}\n",
            base64(OWN.private),
            base64(OTHER.public)
        );
        setconf(stage, "syncconf", &file)?;
        let answer = pair.subject.get()?;
        ensure!(answer.public_keys() == [OTHER.public], "{answer:?}");
        ensure!(answer.peer(OTHER.public)?.allowed_ips().len() == 2, "{answer:?}");
        pair.ping_at_once()?;
        let after = pair.transfer()?;
        // One ping each way: a new handshake would have cost 148 and 92 more.
        ensure!((after.0 - before.0, after.1 - before.1) == (128, 128), "{before:?}, then {after:?}");
        Ok(())
    }),
    check("setconf_replaces_peers", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\n", THIRD.public))?;
        setconf(stage, "setconf", &format!("[Peer]\nPublicKey = {}\n", base64(OTHER.public)))?;
        ensure!(daemon.get()?.public_keys() == [OTHER.public], "{:?}", daemon.get()?);
        Ok(())
    }),
    check("wg_set_reaches_every_key", |stage| {
        let daemon = stage.start()?;
        stage.host().write_secret("/etc/wireguard/key", base64(OWN.private))?;
        stage.host().write_secret("/etc/wireguard/psk", base64(PRESHARED))?;
        let peer = base64(OTHER.public);
        let set = ["wg", "set", INTERFACE, "listen-port", "41820", "fwmark", "0x17", "private-key"];
        let keys = ["/etc/wireguard/key", "peer", &peer, "preshared-key", "/etc/wireguard/psk"];
        let rest =
            ["endpoint", "192.0.2.9:7", "persistent-keepalive", "25", "allowed-ips", "10.1.2.3/8,fd00::/8"];
        stage.run(&[&set[..], &keys[..], &rest[..]].concat())?.success()?;
        let answer = daemon.get()?;
        ensure!(answer.device("private_key") == Some(OWN.private), "{answer:?}");
        ensure!(answer.device("fwmark") == Some("23"), "{answer:?}");
        let shown = answer.peer(OTHER.public)?;
        ensure!(shown.value("preshared_key") == Some(PRESHARED), "{answer:?}");
        ensure!(shown.value("endpoint") == Some("192.0.2.9:7"), "{answer:?}");
        ensure!(shown.value("persistent_keepalive_interval") == Some("25"), "{answer:?}");
        ensure!(shown.allowed_ips() == ["10.0.0.0/8", "fd00::/8"], "{answer:?}");
        Ok(())
    }),
    check("wg_set_clears_keys_mark_and_peers", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "private_key={}\nfwmark=7\npublic_key={}\npreshared_key={PRESHARED}\nallowed_ip=10.0.0.0/8\n",
            OWN.private, OTHER.public
        ))?;
        let peer = base64(OTHER.public);
        let device = ["wg", "set", INTERFACE, "private-key", "/dev/null", "fwmark", "off"];
        let section = ["peer", &peer, "preshared-key", "/dev/null", "allowed-ips", ""];
        stage.run(&[&device[..], &section[..]].concat())?.success()?;
        let answer = daemon.get()?;
        ensure!(answer.device("private_key").is_none() && answer.device("fwmark").is_none(), "{answer:?}");
        let shown = answer.peer(OTHER.public)?;
        ensure!(shown.value("preshared_key") == Some(crate::keys::ZERO), "{answer:?}");
        ensure!(shown.allowed_ips().is_empty(), "{answer:?}");
        stage.run(&["wg", "set", INTERFACE, "peer", &peer, "remove"])?.success()?;
        ensure!(daemon.get()?.peers().is_empty(), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("wg_show_finds_the_interface_by_its_socket", |stage| {
        let _daemon = stage.start()?;
        let shown = stage.run(&["wg", "show", "interfaces"])?.success()?;
        ensure!(shown.trim() == INTERFACE, "{shown}");
        let all = stage.run(&["wg", "show", "all", "dump"])?.success()?;
        ensure!(all.starts_with(INTERFACE), "{all}");
        let missing = stage.run(&["wg", "show", "doesnotexist"])?;
        ensure!(!missing.status.success(), "{}", missing.output);
        Ok(())
    }),
    check("wg_show_derives_the_public_key", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("private_key={}\n", OWN.private))?;
        let shown = stage.run(&["wg", "show", INTERFACE, "public-key"])?.success()?;
        ensure!(shown.trim() == base64(OWN.public), "{shown}");
        Ok(())
    }),
    check("wg_show_tells_transfer_and_handshake", |stage| {
        let pair = Pair::with_session(stage)?;
        let (rx, tx) = pair.transfer()?;
        let shown = stage.run(&["wg", "show", INTERFACE, "transfer"])?.success()?;
        ensure!(shown.trim() == format!("{}\t{rx}\t{tx}", base64(OTHER.public)), "{shown}");
        let shown = stage.run(&["wg", "show", INTERFACE, "latest-handshakes"])?.success()?;
        ensure!(!shown.trim().ends_with("\t0"), "{shown}");
        Ok(())
    }),
    check("wg_quick_raises_and_ends_it", |stage| {
        let own = base64(OWN.private);
        let peer = base64(OTHER.public);
        stage.host().write_secret(
            "/etc/wireguard/wg0.conf",
            format!(
                "[Interface]\nPrivateKey = {own}\nListenPort = 41820\nAddress = 10.100.0.10/24\nMTU = 1400\n\n\
                 [Peer]\nPublicKey = {peer}\nAllowedIPs = 10.100.0.11/32, 10.8.0.0/16\nEndpoint = 192.0.2.9:7\n"
            ),
        )?;
        let quick = |verb: &str| {
            stage
                .host()
                .program("wg-quick")
                .arguments(&[verb, INTERFACE])
                .variable("WG_QUICK_USERSPACE_IMPLEMENTATION", stage.path())
                .run(SOON)?
                .success()
        };
        quick("up")?;
        ensure!(!stage.processes()?.is_empty(), "wg-quick did not start the program");
        let answer = Uapi::connect(stage.host())?.get()?;
        ensure!(answer.device("listen_port") == Some("41820"), "{answer:?}");
        ensure!(answer.public_keys() == [OTHER.public], "{answer:?}");
        let routes = stage.run(&["ip", "route", "show", "dev", INTERFACE])?.success()?;
        ensure!(routes.contains("10.8.0.0/16"), "{routes}");
        quick("down")?;
        wait::until("the program to end", SOON, || {
            ensure!(stage.processes()?.is_empty(), "it runs");
            Ok(())
        })
    }),
    check("showconf_with_thirty_peers", |stage| {
        let daemon = stage.start()?;
        let mut file = String::from("[Interface]\nListenPort = 41820\n");
        let mut keys = Vec::new();
        for index in 1..=30_u8 {
            let mut key = String::from(THIRD.public);
            key.replace_range(0..2, &format!("{index:02x}"));
            file += &format!("[Peer]\nPublicKey = {}\nAllowedIPs = 10.{index}.0.0/16\n", base64(&key));
            keys.push(key);
        }
        setconf(stage, "setconf", &file)?;
        let shown = showconf(stage)?;
        ensure!(lines(&shown) == lines(&file), "{shown}");
        ensure!(daemon.get()?.public_keys().len() == 30, "{:?}", daemon.get()?);
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Set, name, run)
}

fn conf() -> String {
    format!(
        "[Interface]\nListenPort = 41820\nFwMark = 0x17\nPrivateKey = {}\n\n[Peer]\nPublicKey = {}\n\
         PresharedKey = {}\nAllowedIPs = 10.0.0.0/8\nEndpoint = 192.0.2.9:7\nPersistentKeepalive = 25\n",
        base64(OWN.private),
        base64(OTHER.public),
        base64(PRESHARED)
    )
}

fn setconf(stage: &Stage<'_>, command: &str, file: &str) -> Result<()> {
    stage.host().write_secret("/etc/wireguard/plain", file)?;
    stage.run(&["wg", command, INTERFACE, "/etc/wireguard/plain"])?.success().map(drop)
}

fn showconf(stage: &Stage<'_>) -> Result<String> {
    stage.run(&["wg", "showconf", INTERFACE])?.success().context("showconf")
}

/// The lines that say something, in any order.
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines
}

fn sorted(answer: &crate::answer::Answer) -> Vec<(String, String)> {
    let mut lines = answer.lines().to_vec();
    lines.sort();
    lines
}
