//! What `get=1` answers: every key, when, and in which order (§1.2).

use anyhow::{Context as _, Result, ensure};

use crate::check::{Check, Section};
use crate::daemon::until_shown;
use crate::keys::{OTHER, OWN, PRESHARED, THIRD, ZERO};
use crate::pair::Pair;
use crate::stage::Stage;

pub(super) const CHECKS: &[Check] = &[
    check("device_without_configuration_shows_no_keys_and_no_peers", |stage| {
        let answer = stage.start()?.get()?;
        for key in answer.keys() {
            ensure!(key == "listen_port", "{key}");
        }
        Ok(())
    }),
    check("device_keys_come_in_order", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("fwmark=7\nlisten_port=51820\nprivate_key={}\n", OWN.private))?;
        let answer = daemon.get()?;
        ensure!(answer.keys() == ["private_key", "listen_port", "fwmark"], "{:?}", answer.keys());
        ensure!(answer.device("private_key") == Some(OWN.private), "another private key");
        ensure!(answer.device("listen_port") == Some("51820"), "{answer:?}");
        ensure!(answer.device("fwmark") == Some("7"), "{answer:?}");
        Ok(())
    }),
    check("fwmark_is_shown_in_decimal_and_only_if_set", |stage| {
        let daemon = stage.start()?;
        daemon.set("fwmark=4294967295\n")?;
        ensure!(daemon.get()?.device("fwmark") == Some("4294967295"), "{:?}", daemon.get()?);
        daemon.set("fwmark=0\n")?;
        ensure!(daemon.get()?.device("fwmark").is_none(), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("private_key_is_shown_clamped", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("private_key={}\n", "ff".repeat(32)))?;
        let expected = format!("f8{}7f", "ff".repeat(30));
        ensure!(daemon.get()?.device("private_key") == Some(&expected), "not clamped");
        Ok(())
    }),
    check("peer_keys_come_in_order", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "public_key={}\nallowed_ip=10.1.0.0/16\nallowed_ip=fd00::/64\npersistent_keepalive_interval=25\n\
             endpoint=192.0.2.9:51820\npreshared_key={PRESHARED}\n",
            OTHER.public
        ))?;
        let answer = daemon.get()?;
        let peer = answer.peer(OTHER.public)?;
        let expected = [
            "public_key",
            "preshared_key",
            "protocol_version",
            "endpoint",
            "last_handshake_time_sec",
            "last_handshake_time_nsec",
            "tx_bytes",
            "rx_bytes",
            "persistent_keepalive_interval",
            "allowed_ip",
            "allowed_ip",
        ];
        ensure!(peer.keys() == expected, "{:?}", peer.keys());
        ensure!(peer.value("preshared_key") == Some(PRESHARED), "another preshared key");
        ensure!(peer.value("protocol_version") == Some("1"), "{peer:?}");
        ensure!(peer.value("endpoint") == Some("192.0.2.9:51820"), "{peer:?}");
        ensure!(peer.value("persistent_keepalive_interval") == Some("25"), "{peer:?}");
        ensure!(peer.allowed_ips() == ["10.1.0.0/16", "fd00::/64"], "{peer:?}");
        Ok(())
    }),
    check("peer_without_anything_shows_zeros_and_no_endpoint", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\n", OTHER.public))?;
        let answer = daemon.get()?;
        let peer = answer.peer(OTHER.public)?;
        let expected = [
            ("preshared_key", ZERO),
            ("protocol_version", "1"),
            ("last_handshake_time_sec", "0"),
            ("last_handshake_time_nsec", "0"),
            ("tx_bytes", "0"),
            ("rx_bytes", "0"),
            ("persistent_keepalive_interval", "0"),
        ];
        for (key, value) in expected {
            ensure!(peer.value(key) == Some(value), "{key}: {peer:?}");
        }
        ensure!(peer.keys().len() == expected.len() + 1, "{peer:?}");
        Ok(())
    }),
    check("device_keys_come_before_all_peers", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "private_key={}\nlisten_port=51820\nfwmark=1\npublic_key={}\npublic_key={}\n",
            OWN.private, OTHER.public, THIRD.public
        ))?;
        let answer = daemon.get()?;
        ensure!(answer.keys()[..4] == ["private_key", "listen_port", "fwmark", "public_key"], "{answer:?}");
        ensure!(answer.peers().len() == 2, "{answer:?}");
        Ok(())
    }),
    check("ipv6_endpoint_has_brackets", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nendpoint=[2001:db8::7]:4500\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.value("endpoint") == Some("[2001:db8::7]:4500"), "{answer:?}");
        Ok(())
    }),
    check("hex_is_answered_in_lower_case", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "private_key={}\npublic_key={}\npreshared_key={}\n",
            OWN.private.to_uppercase(),
            OTHER.public.to_uppercase(),
            PRESHARED.to_uppercase()
        ))?;
        let answer = daemon.get()?;
        ensure!(answer.device("private_key") == Some(OWN.private), "another private key");
        ensure!(answer.peer(OTHER.public)?.value("preshared_key") == Some(PRESHARED), "{answer:?}");
        Ok(())
    }),
    check("handshake_time_is_of_the_epoch_with_nanoseconds_above_zero", |stage| {
        let pair = Pair::with_session(stage)?;
        let answer = pair.subject.get()?;
        let peer = answer.peer(OTHER.public)?;
        let seconds = peer.number("last_handshake_time_sec")?;
        let now: u64 = stage.run(&["date", "+%s"])?.success()?.trim().parse()?;
        ensure!(now.abs_diff(seconds) < 60, "{seconds}, and it is {now}");
        let nanoseconds = peer.number("last_handshake_time_nsec")?;
        ensure!((1..1_000_000_000).contains(&nanoseconds), "{nanoseconds} ns");
        Ok(())
    }),
    check("handshake_time_does_not_move_between_two_gets", |stage| {
        let pair = Pair::with_session(stage)?;
        let read = || -> Result<(u64, u64)> {
            let answer = pair.subject.get()?;
            let peer = answer.peer(OTHER.public)?;
            Ok((peer.number("last_handshake_time_sec")?, peer.number("last_handshake_time_nsec")?))
        };
        let first = read()?;
        pair.ping_at_once()?;
        ensure!(first == read()?, "it moved");
        Ok(())
    }),
    check("seconds_stand_right_before_nanoseconds", |stage| {
        let pair = Pair::with_session(stage)?;
        let answer = pair.subject.get()?;
        let keys = answer.keys();
        let at = keys.iter().position(|&key| key == "last_handshake_time_sec").context("no time")?;
        ensure!(keys.get(at + 1) == Some(&"last_handshake_time_nsec"), "{keys:?}");
        Ok(())
    }),
    check("endpoint_is_learned_from_the_wire", |stage| {
        let pair = Pair::start(stage)?;
        pair.subject.set(&format!("public_key={}\nremove=true\n", OTHER.public))?;
        pair.subject.set(&format!("public_key={}\nallowed_ip=10.100.0.11/32\n", OTHER.public))?;
        Pair::ten_pings(stage.other_host(), crate::pair::INNER)?;
        until_shown(&pair.subject, "an endpoint", |answer| {
            answer.peer(OTHER.public).is_ok_and(|peer| peer.value("endpoint") == Some("198.51.100.1:51820"))
        })
    }),
    check("wgctrl_understands_every_line", |stage| {
        // Its parser splits at each `=`, wants exactly two parts, and reads numbers in decimal.
        let pair = Pair::with_session(stage)?;
        for (key, value) in pair.subject.get()?.lines() {
            let good = match key.as_str() {
                "private_key" | "public_key" | "preshared_key" => value.len() == 64,
                "listen_port" | "fwmark" | "protocol_version" | "persistent_keepalive_interval" => {
                    value.parse::<u32>().is_ok()
                }
                "last_handshake_time_sec" | "last_handshake_time_nsec" | "tx_bytes" | "rx_bytes" => {
                    value.parse::<i64>().is_ok_and(|number| number >= 0)
                }
                "endpoint" => value.parse::<std::net::SocketAddr>().is_ok(),
                "allowed_ip" => value.split_once('/').is_some_and(|(address, length)| {
                    address.parse::<std::net::IpAddr>().is_ok() && length.parse::<u8>().is_ok()
                }),
                _ => true,
            };
            ensure!(good, "{key}={value}");
        }
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Get, name, run)
}
