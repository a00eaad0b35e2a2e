//! `set=1` that is refused: with which number, and that nothing of it is applied (§1.2, §1.3).

use anyhow::{Result, ensure};

use crate::check::{Check, Section};
use crate::keys::{OTHER, OWN};
use crate::stage::Stage;

const EINVAL: i32 = -22;
const EPROTO: i32 = -71;

pub(super) const CHECKS: &[Check] = &[
    check("only_true_is_legal_for_replace_peers", |stage| bad(stage, None, "replace_peers", NOT_TRUE)),
    check("only_true_is_legal_for_remove", |stage| bad(stage, PEER, "remove", NOT_TRUE)),
    check("only_true_is_legal_for_update_only", |stage| bad(stage, PEER, "update_only", NOT_TRUE)),
    check("only_true_is_legal_for_replace_allowed_ips", |stage| {
        bad(stage, PEER, "replace_allowed_ips", NOT_TRUE)
    }),
    check("other_protocol_versions_are_refused", |stage| {
        bad(stage, PEER, "protocol_version", &["0", "2", "", "one"])
    }),
    check("bad_private_keys_are_refused", |stage| bad(stage, None, "private_key", BAD_HEX)),
    check("bad_public_keys_are_refused", |stage| bad(stage, None, "public_key", BAD_HEX)),
    check("bad_preshared_keys_are_refused", |stage| bad(stage, PEER, "preshared_key", BAD_HEX)),
    check("bad_ports_are_refused", |stage| {
        bad(stage, None, "listen_port", &["65536", "-1", "", "http", "0x50", "1 "])
    }),
    check("bad_marks_are_refused", |stage| {
        bad(stage, None, "fwmark", &["4294967296", "-1", "", "off", "0x7"])
    }),
    check("bad_keepalives_are_refused", |stage| {
        bad(stage, PEER, "persistent_keepalive_interval", &["65536", "-1", "", "off"])
    }),
    check("bad_endpoints_are_refused", |stage| {
        let values = ["192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.256:1", "2001:db8::1", ""];
        bad(stage, PEER, "endpoint", &values)?;
        // No name is looked up.
        bad(stage, PEER, "endpoint", &["localhost:1", "example.org:1"])
    }),
    check("bad_prefixes_are_refused", |stage| {
        let values = ["10.0.0.1/33", "fd00::/129", "10.0.0/8", "10.0.0.1/-1", "10.0.0.1/", "/8", "", "any/0"];
        bad(stage, PEER, "allowed_ip", &values)
    }),
    check("prefix_without_length_is_refused", |stage| bad(stage, PEER, "allowed_ip", &["10.0.0.1"])),
    check("unknown_device_keys_are_refused", |stage| {
        for key in ["nonsense", "", "own_public_key", "public_keys", "LISTEN_PORT", "errno"] {
            bad(stage, None, key, &["1"])?;
        }
        Ok(())
    }),
    check("unknown_peer_keys_are_refused", |stage| {
        for key in ["nonsense", "", "tx_bytes", "rx_bytes", "last_handshake_time_sec", "Endpoint"] {
            bad(stage, PEER, key, &["1"])?;
        }
        Ok(())
    }),
    check("peer_keys_before_a_public_key_are_refused", |stage| {
        for (key, value) in [("allowed_ip", "10.0.0.1/32"), ("endpoint", "192.0.2.9:1"), ("remove", "true")] {
            bad(stage, None, key, &[value])?;
        }
        Ok(())
    }),
    check("device_keys_after_a_public_key_are_refused", |stage| {
        bad(stage, PEER, "listen_port", &["1"])?;
        bad(stage, PEER, "fwmark", &["1"])?;
        bad(stage, PEER, "replace_peers", &["true"])
    }),
    Check::new(Section::Errno, "line_without_equals_sign_is_minus_71", |stage| {
        let daemon = stage.start()?;
        daemon.refuses("listen_port\n", EPROTO)?;
        daemon.refuses(&format!("public_key={}\nremove\n", OTHER.public), EPROTO)?;
        daemon.refuses("private_key 00\n", EPROTO)
    }),
    check("refused_request_applies_nothing", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("listen_port=41820\npublic_key={}\nallowed_ip=10.0.0.1/32\n", OTHER.public))?;
        let before = daemon.get()?;
        let good = format!(
            "private_key={}\nlisten_port=41821\nfwmark=9\nreplace_peers=true\npublic_key={}\n\
             allowed_ip=10.0.0.9/32\n",
            OWN.private, OTHER.public
        );
        for (bad, number) in [("nonsense=1\n", EINVAL), ("allowed_ip=x\n", EINVAL), ("broken\n", EPROTO)] {
            daemon.refuses(&format!("{good}{bad}"), number)?;
            ensure!(daemon.get()? == before, "after {bad:?}: {:?}", daemon.get()?);
        }
        Ok(())
    }),
    check("refused_request_leaves_the_connection_in_use", |stage| {
        let daemon = stage.start()?;
        let mut uapi = daemon.connect()?;
        let number = uapi.set(&format!("nonsense=1\nlisten_port=1\npublic_key={}\n", OTHER.public))?;
        ensure!(number == EINVAL, "errno={number}");
        ensure!(uapi.get()?.peers().is_empty(), "{:?}", daemon.get()?);
        let number = uapi.set("listen_port=41820\n")?;
        ensure!(number == 0, "errno={number}");
        Ok(())
    }),
];

const PEER: Option<&str> = Some(OTHER.public);
const NOT_TRUE: &[&str] = &["false", "1", "", "True", "true "];
const BAD_HEX: &[&str] = &[
    "",
    "00",
    "3490290f7629247222cbe44340e103609ff1f3d099a4f6e79eb687259ea9364",
    "3490290f7629247222cbe44340e103609ff1f3d099a4f6e79eb687259ea936480",
    "3490290f7629247222cbe44340e103609ff1f3d099a4f6e79eb687259ea9364g",
    "NJApD3YpJHIiy+RDQOEDYJ/x89CZpPbnnraHJZ6pNkg",
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Set, name, run)
}

/// Each value of the key has to be answered with −22, at the device or in the section of `peer`.
fn bad(stage: &Stage<'_>, peer: Option<&str>, key: &str, values: &[&str]) -> Result<()> {
    stage.reset()?;
    let daemon = stage.start()?;
    let section = peer.map(|peer| format!("public_key={peer}\n")).unwrap_or_default();
    for value in values {
        daemon.refuses(&format!("{section}{key}={value}\n"), EINVAL)?;
    }
    Ok(())
}
