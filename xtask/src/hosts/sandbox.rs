//! What the units' directives are worth: looked at from within the running daemons' namespaces, as root, who is held up by
//! nothing but them.

use anyhow::{Result, ensure};

use super::host::Host;
use super::pair::Pair;

fn daemons(pair: &Pair) -> [(&Host, &'static str); 2] {
    [(&pair.web, "edge.service"), (&pair.services, "storaged.service")]
}

/// Fails unless `script` succeeds inside namespaces `of` of a unit's main process.
fn inside(host: &Host, unit: &str, of: &str, script: &str) -> Result<bool> {
    let pid = host.main_pid(unit)?;
    host.succeeds(&format!("nsenter -t {pid} {of} -- sh -c '{script}'"))
}

pub(super) fn network(pair: &mut Pair) -> Result<()> {
    for (host, unit) in daemons(pair) {
        let pid = host.main_pid(unit)?;
        let interfaces = host.run(&format!(
            "nsenter -t {pid} -n ip -o link | cut -d: -f2 | tr -d \" \" | sort | tr \"\\n\" \" \""
        ))?;
        ensure!(interfaces == "lo wg0", "{unit} sees {interfaces:?}");
        for address in ["192.0.2.1", "192.0.2.10", "192.0.2.11", "1.1.1.1"] {
            ensure!(
                !inside(host, unit, "-n", &format!("ip route get {address}"))?,
                "{unit} has a way to {address}"
            );
        }
        // Outside they answer; inside there is nothing to reach.
        for port in ["9586", "9587", "9588"] {
            ensure!(
                !inside(host, unit, "-n", &format!("curl -sm 2 http://127.0.0.1:{port}/metrics"))?,
                "{unit} reaches the metrics at {port}"
            );
        }
    }
    // The tunnel's datagrams leave from the host's own network.
    let udp = pair.services.run("ss -Hlun sport = :51820")?;
    ensure!(!udp.is_empty(), "nobody listens at UDP 51820 in the host's namespace");
    Ok(())
}

pub(super) fn privileges(pair: &mut Pair) -> Result<()> {
    for (host, unit) in
        daemons(pair).into_iter().chain([(&pair.web, "wgd@wg0.service"), (&pair.services, "wgd@wg0.service")])
    {
        let pid = host.main_pid(unit)?;
        let status = host.run(&format!("cat /proc/{pid}/task/*/status"))?;
        let threads = status.lines().filter(|line| line.starts_with("Pid:")).count();
        for (key, good) in [
            ("CapEff:", "0000000000000000"),
            ("CapPrm:", "0000000000000000"),
            ("CapInh:", "0000000000000000"),
            ("CapBnd:", "0000000000000000"),
            ("CapAmb:", "0000000000000000"),
            ("NoNewPrivs:", "1"),
            ("Seccomp:", "2"),
        ] {
            let found: Vec<&str> =
                status.lines().filter_map(|line| line.strip_prefix(key)).map(str::trim).collect();
            ensure!(
                found.len() == threads && found.iter().all(|value| *value == good),
                "{unit}: {key} {found:?} in {threads} threads"
            );
        }
        ensure!(!status.lines().any(|line| line.starts_with("Uid:\t0\t")), "{unit} runs as root");
    }
    Ok(())
}

pub(super) fn files(pair: &mut Pair) -> Result<()> {
    for (host, unit) in daemons(pair) {
        for place in ["/etc", "/usr", "/var/lib", "/root", "/home", "/boot", "/srv"] {
            ensure!(
                !inside(host, unit, "-m", &format!("test -d {place} && touch {place}/x"))?,
                "{unit} can write to {place}"
            );
        }
        for secret in ["/etc/wireguard/wg0.key", "/etc/ssh/ssh_host_ed25519_key", "/root/.profile"] {
            ensure!(host.path(secret).exists(), "{secret} is not there to be hidden");
            ensure!(!inside(host, unit, "-m", &format!("cat {secret}"))?, "{unit} sees {secret}");
        }
        ensure!(
            !inside(host, unit, "-m", "test -e /dev/net/tun || test -e /dev/kmsg")?,
            "{unit} has devices"
        );
        let pid = host.main_pid(unit)?;
        let limits = host.run(&format!("cat /proc/{pid}/limits"))?;
        let is_zero = |name: &str| {
            limits.lines().any(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.split_whitespace().take(2).all(|it| it == "0"))
            })
        };
        ensure!(is_zero("Max core file size"), "{unit} may leave a core file");
        ensure!(unit != "edge.service" || is_zero("Max file size"), "edge may write to files");
    }
    let web = &pair.web;
    for place in ["/tmp", "/var/tmp", "/run", "/dev/shm", "/run/culvert"] {
        let as_edge =
            format!("setpriv --reuid=edge --regid=edge --clear-groups sh -c \"echo x > {place}/x\"");
        ensure!(!inside(web, "edge.service", "-m", &as_edge)?, "edge can write to {place}");
    }
    // What it needs, storaged has.
    ensure!(
        inside(
            &pair.services,
            "storaged.service",
            "-m",
            "test -w /srv/culvert -a -w /var/lib/culvert/storaged"
        )?,
        "storaged cannot write"
    );
    Ok(())
}
