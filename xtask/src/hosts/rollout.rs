//! From bare hosts to an appliance, and through its life, by playbooks alone.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use daemon::Clock;

use super::ansible::changed;
use super::client::stored;
use super::fleet::Fleet;
use super::packages_of;
use super::pair::SOON;

/// So that a transfer outlasts a playbook on a busy machine.
const RATE: &str = "3M";

pub(super) fn look(fleet: &mut Fleet) -> Result<()> {
    fleet.play("site", &["--check", "--diff"])?;
    for host in [&fleet.web, &fleet.services] {
        ensure!(!host.succeeds("test -e /etc/culvert || id wgd")?, "a look has changed the host");
    }
    Ok(())
}

pub(super) fn site(fleet: &mut Fleet) -> Result<()> {
    fleet.play("site", &["-vvv", "--diff"])?;
    for host in [&fleet.web, &fleet.services] {
        host.run(
            "systemctl is-active culvert-agent culvert-agent-keys.path && culvert agent --check-config",
        )?;
    }
    fleet.client.keep_token(&fleet.services.read("/root/culvert-tokens")?)?;
    let file = fleet.client.file("first", 20)?;
    fleet.client.culvert(&["put", &file.display().to_string(), "c5/first"])?;
    fleet.client.fetch_and_compare("c5/first", &file)
}

pub(super) fn again(fleet: &mut Fleet) -> Result<()> {
    for arguments in [&["--diff"][..], &["--check", "--diff"]] {
        let said = fleet.play("site", arguments)?;
        ensure!(changed(&said)? == 0, "a further run with {arguments:?} changed something:\n{said}");
    }
    // One more upload, by the appliance's own hosts.
    let token = fleet.client.data.join("token");
    let token = format!("{{\"appliance_token\": \"{}\"}}", fs::read_to_string(token)?.trim());
    fleet.web.write("/etc/culvert/ca.pem", 0o644, &fs::read_to_string(fleet.client.data.join("ca.pem"))?)?;
    let said =
        fleet.play("verify", &["-vvv", "-e", &token, "-e", "appliance_ca_file=/etc/culvert/ca.pem"])?;
    ensure!(said.contains("Upload, download and compare"), "no file was carried:\n{said}");
    Ok(())
}

pub(super) fn secrets(fleet: &mut Fleet) -> Result<()> {
    let mut secrets = vec![
        fs::read_to_string(fleet.client.data.join("vault.psk"))?,
        fs::read_to_string(fleet.client.data.join("token"))?,
    ];
    for (host, files) in [
        (&fleet.web, &["/etc/wireguard/wg0.key", "/etc/wireguard/wg0.svc1.psk", "/etc/culvert/tls.key"][..]),
        (&fleet.services, &["/etc/wireguard/wg0.key", "/etc/culvert/internal.key", "/etc/culvert/root.key"]),
    ] {
        for file in files {
            secrets.push(host.read(file)?);
        }
    }
    let lines = secrets
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| line.len() >= 20 && !line.starts_with("--"));
    let mut searched = 0;
    for secret in lines {
        searched += 1;
        if let Some(said) = fleet.said.iter().find(|said| said.contains(secret)) {
            let line = said.lines().find(|line| line.contains(secret)).unwrap_or_default();
            bail!("a secret was printed: {}", line.replace(secret, "(the secret)"));
        }
    }
    // The private key has three lines.
    ensure!(searched >= 9 && fleet.said.len() >= 4, "{searched} secrets in {} outputs", fleet.said.len());
    Ok(())
}

pub(super) fn rotate(fleet: &mut Fleet) -> Result<()> {
    let keys = |fleet: &Fleet| -> Result<[String; 3]> {
        Ok([
            fleet.web.run("head -n 1 /etc/wireguard/wg0.key")?,
            fleet.services.run("head -n 1 /etc/wireguard/wg0.key")?,
            fleet.services.run("head -n 1 /etc/wireguard/wg0.web1.psk")?,
        ])
    };
    let internal = fleet.services.read("/etc/culvert/internal.key")?;
    let before = keys(fleet)?;
    let pid = fleet.web.main_pid("wgd@wg0")?;
    let file = fleet.client.file("through", 150)?;
    let curl = fleet.client.begin_put(&file, "through", RATE)?;
    fleet.play("rotate_keys", &[])?;
    fleet.play("rotate_internal_key", &[])?;
    stored(curl)?;
    fleet.client.fetch_and_compare("c5/through", &file)?;
    let after = keys(fleet)?;
    ensure!(before.iter().zip(&after).all(|(old, new)| old != new), "a key is the old one");
    ensure!(fleet.web.run("head -n 1 /etc/wireguard/wg0.svc1.psk")? == after[2], "the pair's keys differ");
    ensure!(fleet.services.read("/etc/culvert/internal.key")? != internal, "the internal key is the old one");
    ensure!(
        fleet.web.read("/etc/culvert/internal.key")? == fleet.services.read("/etc/culvert/internal.key")?,
        "the internal keys differ"
    );
    ensure!(fleet.web.main_pid("wgd@wg0")? == pid, "wgd was restarted");
    // What rotated is what the files say: the first rollout's keys do not come back.
    let said = fleet.play("site", &["--diff"])?;
    ensure!(changed(&said)? == 0, "a run after the rotation changed something:\n{said}");
    ensure!(keys(fleet)? == after, "a run after the rotation brought old keys back");
    Ok(())
}

