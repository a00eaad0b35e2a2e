//! Descriptors that somebody else opened (§1.1).

use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result, ensure};

use crate::check::{Check, Section};
use crate::perl;
use crate::stage::{INTERFACE, SOCKET, SOON, Stage};
use crate::uapi::Uapi;

pub(super) const CHECKS: &[Check] = &[
    check("tun_descriptor_is_used_under_its_own_name", |stage| {
        // The name in the argument is another one: that of the device counts.
        let program = perl::started(stage, &perl::tun(INTERFACE), &["-f", "wg9"]);
        let daemon = stage.start_with(program)?;
        daemon.set("listen_port=51820\n")?;
        daemon.up("10.100.0.10/24")?;
        ensure!(!stage.run(&["ip", "link", "show", "wg9"])?.status.success(), "another interface was made");
        Ok(())
    }),
    check("listening_uapi_descriptor_is_served", |stage| {
        let program = perl::started(stage, &perl::listening(SOCKET), &["-f", INTERFACE]);
        let daemon = stage.start_with(program)?;
        daemon.set("listen_port=51820\n")?;
        ensure!(daemon.port()? == 51820, "not configured");
        Ok(())
    }),
    check("connected_uapi_descriptor_is_served", |stage| {
        let path = "/run/conformance.sock";
        let _ = std::fs::remove_file(stage.host().path(path));
        let listener = UnixListener::bind(stage.host().path(path)).context("listen")?;
        let program = perl::started(stage, &perl::connected(path), &["-f", INTERFACE]);
        let _running = program.start()?;
        let (stream, _) = listener.accept().context("accept")?;
        let mut uapi = Uapi::on(stream)?;
        let number = uapi.set("listen_port=51820\n")?;
        ensure!(number == 0, "errno={number}");
        ensure!(uapi.get()?.device("listen_port") == Some("51820"), "not configured");
        Ok(())
    }),
    check("uapi_listener_of_a_service_manager_is_served", |stage| {
        let program = stage.foreground().unix_listener("uapi", SOCKET);
        let daemon = stage.start_with(program)?;
        daemon.set("listen_port=51820\n")?;
        ensure!(daemon.port()? == 51820, "not configured");
        Ok(())
    }),
    check("tun_descriptor_that_is_none_is_refused", |stage| {
        let (code, said) = stage.foreground().variable("WG_TUN_FD", "99").run(SOON)?.refusal()?;
        ensure!(code != 0, "{said}");
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::CommandLine, name, run)
}
