//! `culvert health`: one table of how the daemons of this machine are.
//!
//! Invariant: what a daemon says of its work is believed, what it says of its lock-down is not: that is read from `/proc`.

use clap::Args;
use serde_json::{Value, json};

use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::limits::CERTIFICATE_WARNING;
use crate::server::{self, Finding, Inspection, Process, Role, State};

#[derive(Debug, Args)]
pub(crate) struct HealthArguments {
    /// Look at this process and its helpers alone (may be repeated) [default: every daemon that runs here]
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
}

/// A daemon that can be asked, and where.
struct Daemon {
    role: Role,
    socket: std::path::PathBuf,
}

pub(crate) fn run(arguments: &HealthArguments, console: Console) -> Result<(), Failure> {
    let (mut findings, daemons) = match Inspection::make(&arguments.pid) {
        Ok(inspection) => {
            let findings = inspection.processes.iter().map(|process| lockdown(process, &inspection.findings));
            let mut findings: Vec<Finding> = findings.collect();
            findings.extend(inspection.findings.iter().filter(|finding| finding.subject == "host").cloned());
            (findings, inspection.processes.iter().filter_map(asked).collect())
        }
        // Not root: who may use the admin sockets still learns something.
        Err(why) => (vec![untold(&why)], usual()),
    };
    let mut answered = 0;
    for daemon in &daemons {
        let name = daemon.role.name();
        match daemon::admin::call(&daemon.socket, "status", json!({}), &[], |_| {}) {
            Ok(status) => {
                answered += 1;
                findings.extend(of_status(daemon.role, &status, daemon::Clock.unix_milliseconds() / 1000));
            }
            Err(error) => findings.push(Finding::bad(
                State::Fail,
                "answers",
                name,
                printable(&error.to_string()),
                "It does not answer on its admin socket: look at its log, and at `systemctl status`.",
            )),
        }
    }
    if daemons.is_empty()
        || (answered == 0 && findings.iter().all(|finding| finding.state == State::CannotTell))
    {
        return Err(Failure::cannot_tell("none of Culvert's daemons runs here, or none can be asked"));
    }
    server::show(&findings, json!({}), console)
}

/// What others, or the calendar, can be the reason for.
const OF_OTHERS: [&str; 4] = ["peers", "tunnel", "certificate", "clock"];

/// What is wrong with this machine itself, of which all of `roles` have to run: nobody else's fault is among it.
pub(crate) fn own_troubles(roles: &[Role]) -> Vec<String> {
    if roles.is_empty() {
        return Vec::new();
    }
    let inspection = match Inspection::make(&[]) {
        Ok(inspection) => inspection,
        Err(why) => return vec![why.message().to_owned()],
    };
    let mut findings: Vec<Finding> =
        inspection.processes.iter().map(|process| lockdown(process, &inspection.findings)).collect();
    let daemons: Vec<Daemon> = inspection.processes.iter().filter_map(asked).collect();
    let mut troubles = Vec::new();
    for role in roles {
        let Some(daemon) = daemons.iter().find(|daemon| daemon.role == *role) else {
            troubles.push(format!("{} does not run", role.name()));
            continue;
        };
        match daemon::admin::call(&daemon.socket, "status", json!({}), &[], |_| {}) {
            Ok(status) => {
                findings.extend(of_status(*role, &status, daemon::Clock.unix_milliseconds() / 1000))
            }
            Err(error) => troubles.push(format!("{} does not answer: {error}", role.name())),
        }
    }
    troubles.extend(failed(&findings));
    troubles
}

fn failed(findings: &[Finding]) -> impl Iterator<Item = String> {
    let own = findings.iter().filter(|it| it.state == State::Fail && !OF_OTHERS.contains(&it.check));
    own.map(|it| format!("{} of {}: {}", it.check, it.subject, it.detail))
}

fn asked(process: &Process) -> Option<Daemon> {
    if !matches!(process.role, Role::Wgd | Role::Edge | Role::Storaged) {
        return None;
    }
    let socket = server::Configured::read(process).admin_socket?;
    Some(Daemon { role: process.role, socket: process.path(&socket) })
}

/// Where admin sockets are unless a configuration that cannot be read says something else.
fn usual() -> Vec<Daemon> {
    [Role::Wgd, Role::Edge, Role::Storaged]
        .into_iter()
        .map(|role| Daemon { role, socket: format!("/run/culvert/{}.sock", role.name()).into() })
        .filter(|daemon| daemon.socket.exists())
        .collect()
}

fn untold(why: &Failure) -> Finding {
    Finding::bad(
        State::CannotTell,
        "lockdown",
        "host",
        why.message().to_owned(),
        "Only root can read what another user's process may do: run it as root.",
    )
}

