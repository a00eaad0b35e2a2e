//! `set=1` on peers: create, update, remove, secrets, endpoints, keepalive (§1.2).

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::check::{Check, Section};
use crate::keys::{LOW_ORDER, OTHER, OWN, PRESHARED, THIRD, ZERO};
use crate::stage::{SOON, Stage};
use crate::wire::Ear;

pub(super) const CHECKS: &[Check] = &[
    check("removing_an_unknown_peer_is_no_error_and_makes_none", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nremove=true\n", OTHER.public))?;
        ensure!(daemon.get()?.peers().is_empty(), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("removed_peer_is_gone_with_its_prefixes", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "public_key={}\nallowed_ip=10.0.0.0/8\npublic_key={}\nallowed_ip=10.0.0.0/16\n",
            OTHER.public, THIRD.public
        ))?;
        daemon.set(&format!("public_key={}\nremove=true\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.public_keys() == [THIRD.public], "{answer:?}");
        daemon.set(&format!("public_key={}\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.allowed_ips().is_empty(), "{answer:?}");
        Ok(())
    }),
    check("one_request_removes_and_makes_peers", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.1/32\n", OTHER.public))?;
        daemon.set(&format!(
            "public_key={}\nremove=true\npublic_key={}\nallowed_ip=10.0.0.1/32\n",
            OTHER.public, THIRD.public
        ))?;
        let answer = daemon.get()?;
        ensure!(answer.public_keys() == [THIRD.public], "{answer:?}");
        ensure!(answer.peer(THIRD.public)?.allowed_ips() == ["10.0.0.1/32"], "{answer:?}");
        Ok(())
    }),
    check("update_only_ignores_an_unknown_peer", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "public_key={}\nupdate_only=true\nallowed_ip=10.0.0.1/32\nendpoint=192.0.2.9:1\npublic_key={}\n",
            OTHER.public, THIRD.public
        ))?;
        ensure!(daemon.get()?.public_keys() == [THIRD.public], "{:?}", daemon.get()?);
        Ok(())
    }),
    check("update_only_with_remove_of_an_unknown_peer_is_no_error", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nupdate_only=true\nremove=true\n", OTHER.public))?;
        ensure!(daemon.get()?.peers().is_empty(), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("update_only_changes_a_known_peer", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\n", OTHER.public))?;
        daemon.set(&format!("public_key={}\nupdate_only=true\nallowed_ip=10.0.0.1/32\n", OTHER.public))?;
        ensure!(daemon.get()?.peer(OTHER.public)?.allowed_ips() == ["10.0.0.1/32"], "{:?}", daemon.get()?);
        Ok(())
    }),
    check("what_is_not_said_of_a_peer_stays", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "public_key={}\npreshared_key={PRESHARED}\nendpoint=192.0.2.9:1\n\
             persistent_keepalive_interval=9\nallowed_ip=10.0.0.1/32\n",
            OTHER.public
        ))?;
        let before = daemon.get()?;
        daemon.set(&format!("public_key={}\n", OTHER.public))?;
        ensure!(daemon.get()? == before, "{:?}", daemon.get()?);
        Ok(())
    }),
    check("preshared_key_is_set_on_an_existing_peer", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\n", OTHER.public))?;
        daemon.set(&format!("public_key={}\npreshared_key={PRESHARED}\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.value("preshared_key") == Some(PRESHARED), "{answer:?}");
        Ok(())
    }),
    check("zeros_remove_the_preshared_key", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\npreshared_key={PRESHARED}\n", OTHER.public))?;
        daemon.set(&format!("public_key={}\npreshared_key={ZERO}\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.value("preshared_key") == Some(ZERO), "{answer:?}");
        Ok(())
    }),
    check("endpoint_is_changed_on_an_existing_peer", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nendpoint=192.0.2.9:1\n", OTHER.public))?;
        daemon.set(&format!("public_key={}\nendpoint=[2001:db8::1]:65535\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.value("endpoint") == Some("[2001:db8::1]:65535"), "{answer:?}");
        Ok(())
    }),
    check("keepalive_takes_every_u16", |stage| {
        let daemon = stage.start()?;
        for seconds in ["1", "65535", "0"] {
            daemon.set(&format!("public_key={}\npersistent_keepalive_interval={seconds}\n", OTHER.public))?;
            let answer = daemon.get()?;
            let shown = answer.peer(OTHER.public)?.value("persistent_keepalive_interval");
            ensure!(shown == Some(seconds), "{answer:?}");
        }
        Ok(())
    }),
    check("keepalive_switched_on_sends_at_once", |stage| {
        let daemon = stage.start()?;
        daemon.up("10.100.0.10/24")?;
        let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
        daemon.set(&format!(
            "private_key={}\npublic_key={}\nendpoint=192.0.2.2:5000\n",
            OWN.private, OTHER.public
        ))?;
        ear.hears_nothing(Duration::from_millis(300))?;
        daemon.set(&format!("public_key={}\npersistent_keepalive_interval=600\n", OTHER.public))?;
        ear.hears_an_initiation(Duration::from_secs(1))
    }),
    check("keepalive_of_an_existing_interval_sends_nothing_new", |stage| {
        let daemon = stage.start()?;
        daemon.up("10.100.0.10/24")?;
        let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
        daemon.set(&format!(
            "private_key={}\npublic_key={}\nendpoint=192.0.2.2:5000\npersistent_keepalive_interval=600\n",
            OWN.private, OTHER.public
        ))?;
        ear.hears_an_initiation(SOON)?;
        daemon.set(&format!("public_key={}\npersistent_keepalive_interval=601\n", OTHER.public))?;
        ear.hears_nothing(Duration::from_millis(300))
    }),
    check("peer_may_be_named_twice_in_one_request", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "public_key={0}\nallowed_ip=10.0.0.1/32\npublic_key={1}\npublic_key={0}\nallowed_ip=10.0.0.2/32\n",
            OTHER.public, THIRD.public
        ))?;
        let answer = daemon.get()?;
        ensure!(answer.peers().len() == 2, "{answer:?}");
        ensure!(answer.peer(OTHER.public)?.allowed_ips() == ["10.0.0.1/32", "10.0.0.2/32"], "{answer:?}");
        Ok(())
    }),
    check("scoped_endpoint_of_the_specification_is_accepted", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nendpoint=[abcd:23::33%2]:51820\n", OTHER.public))?;
        let answer = daemon.get()?;
        let shown = answer.peer(OTHER.public)?.value("endpoint").unwrap_or_default();
        ensure!(shown.starts_with("[abcd:23::33") && shown.ends_with("]:51820"), "{answer:?}");
        Ok(())
    }),
    check("protocol_version_1_is_accepted", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nprotocol_version=1\n", OTHER.public))?;
        ensure!(daemon.get()?.public_keys() == [OTHER.public], "{:?}", daemon.get()?);
        Ok(())
    }),
    check("low_order_keys_are_accepted_and_nothing_is_sent_to_them", |stage| {
        let daemon = stage.start()?;
        daemon.up("10.100.0.10/24")?;
        let ear = Ear::listen(stage.router(), "192.0.2.2:5000")?;
        let control = Ear::listen(stage.router(), "192.0.2.2:5001")?;
        let mut body = format!("private_key={}\n", OWN.private);
        for key in LOW_ORDER {
            body += &format!("public_key={key}\nendpoint=192.0.2.2:5000\npersistent_keepalive_interval=1\n");
        }
        body += &format!(
            "public_key={}\nendpoint=192.0.2.2:5001\npersistent_keepalive_interval=1\n",
            OTHER.public
        );
        daemon.set(&body)?;
        ensure!(daemon.get()?.peers().len() == LOW_ORDER.len() + 1, "{:?}", daemon.get()?);
        control.hears_an_initiation(SOON)?;
        ear.hears_nothing(Duration::from_millis(1200))
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Set, name, run)
}
