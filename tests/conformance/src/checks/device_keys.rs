//! `set=1` on the device: keys, port, mark (§1.2).

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};

use crate::check::{Check, Section};
use crate::daemon::{Daemon, bound, is_free};
use crate::keys::{OTHER, OWN, THIRD, ZERO};
use crate::pair::{OTHER_INNER, PORT, Pair};
use crate::stage::{SOON, Stage};

pub(super) const CHECKS: &[Check] = &[
    check("zeros_remove_the_private_key", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("private_key={}\n", OWN.private))?;
        daemon.set(&format!("private_key={ZERO}\n"))?;
        ensure!(daemon.get()?.device("private_key").is_none(), "it is still there");
        Ok(())
    }),
    check("peer_with_the_own_key_is_ignored_on_create", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("private_key={}\n", OWN.private))?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.1/32\n", OWN.public))?;
        ensure!(daemon.get()?.peers().is_empty(), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("section_of_the_own_key_is_ignored_as_a_whole", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "private_key={}\npublic_key={}\nallowed_ip=10.0.0.1/32\nendpoint=192.0.2.9:1\n\
             persistent_keepalive_interval=3\npublic_key={}\nallowed_ip=10.0.0.2/32\n",
            OWN.private, OWN.public, OTHER.public
        ))?;
        let answer = daemon.get()?;
        ensure!(answer.public_keys() == [OTHER.public], "{answer:?}");
        let peer = answer.peer(OTHER.public)?;
        ensure!(peer.allowed_ips() == ["10.0.0.2/32"] && peer.value("endpoint").is_none(), "{answer:?}");
        Ok(())
    }),
    check("peer_is_removed_when_the_private_key_becomes_its_own", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\npublic_key={}\n", OWN.public, OTHER.public))?;
        ensure!(daemon.get()?.peers().len() == 2, "{:?}", daemon.get()?);
        daemon.set(&format!("private_key={}\n", OWN.private))?;
        ensure!(daemon.get()?.public_keys() == [OTHER.public], "{:?}", daemon.get()?);
        Ok(())
    }),
    check("peer_may_come_before_the_private_key", |stage| {
        let pair = Pair::start(stage)?;
        pair.subject.set(&format!("private_key={ZERO}\nreplace_peers=true\n"))?;
        pair.subject.set(&Pair::peer_lines())?;
        pair.subject.set(&format!("private_key={}\n", OWN.private))?;
        pair.ping_out()
    }),
    check("new_private_key_takes_effect_at_once", |stage| {
        let pair = Pair::with_session(stage)?;
        pair.reference.set(&format!(
            "public_key={}\nremove=true\npublic_key={}\nallowed_ip={}/32\n",
            OWN.public,
            THIRD.public,
            crate::pair::INNER
        ))?;
        pair.subject.set(&format!("private_key={}\n", THIRD.private))?;
        // A session of the old key, or a secret shared by it, would be of no use here.
        pair.ping_out()
    }),
    check("listen_port_binds_both_families", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\n")?;
        ensure!(bound(stage.host(), 41820)? == [true, true], "{:?}", bound(stage.host(), 41820)?);
        ensure!(daemon.port()? == 41820, "another port is shown");
        Ok(())
    }),
    check("new_listen_port_frees_the_old_one", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\n")?;
        daemon.set("listen_port=41821\n")?;
        ensure!(bound(stage.host(), 41821)? == [true, true], "the new port is not bound");
        is_free(stage.host(), 41820)
    }),
    check("port_0_becomes_a_real_port_that_is_shown", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\n")?;
        daemon.set("listen_port=0\n")?;
        let port = daemon.port()?;
        ensure!(port != 0 && port != 41820, "port {port}");
        ensure!(bound(stage.host(), port)? == [true, true], "port {port} is not bound");
        Ok(())
    }),
    check("same_port_again_is_no_error", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\n")?;
        daemon.set("listen_port=41820\n")
    }),
    check("port_in_use_is_minus_98", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\n")?;
        let _taken = take(stage, 41821)?;
        daemon.refuses("listen_port=41821\n", -98)
    }),
    check("port_in_use_leaves_the_old_socket", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\n")?;
        let _taken = take(stage, 41821)?;
        daemon.set_for_errno("listen_port=41821\n")?;
        ensure!(daemon.port()? == 41820, "port {} is shown", daemon.port()?);
        ensure!(bound(stage.host(), 41820)? == [true, true], "the old port is not bound any more");
        Ok(())
    }),
    check("port_in_use_applies_nothing_of_the_request", |stage| {
        let daemon = up(stage)?;
        let before = daemon.get()?;
        let _taken = take(stage, 41821)?;
        let body = format!("private_key={}\nlisten_port=41821\npublic_key={}\n", OWN.private, OTHER.public);
        daemon.refuses(&body, -98)?;
        ensure!(daemon.get()? == before, "{:?}", daemon.get()?);
        Ok(())
    }),
    check("session_survives_a_new_port", |stage| {
        let pair = Pair::with_session(stage)?;
        pair.subject.set("listen_port=41820\n")?;
        pair.ping_at_once()?;
        let answer = pair.reference.get()?;
        ensure!(answer.peer(OWN.public)?.value("endpoint") == Some("192.0.2.1:41820"), "{answer:?}");
        Ok(())
    }),
    check("fwmark_is_on_both_sockets", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\nfwmark=51820\n")?;
        ensure!(marks(stage, 41820)? == ["0xca6c", "0xca6c"], "{:?}", marks(stage, 41820)?);
        Ok(())
    }),
    check("fwmark_stays_when_the_port_changes", |stage| {
        let daemon = up(stage)?;
        daemon.set("fwmark=51820\n")?;
        daemon.set("listen_port=41821\n")?;
        ensure!(marks(stage, 41821)? == ["0xca6c", "0xca6c"], "{:?}", marks(stage, 41821)?);
        Ok(())
    }),
    check("fwmark_0_clears_it", |stage| {
        let daemon = up(stage)?;
        daemon.set("listen_port=41820\nfwmark=51820\n")?;
        daemon.set("fwmark=0\n")?;
        ensure!(marks(stage, 41820)?.is_empty(), "{:?}", marks(stage, 41820)?);
        Ok(())
    }),
    check("fwmark_can_be_set_with_a_session", |stage| {
        let pair = Pair::with_session(stage)?;
        pair.subject.set("fwmark=7\n")?;
        ensure!(marks(stage, PORT)? == ["0x7", "0x7"], "{:?}", marks(stage, PORT)?);
        pair.ping_at_once()
    }),
    check("replace_peers_removes_the_others", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.1/32\n", OTHER.public))?;
        daemon.set(&format!("replace_peers=true\npublic_key={}\n", THIRD.public))?;
        ensure!(daemon.get()?.public_keys() == [THIRD.public], "{:?}", daemon.get()?);
        daemon.set("replace_peers=true\n")?;
        ensure!(daemon.get()?.peers().is_empty(), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("nothing_is_sent_without_a_private_key", |stage| {
        let daemon = up(stage)?;
        let ear = crate::wire::Ear::listen(stage.router(), "192.0.2.2:5000")?;
        daemon.set(&format!(
            "public_key={}\nendpoint=192.0.2.2:5000\nallowed_ip={OTHER_INNER}/32\npersistent_keepalive_interval=1\n",
            OTHER.public
        ))?;
        ear.hears_nothing(std::time::Duration::from_millis(400))?;
        daemon.set(&format!("private_key={}\n", OWN.private))?;
        // With a key, traffic or the keepalive begins.
        stage.run(&["ping", "-c", "1", "-W", "0.3", OTHER_INNER])?;
        ear.hears_an_initiation(SOON)
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Set, name, run)
}

/// Running, with its interface up: some bind only then.
fn up<'a>(stage: &Stage<'a>) -> Result<Daemon<'a>> {
    let daemon = stage.start()?;
    daemon.up("10.100.0.10/24")?;
    // wireguard-go learns of it from the kernel.
    crate::daemon::until_shown(&daemon, "the interface to be up", |answer| {
        answer.device("listen_port").is_some()
    })?;
    Ok(daemon)
}

fn take(stage: &Stage<'_>, port: u16) -> Result<UdpSocket> {
    stage.host().outer().within(|| UdpSocket::bind(("0.0.0.0", port)).context("take the port"))
}

/// The marks on the sockets of `port`, by the kernel's word.
fn marks(stage: &Stage<'_>, port: u16) -> Result<Vec<String>> {
    let filter = format!("sport = :{port}");
    let said = stage.run(&["ss", "-H", "-u", "-a", "-n", "-e", &filter])?.success()?;
    Ok(said
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("fwmark:"))
        .filter(|mark| *mark != "0x0")
        .map(str::to_owned)
        .collect())
}
