//! Restarts, upgrades and mistakes, while files are under way.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::client::stored;
use super::pair::{Pair, SOON, install_revision};

/// So that a transfer of 60 MiB takes about ten seconds.
const RATE: &str = "6M";

pub(super) fn tunnel_restart(pair: &mut Pair) -> Result<()> {
    let index = "ip -n culvert -o link show wg0 | cut -d: -f1";
    let before = pair.web.run(index)?;
    let file = pair.client.file("through", 60)?;
    let curl = pair.client.begin_put(&file, "through", RATE)?;
    std::thread::sleep(Duration::from_secs(2));
    for host in [&pair.services, &pair.web] {
        host.run("systemctl restart wgd@wg0")?;
    }
    stored(curl)?;
    pair.client.fetch_and_compare("c5/through", &file)?;
    // A crash takes longer, for the service manager waits a little; it heals by itself all the same.
    let pid = pair.web.main_pid("wgd@wg0")?;
    pair.web.run(&format!("kill -KILL {pid}"))?;
    let another = format!(
        "test \"$(systemctl show -P MainPID wgd@wg0)\" -gt 0 && test \"$(systemctl show -P MainPID wgd@wg0)\" != {pid} && culvert tunnel check"
    );
    pair.web.until("the tunnel is back after a crash", SOON, &another)?;
    ensure!(pair.web.run(index)? == before, "the interface was made anew");
    pair.web.until("edge is ready again", SOON, "curl -fs http://127.0.0.1:9587/readyz")
}

pub(super) fn watchdog(pair: &mut Pair) -> Result<()> {
    let units = [(&pair.web, "wgd@wg0"), (&pair.web, "edge"), (&pair.services, "storaged")];
    for (host, unit) in units {
        let drop_in = format!("/run/systemd/system/{unit}.service.d");
        host.run(&format!("mkdir -p {drop_in} && printf '[Service]\\nWatchdogSec=4\\n' > {drop_in}/quick.conf && systemctl daemon-reload && systemctl restart {unit}"))?;
    }
    // Long enough for one that is not fed to be found out.
    std::thread::sleep(Duration::from_secs(10));
    for (host, unit) in units {
        ensure!(
            host.run(&format!("systemctl show -P NRestarts {unit}"))? == "0",
            "{unit} was restarted though it turns"
        );
        let pid = host.main_pid(unit)?;
        host.run(&format!("kill -STOP {pid}"))?;
        let another =
            format!("test \"$(systemctl show -P MainPID {unit})\" != {pid} && systemctl -q is-active {unit}");
        host.until("another process in the place of one that hangs", SOON, &another)?;
        let said = host.run(&format!("journalctl --no-pager -o cat -u {unit}"))?;
        ensure!(said.contains("Watchdog timeout"), "{unit} was restarted for another reason");
        host.run(&format!("rm -r /run/systemd/system/{unit}.service.d && systemctl daemon-reload && systemctl restart {unit}"))?;
    }
    pair.web.until("edge is ready again", SOON, "curl -fs http://127.0.0.1:9587/readyz")
}

pub(super) fn credential(pair: &mut Pair) -> Result<()> {
    let services = &pair.services;
    services.run(
        "mkdir -p /etc/credstore.encrypted && chmod 700 /etc/credstore.encrypted
         systemd-creds encrypt --with-key=host --name=storaged.kek /etc/culvert/root.key /etc/credstore.encrypted/storaged.kek
         mv /etc/culvert/root.key /root/root.key.kept-elsewhere
         sed -i 's|^root_key_file = .*|root_key_file = \"credential:storaged.kek\"|' /etc/culvert/storaged.toml
         systemctl restart storaged",
    )?;
    let secret = services.read("/root/root.key.kept-elsewhere")?;
    let stored = std::fs::read(services.path("/etc/credstore.encrypted/storaged.kek"))?;
    ensure!(!String::from_utf8_lossy(&stored).contains(secret.trim()), "the credential is not encrypted");
    pair.web.until("edge is ready again", SOON, "curl -fs http://127.0.0.1:9587/readyz")?;
    // A file that is sealed under that key.
    pair.client.fetch_and_compare("c5/first", &pair.client.data.join("first"))
}

pub(super) fn upgrade(pair: &mut Pair) -> Result<()> {
    let file = pair.client.file("across", 60)?;
    let curl = pair.client.begin_put(&file, "across", RATE)?;
    std::thread::sleep(Duration::from_secs(2));
    let before = pair.web.main_pid("edge")?;
    install_revision(&pair.web, "edge", 2)?;
    stored(curl)?;
    ensure!(pair.web.main_pid("edge")? != before, "edge was not restarted");
    let before = pair.services.main_pid("storaged")?;
    install_revision(&pair.services, "storaged", 2)?;
    ensure!(pair.services.main_pid("storaged")? != before, "storaged was not restarted");
    ensure!(
        pair.web.run("dpkg-query -W -f '${Version}' edge")?.ends_with("-2"),
        "another version is installed"
    );
    pair.web.until("edge is ready again", SOON, "curl -fs http://127.0.0.1:9587/readyz")?;
    pair.client.fetch_and_compare("c5/across", &file)
}

pub(super) fn bad_configuration(pair: &mut Pair) -> Result<()> {
    let Pair { web, .. } = pair;
    let before = web.main_pid("edge")?;
    let good = web.read("/etc/culvert/edge.toml")?;
    web.write("/etc/culvert/edge.toml", 0o644, &format!("{good}\nno_such_key = 1\n"))?;
    let said = install_revision(web, "edge", 1)?;
    ensure!(said.contains("no_such_key") && said.contains("NOT restarted"), "nothing was said: {said}");
    ensure!(web.main_pid("edge")? == before, "edge was restarted on a configuration that it refuses");
    web.write("/etc/culvert/edge.toml", 0o644, &good)?;
    web.run("systemctl restart edge")?;
    web.until("edge is ready again", SOON, "curl -fs http://127.0.0.1:9587/readyz")
}

pub(super) fn purge(pair: &mut Pair) -> Result<()> {
    for (host, daemon) in [(&pair.web, "edge"), (&pair.services, "storaged")] {
        host.run(&format!("dpkg --purge {daemon} wgd culvert"))?;
        let left =
            host.run("ls -d /etc/culvert/wgd.toml /var/lib/wgd /run/netns/culvert 2>/dev/null || :")?;
        ensure!(left.is_empty(), "left behind: {left}");
        let units = host.run(
            "find /etc/systemd/system -name 'edge*' -o -name 'storaged*' -o -name 'wgd*' -o -name 'culvert*'",
        )?;
        ensure!(units.is_empty(), "units left behind: {units}");
        let failed = host.run("systemctl list-units --failed --no-legend")?;
        ensure!(failed.is_empty(), "failed units: {failed}");
        ensure!(!host.succeeds("pgrep -x wgd || pgrep -x edge || pgrep -x storaged")?, "a daemon runs on");
    }
    // Files, ledger and keys are not a package's to delete.
    pair.services.run("test -e /var/lib/culvert/storaged/ledger.redb -a -e /srv/culvert/.culvert-volume -a -e /etc/wireguard/wg0.key")?;
    Ok(())
}