pub(super) fn upgrade(fleet: &mut Fleet) -> Result<()> {
    let revision = |revision: u32| format!("common_deb_path={}", packages_of(revision).display());
    let installed = |fleet: &Fleet, ending: &str| -> Result<()> {
        for (host, daemon) in [(&fleet.web, "edge"), (&fleet.services, "storaged")] {
            let version = host.run(&format!("dpkg-query -W -f '${{Version}}' {daemon}"))?;
            ensure!(version.ends_with(ending), "{daemon} is {version}");
        }
        Ok(())
    };
    for (number, to) in [(1_u32, 2_u32), (2, 1)] {
        let resumable = fleet.client.file(&format!("resumable-{number}"), 100)?;
        let name = format!("c5/resumable-{number}");
        let mut put = fleet.client.command(&["put", &resumable.display().to_string(), &name]).spawn()?;
        let plain = fleet.client.file(&format!("plain-{number}"), 40)?;
        let curl = fleet.client.begin_put(&plain, &format!("plain-{number}"), RATE)?;
        let revision = revision(to);
        let mut arguments = vec!["-e", revision.as_str()];
        if to < number {
            fleet.refused("upgrade", &arguments, "--allow-downgrades")?;
            arguments.extend(["-e", "common_allow_downgrade=true"]);
        }
        fleet.play("upgrade", &arguments)?;
        installed(fleet, &format!("-{to}"))?;
        ensure!(put.wait()?.success(), "the upload that resumes has failed");
        fleet.client.fetch_and_compare(&name, &resumable)?;
        let output = curl.wait_with_output()?;
        // Within the drain grace, or told to try again.
        match String::from_utf8_lossy(&output.stdout).as_ref() {
            "201" => fleet.client.fetch_and_compare(&format!("c5/plain-{number}"), &plain)?,
            "503" => println!("the plain PUT was told to try again"),
            other => bail!("the plain PUT ended with {other:?}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
    // What the newer one stored, the older one serves.
    let file = fleet.client.data.join("resumable-1");
    fleet.client.fetch_and_compare("c5/resumable-1", &file)
}

pub(super) fn backup(fleet: &mut Fleet) -> Result<()> {
    fleet
        .services
        .run("systemctl is-enabled culvert-backup.timer && systemctl start culvert-backup.service")?;
    ensure!(
        fleet.services.run("ls /var/backups/culvert/culvert-*.backup.age | wc -l")? == "1",
        "the timer's unit made no backup"
    );
    let folder = fleet.client.data.join("backups");
    fs::create_dir_all(&folder)?;
    let arguments = [
        format!("backup_fetch_to={}", folder.display()),
        format!("backup_identity={}", fleet.client.data.join("identity").display()),
        format!("backup_culvert={}", Fleet::culvert().display()),
    ];
    let arguments: Vec<&str> = arguments.iter().flat_map(|it| ["-e", it.as_str()]).collect();
    fleet.play("backup", &arguments)?;
    fleet.services.run("culvert backup status")?;
    // Stored after the backup: the journal mirror, on the volume, has it.
    let file = fleet.client.file("after-the-backup", 5)?;
    fleet.client.culvert(&["put", &file.display().to_string(), "c5/after-the-backup"]).map(drop)
}

fn newest_backup(fleet: &Fleet) -> Result<String> {
    let mut found: Vec<_> = fs::read_dir(fleet.client.data.join("backups"))
        .context("the step with the backup comes first")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort();
    Ok(found.pop().context("there is no backup")?.display().to_string())
}

pub(super) fn drill(fleet: &mut Fleet) -> Result<()> {
    // A copy of the volume, as of a crash; the store goes on.
    let (from, to) = (fleet.services.path("/srv/culvert"), fleet.spare.path("/srv/culvert"));
    super::host::run(&format!("cp -a {} {}", from.display(), to.display()))?;
    let arguments = [
        format!("restore_backup={}", newest_backup(fleet)?),
        format!("restore_identity={}", fleet.client.data.join("identity").display()),
    ];
    let arguments: Vec<&str> = arguments.iter().flat_map(|it| ["-e", it.as_str()]).collect();
    let began = Clock.now();
    let said = fleet.play("restore_drill", &arguments)?;
    let line = said.lines().find(|line| line.contains("back after")).unwrap_or_default();
    ensure!(!line.is_empty(), "the drill does not say how long it took:\n{said}");
    println!("{} ({:.1} minutes with the packages)", line.trim(), began.elapsed().as_secs_f32() / 60.0);
    ensure!(
        !fleet.spare.succeeds("test -e /run/culvert-restore || systemctl -q is-active storaged")?,
        "the identity or a running store was left behind"
    );
    Ok(())
}

pub(super) fn no_overwriting(fleet: &mut Fleet) -> Result<()> {
    let arguments = [
        format!("restore_backup={}", newest_backup(fleet)?),
        format!("restore_identity={}", fleet.client.data.join("identity").display()),
    ];
    let arguments: Vec<&str> = arguments.iter().flat_map(|it| ["-e", it.as_str()]).collect();
    fleet.refused("restore", &arguments, "A store is here already")?;
    fleet.web.until("edge is ready", SOON, "curl -fs http://192.0.2.10:9587/readyz")
}

pub(super) fn cleanup(fleet: &mut Fleet) -> Result<()> {
    // An upload that could be resumed, and nobody does.
    fleet.client.begin_upload("left-lying")?;
    fleet.services.run("culvert upload list --json | grep -q .")?;
    fleet.play("emergency_cleanup", &["--check"])?;
    fleet.refused("emergency_cleanup", &[], "yes-delete-temporary")?;
    let said = fleet.play("emergency_cleanup", &["-e", "confirm=yes-delete-temporary"])?;
    ensure!(said.contains("of them 1 unfinished uploads") && said.contains("nothing is left"), "{said}");
    Ok(())
}

pub(super) fn compromise(fleet: &mut Fleet) -> Result<()> {
    let old = fleet.web.run("head -n 1 /etc/wireguard/wg0.key | culvert key pub")?;
    let psk = fleet.services.run("head -n 1 /etc/wireguard/wg0.web1.psk")?;
    fleet.refused("compromise", &["-e", "compromised=web1"], "yes-replace-keys")?;
    let said = fleet.play("compromise", &["-e", "compromised=web1", "-e", "confirm=yes-replace-keys"])?;
    ensure!(said.contains("records of the last 7 days under the old key"), "{said}");
    for host in [&fleet.web, &fleet.services] {
        host.run(&format!("grep -qF '# denied_key = {old}' /etc/wireguard/wg0.conf"))?;
    }
    ensure!(
        fleet.services.run("head -n 1 /etc/wireguard/wg0.web1.psk")? != psk,
        "the pre-shared key is the old one"
    );
    ensure!(
        fleet.services.run("wc -l < /root/culvert-compromise-web1.jsonl")?.parse::<u32>()? > 5,
        "no records"
    );
    // A later rollout does not let it in again.
    let said = fleet.play("site", &["--diff"])?;
    ensure!(changed(&said)? == 0, "a run after it changed something:\n{said}");
    fleet.services.run(&format!("grep -qF '# denied_key = {old}' /etc/wireguard/wg0.conf"))?;
    let file = fleet.client.data.join("first");
    fleet.client.fetch_and_compare("c5/first", &file)
}

pub(super) fn decommission(fleet: &mut Fleet) -> Result<()> {
    fleet.refused(
        "decommission",
        &["-e", "decommission=svc1", "-e", "confirm=yes-decommission"],
        "the store",
    )?;
    fleet.play("decommission", &["-e", "decommission=web1", "-e", "confirm=yes-decommission"])?;
    let left = fleet
        .web
        .run("ls -d /etc/culvert /var/lib/wgd /run/netns/culvert /etc/wireguard/* 2>/dev/null || :")?;
    ensure!(left.is_empty(), "left behind: {left}");
    ensure!(!fleet.services.run("culvert edge list")?.contains("web1"), "the store knows the edge still");
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        fleet.services.run("culvert ledger verify && culvert verify integrity")?.contains(' '),
        "no answer"
    );
    Ok(())
}