/// A process's findings in one.
fn lockdown(process: &Process, findings: &[Finding]) -> Finding {
    let subject = process.subject();
    let own: Vec<&Finding> = findings.iter().filter(|finding| finding.subject == subject).collect();
    let worst = own.iter().max_by_key(|finding| finding.state);
    match worst {
        Some(worst) if worst.state != State::Pass => {
            let wrong: Vec<&str> = own
                .iter()
                .filter(|finding| finding.state == worst.state)
                .map(|finding| finding.check)
                .collect();
            Finding::bad(
                worst.state,
                "lockdown",
                &subject,
                wrong.join(", "),
                "`culvert verify server` shows what was found and says what to do about each.",
            )
        }
        Some(_) | None => Finding::pass("lockdown", &subject, format!("{} checks", own.len())),
    }
}

/// What a daemon says of its work.
fn of_status(role: Role, status: &Value, now_s: u64) -> Vec<Finding> {
    let subject = role.name();
    let version = status["version"].as_str().unwrap_or("unknown");
    let mut findings = vec![Finding::pass("answers", subject, format!("version {}", printable(version)))];
    match role {
        Role::Edge => findings.extend(of_edge(status, now_s)),
        Role::Storaged => findings.extend(of_storaged(status)),
        Role::Wgd => findings.extend(of_wgd(status)),
        Role::Netcfg | Role::Resolver | Role::Agent => {}
    }
    findings
}

/// A pass with one text, or what is wrong with another.
fn judge(
    good: bool,
    state: State,
    (check, subject): (&'static str, &'static str),
    (well, ill): (&str, &str),
    advice: &'static str,
) -> Finding {
    if good { Finding::pass(check, subject, well) } else { Finding::bad(state, check, subject, ill, advice) }
}

fn of_edge(status: &Value, now_s: u64) -> Vec<Finding> {
    let mut findings = vec![judge(
        status["circuit"] == "closed",
        State::Fail,
        ("tunnel", "edge"),
        ("storaged answers", "storaged does not answer: requests are refused"),
        "`culvert tunnel check` on both hosts; then storaged's `culvert health`.",
    )];
    findings.push(match status["tls_not_after"].as_u64() {
        None => Finding::bad(
            State::Warn,
            "certificate",
            "edge",
            "plain HTTP",
            "Somebody else has to end TLS in front of edge, and sees every token and file.",
        ),
        Some(end) => {
            let left = end.saturating_sub(now_s);
            let days = left / 86_400;
            let advice = "Renew the certificate, then `culvert reload edge`.";
            match left {
                0 => Finding::bad(State::Fail, "certificate", "edge", "has run out", advice),
                left if left < CERTIFICATE_WARNING.as_secs() => Finding::bad(
                    State::Warn,
                    "certificate",
                    "edge",
                    format!("runs out in {days} days"),
                    advice,
                ),
                _ => Finding::pass("certificate", "edge", format!("{days} days left")),
            }
        }
    });
    if status["draining"] == true {
        let advice = "It was told to stop and waits for what is under way.";
        findings.push(Finding::bad(State::Warn, "draining", "edge", "takes nothing new", advice));
    }
    findings
}

fn of_storaged(status: &Value) -> Vec<Finding> {
    let ledger = &status["ledger"];
    let mut findings = vec![
        judge(
            ledger["usable"] == true,
            State::Fail,
            ("ledger", "storaged"),
            ("commits", "the last commit failed: nothing is taken or served"),
            "Look at its log and at the disk of `state_dir`.",
        ),
        judge(
            ledger["mirror"]["keeps_up"] == true,
            State::Fail,
            ("journal_mirror", "storaged"),
            ("keeps up", "does not keep up: uploads are refused"),
            "Look at the disk of `journal_mirror`; it catches up by itself.",
        ),
        judge(
            ledger["time_hold"].is_null(),
            State::Warn,
            ("clock", "storaged"),
            ("has not jumped", "went forward by over an hour"),
            "Look at the clock; when it is right, `culvert ledger confirm-time`.",
        ),
        judge(
            status["root_key_memory"] == "memfd_secret",
            State::Warn,
            ("root_key", "storaged"),
            ("in memory that not even root reads", "in memory that root can read"),
            "The kernel has no memfd_secret (before 6.5 it takes secretmem.enable=1 on its command line).",
        ),
    ];
    for volume in status["volumes"].as_array().into_iter().flatten() {
        let name = printable(volume["name"].as_str().unwrap_or_default());
        let mut finding = judge(
            volume["usable"] == true,
            State::Fail,
            ("volume", "storaged"),
            ("answers", "does not answer, or has not its marker"),
            "Is it mounted? storaged takes it back by itself.",
        );
        finding.detail = format!("{name} {}", finding.detail);
        findings.push(finding);
    }
    findings
}

