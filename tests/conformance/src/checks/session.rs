//! Changes under a live session, and its counters (§1.2, §1.6 10).

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::host::Place;
use culvert_netns::wait;

use crate::check::{Check, Section};
use crate::keys::{OTHER, OWN, PRESHARED};
use crate::pair::{INNER, OTHER_INNER, PORT, Pair};
use crate::stage::{INTERFACE, SOON, Stage};
use crate::wire::{DATA, Ear};

pub(super) const CHECKS: &[Check] = &[
    get("ten_pings_count_exactly_for_the_one_who_begins", |stage| {
        let pair = Pair::start(stage)?;
        Pair::ten_pings(stage.host(), OTHER_INNER)?;
        let (rx, tx) = pair.transfer()?;
        ensure!(rx == 1372 && (tx == 1428 || tx == 1460), "rx {rx}, tx {tx}");
        Ok(())
    }),
    get("ten_pings_count_exactly_for_the_one_who_answers", |stage| {
        let pair = Pair::start(stage)?;
        Pair::ten_pings(stage.other_host(), INNER)?;
        let (rx, tx) = pair.transfer()?;
        ensure!(tx == 1372 && (rx == 1428 || rx == 1460), "rx {rx}, tx {tx}");
        Ok(())
    }),
    check("preshared_key_on_a_live_peer_keeps_the_session", |stage| {
        let pair = Pair::with_session(stage)?;
        let before = handshake(&pair)?;
        pair.subject.set(&format!("public_key={}\npreshared_key={PRESHARED}\n", OTHER.public))?;
        // The reference does not know this key: only the old session can carry these.
        for _ in 0..3 {
            pair.ping_at_once()?;
        }
        ensure!(handshake(&pair)? == before, "there was another handshake");
        Ok(())
    }),
    check("preshared_key_of_both_sides_carries_the_next_handshake", |stage| {
        let pair = Pair::with_session(stage)?;
        pair.subject.set(&format!("public_key={}\npreshared_key={PRESHARED}\n", OTHER.public))?;
        pair.reference.set(&format!("public_key={}\nremove=true\n", OWN.public))?;
        pair.reference.set(&format!(
            "public_key={}\npreshared_key={PRESHARED}\nendpoint=192.0.2.1:{PORT}\nallowed_ip={INNER}/32\n",
            OWN.public
        ))?;
        // The reference has no session any more and begins anew.
        Pair::ten_pings(stage.other_host(), INNER)
    }),
    check("endpoint_change_on_a_live_peer_moves_the_traffic", |stage| {
        let pair = Pair::with_session(stage)?;
        let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
        pair.subject.set(&format!("public_key={}\nendpoint={}\n", OTHER.public, ear.address()?))?;
        stage.run(&["ping", "-c", "1", "-W", "0.3", OTHER_INNER])?;
        let (datagram, _) = ear.hear(SOON)?;
        ensure!(datagram.first() == Some(&DATA), "type {:?}: the session was lost", datagram.first());
        Ok(())
    }),
    check("endpoint_change_forgets_the_source_address", |stage| {
        // The reference speaks to the second address, so answers have to come from that one.
        stage.run(&["ip", "address", "add", "192.0.2.3/24", "dev", "wan0"])?.success()?;
        let outcome = source_address(stage);
        stage.run(&["ip", "address", "del", "192.0.2.3/24", "dev", "wan0"])?.success()?;
        outcome
    }),
    check("allowed_ips_change_on_a_live_peer_keeps_the_session", |stage| {
        let pair = Pair::with_session(stage)?;
        let before = handshake(&pair)?;
        pair.subject.set(&format!(
            "public_key={}\nreplace_allowed_ips=true\nallowed_ip=10.9.0.0/16\nallowed_ip={OTHER_INNER}/32\n",
            OTHER.public
        ))?;
        pair.ping_at_once()?;
        ensure!(handshake(&pair)? == before, "there was another handshake");
        Ok(())
    }),
    check("prefix_taken_away_is_dropped_in_both_directions", |stage| {
        let pair = Pair::with_session(stage)?;
        pair.subject.set(&format!("public_key={}\nreplace_allowed_ips=true\n", OTHER.public))?;
        let out = stage.run(&["ping", "-c", "1", "-W", "0.3", OTHER_INNER])?;
        ensure!(!out.status.success(), "{}", out.output);
        let back = stage.other_host().run(&["ping", "-c", "1", "-W", "0.3", INNER])?;
        ensure!(!back.status.success(), "{}", back.output);
        Ok(())
    }),
    check("removed_peer_is_deaf_and_dumb_at_once", |stage| {
        let pair = Pair::with_session(stage)?;
        pair.subject.set(&format!("public_key={}\nremove=true\n", OTHER.public))?;
        let back = stage.other_host().run(&["ping", "-c", "1", "-W", "0.3", INNER])?;
        ensure!(!back.status.success(), "{}", back.output);
        Ok(())
    }),
    check("keepalive_switched_on_under_a_session_sends_32_bytes", |stage| {
        let pair = Pair::with_session(stage)?;
        let before = pair.transfer()?;
        pair.subject.set(&format!("public_key={}\npersistent_keepalive_interval=600\n", OTHER.public))?;
        crate::daemon::until_shown(&pair.subject, "a keepalive to be counted", |answer| {
            answer
                .peer(OTHER.public)
                .and_then(|peer| peer.number("tx_bytes"))
                .is_ok_and(|tx| tx == before.1 + 32)
        })
    }),
    check("packets_are_padded_to_sixteen_bytes", |stage| {
        let pair = Pair::with_session(stage)?;
        let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
        pair.subject.set(&format!("public_key={}\nendpoint={}\n", OTHER.public, ear.address()?))?;
        for size in [1, 20, 56, 57, 1000] {
            stage.run(&["ping", "-c", "1", "-W", "0.1", "-s", &size.to_string(), OTHER_INNER])?;
            let (datagram, _) = ear.hear(Duration::from_secs(2))?;
            let expected = 32 + (size + 28_usize).next_multiple_of(16);
            ensure!(datagram.len() == expected, "{} bytes for a ping of {size}", datagram.len());
        }
        Ok(())
    }),
    check("padding_never_goes_above_the_mtu", |stage| {
        let pair = Pair::with_session(stage)?;
        let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
        pair.subject.set(&format!("public_key={}\nendpoint={}\n", OTHER.public, ear.address()?))?;
        stage.run(&["ping", "-c", "1", "-W", "0.3", "-s", "1392", OTHER_INNER])?;
        let (datagram, _) = ear.hear(Duration::from_secs(2))?;
        ensure!(datagram.len() == 32 + 1420, "{} bytes", datagram.len());
        Ok(())
    }),
    check("mtu_of_the_interface_is_followed", |stage| {
        let pair = Pair::with_session(stage)?;
        let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
        pair.subject.set(&format!("public_key={}\nendpoint={}\n", OTHER.public, ear.address()?))?;
        stage.run(&["ip", "link", "set", INTERFACE, "mtu", "1301"])?.success()?;
        // With the old MTU, a packet of 1301 bytes would be padded to 1312.
        wait::until("padding to follow the MTU", SOON, || {
            stage.run(&["ping", "-c", "1", "-W", "0.1", "-s", "1273", OTHER_INNER])?;
            let (datagram, _) = ear.hear(Duration::from_secs(1))?;
            ensure!(datagram.len() == 32 + 1301, "{} bytes", datagram.len());
            Ok(())
        })
    }),
    check("session_survives_a_move_of_the_interface", |stage| {
        let mut pair = Pair::with_session(stage)?;
        let before = handshake(&pair)?;
        stage.run(&["ip", "link", "set", INTERFACE, "netns", "tunnel"])?.success()?;
        let inside = |command: &[&str]| stage.host().run_at(Place::Tunnel, command);
        inside(&["ip", "address", "add", "10.100.0.10/24", "dev", INTERFACE])?.success()?;
        inside(&["ip", "link", "set", INTERFACE, "up"])?.success()?;
        inside(&["ping", "-c", "1", "-W", "2", OTHER_INNER])?.success()?;
        ensure!(handshake(&pair)? == before, "there was another handshake");
        // And its end is noticed there too.
        inside(&["ip", "link", "del", INTERFACE])?.success()?;
        pair.subject.has_ended(SOON)
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Set, name, run)
}

const fn get(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Get, name, run)
}

fn handshake(pair: &Pair<'_>) -> Result<(u64, u64)> {
    let answer = pair.subject.get()?;
    let peer = answer.peer(OTHER.public)?;
    Ok((peer.number("last_handshake_time_sec")?, peer.number("last_handshake_time_nsec")?))
}

fn source_address(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::with_addresses(stage, "192.0.2.3")?;
    Pair::ten_pings(stage.other_host(), INNER)?;
    let answer = pair.reference.get()?;
    let seen = answer.peer(OWN.public)?.value("endpoint");
    ensure!(seen == Some("192.0.2.3:51820"), "answers come from {seen:?}");
    let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
    pair.subject.set(&format!("public_key={}\nendpoint={}\n", OTHER.public, ear.address()?))?;
    stage.run(&["ping", "-c", "1", "-W", "0.3", OTHER_INNER])?;
    let (_, from) = ear.hear(SOON)?;
    ensure!(from.ip().to_string() == "192.0.2.1", "still from {from}");
    Ok(())
}
