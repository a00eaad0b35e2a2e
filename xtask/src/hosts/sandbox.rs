//! What the units' directives are worth: looked at from within the running daemons' namespaces, as root, who is held up by
//! nothing but them.

use anyhow::{Result, ensure};

use super::host::Host;
use super::pair::{Pair, SOON};

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
        is_bare(host, unit)?;
    }
    for host in [&pair.web, &pair.services] {
        let pid = host.main_pid("wgd-netcfg@wg0.service")?;
        let status = host.run(&format!("cat /proc/{pid}/status"))?;
        // CAP_NET_ADMIN, capability 12.
        for (key, good) in [
            ("CapEff:", "0000000000001000"),
            ("CapPrm:", "0000000000001000"),
            ("CapInh:", "0000000000000000"),
            ("CapBnd:", "0000000000001000"),
            ("CapAmb:", "0000000000000000"),
            ("NoNewPrivs:", "1"),
            ("Seccomp:", "2"),
        ] {
            let found = status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            ensure!(found == Some(good), "wgd-netcfg: {key} {found:?}");
        }
    }
    Ok(())
}

/// No thread of a unit's main process has a capability, a way to one, or no filter.
fn is_bare(host: &Host, unit: &str) -> Result<()> {
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
    // The tunnel's device came as a descriptor; its keys are netcfg's to read.
    for host in [web, &pair.services] {
        let none = "! test -e /dev/net/tun && ! test -e /dev/kmsg && ! test -e /dev/kvm";
        for unit in ["wgd@wg0.service", "wgd-netcfg@wg0.service"] {
            ensure!(inside(host, unit, "-m", none)?, "{unit} has devices");
        }
        ensure!(
            !inside(host, "wgd@wg0.service", "-m", "cat /etc/wireguard/wg0.key")?,
            "wgd sees the file of its key"
        );
        let units = "culvert-netns@wg0 run-netns-culvert.mount wgd-inside@wg0";
        let ended = host.run(&format!("systemctl show --property=Result {units}"))?;
        ensure!(ended.matches("Result=success").count() == 3, "the namespace's units: {ended}");
        ensure!(!host.succeeds("systemctl is-active wgd-inside@wg0")?, "what opens the device has not ended");
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

/// Installed, run and purged again: it tells of a daemon that is gone, and edge is handed the keys that it brings.
pub(super) fn agent(pair: &mut Pair) -> Result<()> {
    let web = &pair.web;
    web.run("cd /root/packages-1 && dpkg --force-confold --install culvert-agent_*.deb 2>&1")?;
    ensure!(!web.succeeds("systemctl is-active culvert-agent")?, "the agent was started");
    web.write(
        "/etc/culvert/agent.toml",
        0o644,
        "profile = \"production\"\nwgd_user = \"wgd\"\npatience_seconds = 0\n\
         keys_directory = \"/var/lib/culvert-agent/keys\"\n\
         [[watch]]\nname = \"wgd\"\naddress = \"127.0.0.1:9586\"\n\
         [[watch]]\nname = \"edge\"\naddress = \"127.0.0.1:9587\"\n\
         [[syslog]]\nserver = \"udp://192.0.2.1:5514\"\n",
    )?;
    web.run("culvert agent --check-config && systemctl enable --now culvert-agent culvert-agent-keys.path")?;
    is_bare(web, "culvert-agent.service")?;
    for secret in ["/etc/wireguard/wg0.key", "/etc/culvert/internal.key", "/etc/culvert/tls.key"] {
        let as_agent =
            format!("setpriv --reuid=culvert-agent --regid=culvert-agent --clear-groups cat {secret}");
        ensure!(!inside(web, "culvert-agent.service", "-m", &as_agent)?, "the agent sees {secret}");
    }
    // As the agent writes it: a new file in place of another.
    web.run(
        "cd /var/lib/culvert-agent/keys && setpriv --reuid=culvert-agent --regid=culvert-agent --clear-groups \
         sh -c 'echo {} > x.partial && mv x.partial x.jwks'",
    )?;
    web.until(
        "edge is handed its files anew",
        SOON,
        "journalctl -u edge --output=cat | grep -q 'configuration reloaded'",
    )?;
    // storaged does not run here, and nothing came of that.
    ensure!(web.run("systemctl list-units --failed --no-legend")?.is_empty(), "a unit failed");
    web.run("systemctl stop edge edge-metrics.socket")?;
    let told = "journalctl -u culvert-agent --output=cat | grep alert | grep -q 'edge: answers'";
    web.until("the agent tells of edge", SOON, told)?;
    web.run("systemctl start edge-metrics.socket edge")?;
    web.until("edge is ready", SOON, "curl -fs http://127.0.0.1:9587/readyz")?;
    web.run(
        "systemctl disable --now culvert-agent culvert-agent-keys.path && dpkg --purge culvert-agent 2>&1",
    )?;
    ensure!(
        !web.succeeds("test -e /var/lib/culvert-agent || systemctl cat culvert-agent")?,
        "the agent's package leaves something"
    );
    Ok(())
}