fn of_wgd(status: &Value) -> Vec<Finding> {
    let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let is_down =
        |peer: &&Value| peer["up"] != true && peer["persistent_keepalive_seconds"].as_u64().unwrap_or(0) > 0;
    let down = peers.iter().filter(is_down).count();
    vec![
        judge(
            down == 0,
            State::Fail,
            ("peers", "wgd"),
            (
                &format!("{} of {} up", peers.iter().filter(|peer| peer["up"] == true).count(), peers.len()),
                &format!("{down} that should be up are down"),
            ),
            "`culvert tunnel status` shows which; keys, endpoint and the firewall's UDP port are the usual reasons.",
        ),
        judge(
            status["netcfg"] == true,
            State::Warn,
            ("netcfg", "wgd"),
            ("runs", "wgd-netcfg is gone, or switched off"),
            "Reloads, host names, `wg set … listen-port` and marks are refused until wgd is restarted.",
        ),
        judge(
            status["link_up"] != false,
            State::Fail,
            ("interface", "wgd"),
            ("up", "set down"),
            "`ip link set dev INTERFACE up` in the tunnel's namespace.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(findings: &[Finding]) -> Vec<(&'static str, State)> {
        let wrong = findings.iter().filter(|finding| finding.state != State::Pass);
        wrong.map(|finding| (finding.check, finding.state)).collect()
    }

    fn edge() -> Value {
        json!({"version": "1", "circuit": "closed", "tls_not_after": 100 * 86_400, "draining": false})
    }

    fn storaged() -> Value {
        json!({"version": "1", "root_key_memory": "memfd_secret",
            "ledger": {"usable": true, "mirror": {"keeps_up": true}, "time_hold": null},
            "volumes": [{"name": "main", "usable": true}]})
    }

    fn wgd() -> Value {
        json!({"version": "1", "netcfg": true, "link_up": true,
            "peers": [{"up": true, "persistent_keepalive_seconds": 25}, {"up": false, "persistent_keepalive_seconds": 0}]})
    }

    #[test]
    fn well_is_well() {
        for (role, status) in [(Role::Edge, edge()), (Role::Storaged, storaged()), (Role::Wgd, wgd())] {
            assert_eq!(bad(&of_status(role, &status, 0)), [], "{role:?}");
        }
    }

    #[test]
    fn what_others_do_is_no_trouble_of_this_machine() {
        let mut edge = edge();
        edge["circuit"] = json!("open");
        edge["tls_not_after"] = json!(0);
        let mut wgd = wgd();
        wgd["peers"][0]["up"] = json!(false);
        for (role, status) in [(Role::Edge, edge), (Role::Wgd, wgd)] {
            let findings = of_status(role, &status, 0);
            assert!(findings.iter().any(|finding| finding.state == State::Fail), "{role:?}");
            assert_eq!(failed(&findings).count(), 0, "{role:?}");
        }
        let mut storaged = storaged();
        storaged["ledger"]["usable"] = json!(false);
        let told: Vec<String> = failed(&of_status(Role::Storaged, &storaged, 0)).collect();
        assert_eq!(told, ["ledger of storaged: the last commit failed: nothing is taken or served"]);
        assert_eq!(own_troubles(&[]), Vec::<String>::new());
    }

    #[test]
    fn each_trouble_is_one_finding() {
        let cases = [
            (Role::Edge, edge(), "/circuit", json!("open"), "tunnel", State::Fail),
            (Role::Edge, edge(), "/tls_not_after", Value::Null, "certificate", State::Warn),
            (Role::Edge, edge(), "/tls_not_after", json!(0), "certificate", State::Fail),
            (Role::Edge, edge(), "/tls_not_after", json!(5 * 86_400), "certificate", State::Warn),
            (Role::Edge, edge(), "/draining", json!(true), "draining", State::Warn),
            (Role::Storaged, storaged(), "/ledger/usable", json!(false), "ledger", State::Fail),
            (
                Role::Storaged,
                storaged(),
                "/ledger/mirror/keeps_up",
                json!(false),
                "journal_mirror",
                State::Fail,
            ),
            (Role::Storaged, storaged(), "/ledger/time_hold", json!("x"), "clock", State::Warn),
            (Role::Storaged, storaged(), "/root_key_memory", json!("mlock"), "root_key", State::Warn),
            (Role::Storaged, storaged(), "/volumes/0/usable", json!(false), "volume", State::Fail),
            (Role::Wgd, wgd(), "/peers/0/up", json!(false), "peers", State::Fail),
            (Role::Wgd, wgd(), "/netcfg", json!(false), "netcfg", State::Warn),
            (Role::Wgd, wgd(), "/link_up", json!(false), "interface", State::Fail),
        ];
        for (role, mut status, place, value, check, state) in cases {
            *status.pointer_mut(place).unwrap() = value;
            assert_eq!(bad(&of_status(role, &status, 0)), [(check, state)], "{place}");
        }
    }

    #[test]
    fn a_status_that_says_nothing_is_not_well() {
        assert!(bad(&of_storaged(&json!({}))).len() >= 3);
        assert!(bad(&of_edge(&json!({}), 0)).contains(&("tunnel", State::Fail)));
    }
}
