//! `allowed_ip`: masks, moves, removal, and very many of them (§1.2).

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::wait;

use crate::check::{Check, Section};
use crate::keys::{OTHER, THIRD};
use crate::stage::Stage;

/// As many as the kernel's netns.sh sets.
const MANY: usize = 130_560;

/// "Within seconds", for a debug build on a shared machine.
const SECONDS: Duration = Duration::from_secs(10);

pub(super) const CHECKS: &[Check] = &[
    check("prefixes_are_masked", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "public_key={}\nallowed_ip=10.1.2.3/8\nallowed_ip=fd00:1:2:3:4::5/64\nallowed_ip=192.0.2.9/0\n",
            OTHER.public
        ))?;
        let answer = daemon.get()?;
        let shown = answer.peer(OTHER.public)?.allowed_ips();
        ensure!(shown == ["0.0.0.0/0", "10.0.0.0/8", "fd00:1:2:3::/64"], "{shown:?}");
        Ok(())
    }),
    check("prefixes_are_added_without_replace", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.1/32\n", OTHER.public))?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.2/32\n", OTHER.public))?;
        let answer = daemon.get()?;
        let shown = answer.peer(OTHER.public)?.allowed_ips();
        ensure!(shown == ["10.0.0.1/32", "10.0.0.2/32"], "{shown:?}");
        Ok(())
    }),
    check("replace_allowed_ips_leaves_only_the_new_ones", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.1/32\nallowed_ip=fd00::/8\n", OTHER.public))?;
        daemon.set(&format!(
            "public_key={}\nreplace_allowed_ips=true\nallowed_ip=10.0.0.2/32\n",
            OTHER.public
        ))?;
        let answer = daemon.get()?;
        let shown = answer.peer(OTHER.public)?.allowed_ips();
        ensure!(shown == ["10.0.0.2/32"], "{shown:?}");
        daemon.set(&format!("public_key={}\nreplace_allowed_ips=true\n", OTHER.public))?;
        ensure!(daemon.get()?.peer(OTHER.public)?.allowed_ips().is_empty(), "{:?}", daemon.get()?);
        Ok(())
    }),
    check("replace_allowed_ips_undoes_what_came_before_it", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "public_key={}\nallowed_ip=10.0.0.1/32\nreplace_allowed_ips=true\nallowed_ip=10.0.0.2/32\n",
            OTHER.public
        ))?;
        ensure!(daemon.get()?.peer(OTHER.public)?.allowed_ips() == ["10.0.0.2/32"], "{:?}", daemon.get()?);
        Ok(())
    }),
    check("prefix_moves_from_another_peer", |stage| {
        for prefix in ["10.0.0.0/8", "fd00::/16"] {
            let daemon = stage.start()?;
            daemon.set(&format!("public_key={}\nallowed_ip={prefix}\n", OTHER.public))?;
            daemon.set(&format!("public_key={}\nallowed_ip={prefix}\n", THIRD.public))?;
            let answer = daemon.get()?;
            ensure!(answer.peer(OTHER.public)?.allowed_ips().is_empty(), "{answer:?}");
            ensure!(answer.peer(THIRD.public)?.allowed_ips() == [prefix], "{answer:?}");
            drop(daemon);
            stage.reset()?;
        }
        Ok(())
    }),
    check("prefix_twice_is_shown_once", |stage| {
        let daemon = stage.start()?;
        daemon
            .set(&format!("public_key={}\nallowed_ip=10.0.0.1/8\nallowed_ip=10.9.9.9/8\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.allowed_ips() == ["10.0.0.0/8"], "{answer:?}");
        Ok(())
    }),
    check("leading_minus_removes_a_prefix", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\n", OTHER.public))?;
        daemon.set(&format!("public_key={}\nallowed_ip=-10.9.9.9/8\n", OTHER.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.allowed_ips() == ["fd00::/8"], "{answer:?}");
        Ok(())
    }),
    check("leading_minus_takes_nothing_from_another_peer", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\nallowed_ip=10.0.0.0/8\n", OTHER.public))?;
        daemon.set(&format!("public_key={}\nallowed_ip=-10.0.0.0/8\n", THIRD.public))?;
        let answer = daemon.get()?;
        ensure!(answer.peer(OTHER.public)?.allowed_ips() == ["10.0.0.0/8"], "{answer:?}");
        ensure!(answer.peer(THIRD.public)?.allowed_ips().is_empty(), "{answer:?}");
        Ok(())
    }),
    check("prefixes_by_the_hundred_thousand_are_set_and_read_back_in_seconds", |stage| {
        let daemon = stage.start()?;
        let mut body = format!("public_key={}\n", OTHER.public);
        for index in 0..MANY / 2 {
            writeln!(
                body,
                "allowed_ip=10.{}.{}.0/24\nallowed_ip=fd00:{index:x}::/48",
                index >> 8,
                index & 255
            )?;
        }
        let began = wait::now();
        daemon.set(&body)?;
        let answer = daemon.get()?;
        let took = wait::now().duration_since(began);
        let shown = answer.peer(OTHER.public)?.allowed_ips();
        ensure!(shown.len() == MANY, "{} prefixes", shown.len());
        for expected in ["10.0.255.0/24", "10.254.255.0/24", "fd00:feff::/48"] {
            shown.binary_search(&expected).ok().with_context(|| format!("{expected} is missing"))?;
        }
        ensure!(took <= SECONDS, "{:.1} s", took.as_secs_f64());
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Set, name, run)
}
