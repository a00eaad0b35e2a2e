//! The configuration socket's file and its directory (§1.1).

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result, ensure};

use crate::check::{Check, Section};
use crate::stage::{SOCKET, SOON, Stage};
use crate::uapi::Uapi;

pub(super) const CHECKS: &[Check] = &[
    check("socket_directory_is_made_and_not_writable_by_others", |stage| {
        let directory = stage.host().path("/run/wireguard");
        fs::remove_dir(&directory).context("remove the directory")?;
        let _daemon = stage.start()?;
        let mode = fs::metadata(&directory)?.permissions().mode() & 0o7777;
        ensure!(mode & 0o022 == 0 && mode & 0o500 == 0o500, "mode {mode:o}");
        Ok(())
    }),
    check("socket_is_closed_to_others", |stage| {
        let _daemon = stage.start()?;
        let metadata = fs::symlink_metadata(stage.host().path(SOCKET))?;
        let mode = metadata.permissions().mode() & 0o7777;
        ensure!(metadata.file_type().is_socket() && mode & 0o007 == 0, "mode {mode:o}");
        Ok(())
    }),
    check("stale_socket_is_replaced", |stage| {
        drop(UnixListener::bind(stage.host().path(SOCKET)).context("leave a socket")?);
        stage.start().map(drop)
    }),
    check("live_socket_of_somebody_else_is_refused", |stage| {
        let path = stage.host().path(SOCKET);
        let listener = UnixListener::bind(&path).context("listen")?;
        let (code, said) = stage.foreground().run(SOON)?.refusal()?;
        ensure!(code != 0, "{said}");
        let _still =
            std::os::unix::net::UnixStream::connect(&path).context("the listener's socket is gone")?;
        drop(listener);
        Ok(())
    }),
    check("second_daemon_is_refused_and_the_first_goes_on", |stage| {
        let mut first = stage.start()?;
        first.set("listen_port=51820\n")?;
        let (code, said) = stage.foreground().run(SOON)?.refusal()?;
        ensure!(code != 0, "{said}");
        first.running.still_runs()?;
        Uapi::connect(stage.host())?.get()?;
        ensure!(first.port()? == 51820, "the first lost its port");
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::CommandLine, name, run)
}
