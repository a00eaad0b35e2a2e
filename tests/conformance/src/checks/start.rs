//! Command line and environment (§1.1).

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::program::Program;

use crate::check::{Check, Section};
use crate::daemon::Daemon;
use crate::stage::{INTERFACE, SOON, Stage};

pub(super) const CHECKS: &[Check] = &[
    check("foreground_by_dash_f", |stage| foreground(stage, stage.program().arguments(&["-f", INTERFACE]))),
    check("foreground_by_long_flag", |stage| {
        foreground(stage, stage.program().arguments(&["--foreground", INTERFACE]))
    }),
    check("foreground_by_wg_process_foreground", |stage| {
        let program = stage.program().arguments(&[INTERFACE]);
        foreground(stage, program.variable("WG_PROCESS_FOREGROUND", "1"))
    }),
    check("version_is_printed_by_long_flag", |stage| version(stage, "--version")),
    check("version_is_printed_by_short_flag", |stage| version(stage, "-V")),
    check("log_level_debug_says_more_than_error", |stage| {
        says_more(stage, ("LOG_LEVEL", "debug"), ("LOG_LEVEL", "error"))
    }),
    check("log_level_verbose_is_understood", |stage| {
        says_more(stage, ("LOG_LEVEL", "verbose"), ("LOG_LEVEL", "error"))
    }),
    check("log_level_silent_says_nothing", |stage| {
        let lines = said_with(stage, &[("LOG_LEVEL", "silent")])?;
        ensure!(lines.is_empty(), "{lines:?}");
        Ok(())
    }),
    check("wg_log_level_is_understood", |stage| {
        for level in ["info", "trace"] {
            said_with(stage, &[("WG_LOG_LEVEL", level)])?;
        }
        says_more(stage, ("WG_LOG_LEVEL", "debug"), ("WG_LOG_LEVEL", "error"))
    }),
    check("rust_log_wins_over_log_level", |stage| {
        let quiet = said_with(stage, &[("LOG_LEVEL", "debug"), ("RUST_LOG", "error")])?;
        ensure!(quiet.is_empty(), "{quiet:?}");
        let loud = said_with(stage, &[("LOG_LEVEL", "error"), ("RUST_LOG", "debug")])?;
        ensure!(!loud.is_empty(), "nothing was said");
        Ok(())
    }),
    check("log_level_has_a_flag", |stage| {
        let loud = stage.foreground().arguments(&["--log-level", "debug"]);
        ensure!(!said(stage, loud)?.is_empty(), "nothing was said");
        Ok(())
    }),
    check("a_number_of_threads_is_accepted", |stage| {
        stage.start_with(stage.foreground().arguments(&["--threads", "2"]))?;
        stage.reset()?;
        stage.start_with(stage.foreground().arguments(&["-t", "1"]))?;
        stage.reset()?;
        stage.start_with(stage.foreground().variable("WG_THREADS", "2")).map(drop)
    }),
    check("keeping_root_is_accepted_and_without_effect", |stage| {
        stage.start_with(stage.foreground().arguments(&["--disable-drop-privileges"]))?;
        stage.reset()?;
        let daemon = stage.start_with(stage.foreground().variable("WG_SUDO", "1"))?;
        for thread in daemon.running.threads()? {
            ensure!(thread.effective == 0, "{} has capabilities", thread.name);
        }
        Ok(())
    }),
    check("no_log_file_is_made", |stage| {
        let daemon = stage.start()?;
        daemon.set("listen_port=51820\n")?;
        for place in ["/tmp", "/var/tmp", "/run", "/srv"] {
            for name in std::fs::read_dir(stage.host().path(place))?.flatten() {
                let name = name.file_name().to_string_lossy().into_owned();
                ensure!(!name.contains("log") && !name.ends_with(".out"), "{place}/{name}");
            }
        }
        Ok(())
    }),
    check("interface_names_beyond_fifteen_bytes_are_refused", |stage| refused(stage, "abcdefghijklmnop")),
    check("interface_names_of_fifteen_bytes_are_accepted", |stage| {
        let program = stage.program().arguments(&["-f", "a_=+.-Z90123456"]);
        let mut running = program.variable("WG_PROCESS_FOREGROUND", "1").start()?;
        running.until("be shown", SOON, || {
            let shown = stage.run(&["wg", "show", "interfaces"])?.success()?;
            ensure!(shown.contains("a_=+.-Z90123456"), "{shown:?}");
            Ok(())
        })
    }),
    check("interface_names_with_a_slash_are_refused", |stage| refused(stage, "../wg0")),
    check("no_interface_is_a_usage_error", |stage| {
        let (code, said) = stage.program().run(SOON)?.refusal()?;
        ensure!(code != 0, "{said}");
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::CommandLine, name, run)
}

/// It answers, and the process that was started is still the one.
fn foreground(stage: &Stage<'_>, program: Program<'_>) -> Result<()> {
    let mut running = program.start()?;
    running.until("answer", SOON, || crate::uapi::Uapi::connect(stage.host())?.get().map(drop))?;
    std::thread::sleep(Duration::from_millis(100));
    running.still_runs()
}

fn version(stage: &Stage<'_>, flag: &str) -> Result<()> {
    let said = stage.program().arguments(&[flag]).run(SOON)?.success()?;
    ensure!(said.bytes().any(|byte| byte.is_ascii_digit()), "no number in {said:?}");
    ensure!(!stage.run(&["ip", "link", "show", INTERFACE])?.status.success(), "an interface was made");
    Ok(())
}

fn refused(stage: &Stage<'_>, name: &str) -> Result<()> {
    let program = stage.program().arguments(&["-f", name]).variable("WG_PROCESS_FOREGROUND", "1");
    let (code, said) = program.run(SOON)?.refusal()?;
    ensure!(code != 0, "{said}");
    Ok(())
}

type Variable = (&'static str, &'static str);

fn says_more(stage: &Stage<'_>, loud: Variable, quiet: Variable) -> Result<()> {
    let (loud, quiet) = (said_with(stage, &[loud])?.len(), said_with(stage, &[quiet])?.len());
    ensure!(loud > quiet, "{loud} lines, and {quiet} with the higher level");
    Ok(())
}

/// What it says from its start until it was configured and its interface is up.
fn said_with(stage: &Stage<'_>, variables: &[Variable]) -> Result<Vec<String>> {
    let mut program = stage.foreground();
    for (name, value) in variables {
        program = program.variable(name, value);
    }
    said(stage, program)
}

fn said(stage: &Stage<'_>, program: Program<'_>) -> Result<Vec<String>> {
    stage.reset()?;
    let mut daemon = Daemon::begin(stage.host(), program)?;
    daemon.until_it_answers()?;
    daemon.set("listen_port=51820\n")?;
    daemon.up("10.100.0.10/24")?;
    // The log is read by a thread of ours.
    std::thread::sleep(Duration::from_millis(150));
    Ok(daemon.said())
}
