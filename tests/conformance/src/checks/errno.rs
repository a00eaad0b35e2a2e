//! Signs and numbers of errors, as each client reads them (§1.3).

use anyhow::{Context as _, Result, ensure};

use crate::check::{Check, Section};
use crate::keys::{OTHER, base64};
use crate::stage::{INTERFACE, Stage};

pub(super) const CHECKS: &[Check] = &[
    check("wg_explains_a_port_in_use", |stage| {
        let daemon = stage.start()?;
        daemon.up("10.100.0.10/24")?;
        let _taken = stage
            .host()
            .outer()
            .within(|| std::net::UdpSocket::bind("0.0.0.0:41821").context("take the port"))?;
        let (_, said) = stage.run(&["wg", "set", INTERFACE, "listen-port", "41821"])?.refusal()?;
        ensure!(said.contains("Address already in use"), "{said}");
        Ok(())
    }),
    check("refused_sets_are_answered_with_negative_numbers", |stage| {
        // `wg` prints "Unknown error -22" for a positive one.
        let daemon = stage.start()?;
        for body in ["listen_port=x\n", "nonsense=1\n", "broken\n", "replace_peers=false\n"] {
            let number = daemon.set_for_errno(body)?;
            ensure!(number < 0, "errno={number} for {body:?}");
        }
        Ok(())
    }),
    check("failed_get_is_answered_with_a_positive_number", |stage| {
        // defguard reads an unsigned number and takes what it cannot read as success; `wg` wants it positive too.
        let daemon = stage.start()?;
        let mut uapi = daemon.connect()?;
        uapi.send("get=1\n")?;
        uapi.finish()?;
        let said = uapi.answer()?;
        let number = said.strip_prefix("errno=").and_then(|rest| rest.trim_end().parse::<u32>().ok());
        ensure!(number.is_some_and(|number| number > 0), "{said:?}");
        Ok(())
    }),
    check("lines_in_a_get_are_refused_with_a_positive_number", |stage| {
        let daemon = stage.start()?;
        let mut uapi = daemon.connect()?;
        uapi.send("get=1\nlisten_port=1\n\n")?;
        let said = uapi.answer()?;
        ensure!(said == "errno=22\n\n", "{said:?}");
        Ok(())
    }),
    check("defguard_reads_the_end_of_every_get", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\n", OTHER.public))?;
        let mut uapi = daemon.connect()?;
        uapi.send("get=1\n\n")?;
        let said = uapi.answer()?;
        let (key, value) =
            said.trim_end().lines().last().and_then(|line| line.split_once('=')).context("no end")?;
        ensure!(key == "errno" && value.parse::<u32>() == Ok(0), "{key}={value}");
        Ok(())
    }),
    check("wg_shows_what_was_set_by_bytes", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!(
            "listen_port=41820\npublic_key={}\nallowed_ip=10.0.0.1/32\nendpoint=192.0.2.9:7\n",
            OTHER.public
        ))?;
        let dump = stage.run(&["wg", "show", INTERFACE, "dump"])?.success()?;
        let peer = dump.lines().nth(1).context("no peer")?;
        let expected = format!("{}\t(none)\t192.0.2.9:7\t10.0.0.1/32\t0\t0\t0\toff", base64(OTHER.public));
        ensure!(peer == expected, "{peer}");
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Errno, name, run)
}
