//! Facts about `deploy/systemd` that need no running systemd.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::steps;

/// The exposure that `systemd-analyze security` may find, in tenths: 20 at the most. `docs/install.md` has a line for each
/// directive that a unit goes without.
const EXPOSURE: [(&str, u32); 8] = [
    ("edge.service", 15),
    ("storaged.service", 15),
    ("culvert-agent.service", 15),
    ("culvert-agent-keys.service", 15),
    ("culvert-netns@.service", 12),
    ("wgd@.service", 13),
    ("wgd-netcfg@.service", 19),
    ("wgd-inside@.service", 14),
];

fn directory() -> PathBuf {
    steps::root().join("deploy/systemd")
}

fn read(unit: &str) -> String {
    fs::read_to_string(directory().join(unit)).unwrap()
}

/// The values of `key` in a unit, in order.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_units_are_as_closed_as_they_can_be() {
    for (unit, tenths) in EXPOSURE {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={tenths}")])
            .arg(directory().join(unit))
            .output()
            .expect("systemd-analyze, of Debian's package systemd");
        let said = String::from_utf8_lossy(&output.stdout);
        let summary = said.lines().last().unwrap_or_default();
        assert!(output.status.success() && summary.contains("Overall"), "{unit}: {summary}");
    }
}

#[test]
fn every_listener_is_handed_in_by_a_name_that_the_daemon_knows() {
    for (daemon, names) in [
        ("edge", BTreeSet::from(["public", "metrics", "admin", "events"])),
        ("storaged", BTreeSet::from(["metrics", "admin", "events"])),
    ] {
        let service = read(&format!("{daemon}.service"));
        let sockets: Vec<&str> = values(&service, "Sockets").iter().flat_map(|it| it.split(' ')).collect();
        let handed_in: BTreeSet<String> = sockets
            .iter()
            .map(|socket| {
                let text = read(socket);
                assert_eq!(values(&text, "Service"), [format!("{daemon}.service")], "{socket}");
                // A second address would be a second listener of the same name, which the daemon refuses.
                let listen = values(&text, "ListenStream").len() + values(&text, "ListenDatagram").len();
                assert_eq!(listen, 1, "{socket}");
                values(&text, "FileDescriptorName")[0].to_owned()
            })
            .collect();
        assert_eq!(handed_in, names.into_iter().map(str::to_owned).collect(), "{daemon}");
        // A socket that is not required would leave the daemon to bind for itself, inside its namespace.
        for key in ["Requires", "After", "Also"] {
            let lines = values(&service, key).join(" ");
            for socket in &sockets {
                assert!(lines.split(' ').any(|it| it == *socket), "{daemon}: {key}={socket}");
            }
        }
    }
}

#[test]
fn edge_and_storaged_have_the_tunnel_for_a_network_and_no_privilege_to_begin_with() {
    for daemon in ["edge", "storaged"] {
        let service = read(&format!("{daemon}.service"));
        assert_eq!(values(&service, "NetworkNamespacePath"), ["/run/netns/culvert"], "{daemon}");
        assert_eq!(values(&service, "User"), [daemon]);
        assert_eq!(values(&service, "CapabilityBoundingSet"), [""], "{daemon}");
        assert_eq!(values(&service, "ProtectSystem"), ["strict"], "{daemon}");
        // A user namespace would turn wgd's credentials on the events socket into nobody's.
        assert!(values(&service, "PrivateUsers").is_empty(), "{daemon}");
    }
    // The unit alone shows that edge stores nothing.
    let edge = read("edge.service");
    // It would kill edge when it takes the memory for its key; edge sets the limit itself.
    assert!(values(&edge, "LimitFSIZE").is_empty());
    for key in ["ReadWritePaths", "StateDirectory", "CacheDirectory", "LogsDirectory", "RuntimeDirectory"] {
        assert!(values(&edge, key).is_empty(), "{key}");
    }
}

#[test]
fn each_part_of_wgd_begins_with_no_more_than_it_keeps() {
    for (unit, user, capabilities) in [
        ("wgd@.service", &["wgd"][..], ""),
        // Root, for the files; nothing that would let it pass over another owner.
        ("wgd-netcfg@.service", &[], "CAP_NET_ADMIN"),
        ("wgd-inside@.service", &["wgd"], "CAP_NET_ADMIN"),
        ("culvert-netns@.service", &["wgd"], "CAP_NET_ADMIN"),
    ] {
        let text = read(unit);
        assert_eq!(values(&text, "User"), user, "{unit}");
        assert_eq!(values(&text, "CapabilityBoundingSet"), [capabilities], "{unit}");
        assert_eq!(values(&text, "NoNewPrivileges"), ["yes"], "{unit}");
        assert_eq!(values(&text, "RestrictNamespaces"), ["yes"], "{unit}");
        // These would start a command with more than the unit says, unseen by what finds the exposure.
        for line in values(&text, "ExecStart") {
            assert!(!line.starts_with(['+', '!']), "{unit}: {line}");
        }
        assert!(
            values(&text, "ExecStartPre").is_empty() && values(&text, "ExecStartPost").is_empty(),
            "{unit}"
        );
    }
    // The tunnel's files are netcfg's alone to see.
    assert!(values(&read("wgd@.service"), "InaccessiblePaths")[0].contains("-/etc/wireguard"));
    for (socket, group, mode) in
        [("wgd-netcfg@.socket", &["wgd"][..], "0660"), ("wgd-inside@.socket", &[], "0600")]
    {
        let text = read(socket);
        assert_eq!((values(&text, "SocketUser"), values(&text, "SocketMode")), (vec!["root"], vec![mode]));
        assert_eq!(values(&text, "SocketGroup"), group, "{socket}");
        assert_eq!(values(&text, "ListenSequentialPacket").len(), 1, "{socket}");
    }
}

#[test]
fn a_stop_outlasts_the_drain_and_a_restart_of_wgd_takes_nobody_along() {
    for unit in ["edge.service", "storaged.service"] {
        let text = read(unit);
        assert_eq!(values(&text, "Type"), ["notify"], "{unit}");
        assert_eq!(values(&text, "WatchdogSec"), ["30"], "{unit}");
        // limits.drain_timeout is 60 s for edge unless set, and 20 s for storaged.
        let stop: u32 = values(&text, "TimeoutStopSec")[0].parse().unwrap();
        assert!(stop >= 75, "{unit}");
        let bound =
            [values(&text, "Requires"), values(&text, "BindsTo"), values(&text, "PartOf")].concat().join(" ");
        assert!(!bound.contains("wgd@"), "{unit}: {bound}");
        assert!(values(&text, "After").join(" ").contains("wgd@wg0.service"), "{unit}");
    }
    let wgd = read("wgd@.service");
    assert_eq!((values(&wgd, "Type"), values(&wgd, "WatchdogSec")), (vec!["notify"], vec!["30"]));
}
