//! The configuration file that a program reads by itself, `/etc/wireguard/wg0.conf` (§1.7).

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::check::{Check, Section};
use crate::daemon::Daemon;
use crate::keys::{OTHER, OWN, PRESHARED, base64};
use crate::stage::{INTERFACE, Stage};

/// Longest that a refusal may take.
const REFUSAL_BOUND: Duration = Duration::from_secs(2);

const FILE: &str = "/etc/wireguard/wg0.conf";

pub(super) const CHECKS: &[Check] = &[
    check("interface_file_is_read_at_the_start", |stage| {
        let daemon = started(
            stage,
            &format!(
                "[Interface]\nPrivateKey = {}\nListenPort = 41820\nFwMark = 0x17\nAddress = 10.100.0.10/24\n\
                 MTU = 1400\n\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.100.0.11/32\n\
                 AllowedIPs = 10.8.1.1/16, 10.7.0.0/16\nEndpoint = 192.0.2.9:7\nPersistentKeepalive = 25\n",
                base64(OWN.private),
                base64(OTHER.public),
                base64(PRESHARED)
            ),
        )?;
        let answer = daemon.get()?;
        ensure!(answer.device("private_key") == Some(OWN.private), "{answer:?}");
        ensure!(answer.device("listen_port") == Some("41820"), "{answer:?}");
        ensure!(answer.device("fwmark") == Some("23"), "{answer:?}");
        let peer = answer.peer(OTHER.public)?;
        ensure!(peer.value("preshared_key") == Some(PRESHARED), "{answer:?}");
        ensure!(peer.value("endpoint") == Some("192.0.2.9:7"), "{answer:?}");
        ensure!(peer.value("persistent_keepalive_interval") == Some("25"), "{answer:?}");
        ensure!(peer.allowed_ips() == ["10.100.0.11/32", "10.7.0.0/16", "10.8.0.0/16"], "{answer:?}");
        let link = stage.run(&["ip", "address", "show", "dev", INTERFACE])?.success()?;
        ensure!(
            link.contains("mtu 1400") && link.contains("10.100.0.10/24") && link.contains("UP"),
            "{link}"
        );
        Ok(())
    }),
    check("file_keys_are_case_insensitive_and_comments_are_skipped", |stage| {
        let daemon = started(
            stage,
            &format!(
                "# a comment\n[INTERFACE]\nprivatekey={} # another\nLISTENPORT=41820\nfwmark = off\n\n[peer]\n\
                 publickey={}\npersistentkeepalive = off\nallowedips = \n",
                base64(OWN.private),
                base64(OTHER.public)
            ),
        )?;
        let answer = daemon.get()?;
        ensure!(
            answer.device("listen_port") == Some("41820") && answer.device("fwmark").is_none(),
            "{answer:?}"
        );
        ensure!(answer.peer(OTHER.public)?.value("persistent_keepalive_interval") == Some("0"), "{answer:?}");
        Ok(())
    }),
    check("allowed_ips_become_routes", |stage| {
        let _daemon = started(stage, &with_table(""))?;
        let routes = stage.run(&["ip", "route", "show", "dev", INTERFACE])?.success()?;
        ensure!(routes.contains("10.8.0.0/16"), "{routes}");
        Ok(())
    }),
    check("table_off_makes_no_routes", |stage| {
        let _daemon = started(stage, &with_table("Table = off\n"))?;
        let routes = stage.run(&["ip", "route", "show", "table", "all", "dev", INTERFACE])?.success()?;
        ensure!(!routes.contains("10.8.0.0/16"), "{routes}");
        Ok(())
    }),
    check("table_by_number_takes_the_routes", |stage| {
        let _daemon = started(stage, &with_table("Table = 1234\n"))?;
        let routes = stage.run(&["ip", "route", "show", "table", "1234"])?.success()?;
        ensure!(routes.contains("10.8.0.0/16"), "{routes}");
        Ok(())
    }),
    check("hooks_are_refused_by_name", |stage| {
        for hook in ["PreUp", "PostUp", "PreDown", "PostDown"] {
            let text =
                format!("[Interface]\nPrivateKey = {}\n{hook} = touch /run/owned\n", base64(OWN.private));
            refused(stage, &text, &["wg0.conf:3", hook])?;
        }
        ensure!(!stage.host().path("/run/owned").exists(), "a hook ran");
        Ok(())
    }),
    check("mistakes_in_the_file_name_line_and_key", |stage| {
        for (line, key) in [
            ("ListenPort = 65536", "ListenPort"),
            ("FwMark = many", "FwMark"),
            ("MTU = 12", "MTU"),
            ("Address = 10.0.0.300/8", "Address"),
            ("Table = everything", "Table"),
            ("Nonsense = 1", "Nonsense"),
            ("PrivateKey = AAAA", "PrivateKey"),
        ] {
            let key_line = if key == "PrivateKey" { "# none" } else { "# as below" };
            refused(stage, &format!("[Interface]\n{key_line}\n{line}\n"), &["wg0.conf:3", key])?;
        }
        Ok(())
    }),
    check("refusals_never_quote_a_secret", |stage| {
        let secret = base64(OWN.private);
        let broken = &secret[..43];
        stage.host().write_secret(FILE, format!("[Interface]\nPrivateKey = {broken}\n"))?;
        let (code, said) = stage.foreground().run(REFUSAL_BOUND)?.refusal()?;
        ensure!(code != 0 && !said.contains(&broken[..20]), "{said}");
        Ok(())
    }),
    check("private_key_may_stand_in_a_file_of_its_own", |stage| {
        stage.host().write_secret("/etc/wireguard/wg0.key", base64(OWN.private))?;
        stage.host().write_secret("/etc/wireguard/wg0.psk", base64(PRESHARED))?;
        let daemon = started(
            stage,
            &format!(
                "[Interface]\nPrivateKeyFile = /etc/wireguard/wg0.key\n[Peer]\nPublicKey = {}\n\
                 PresharedKeyFile = /etc/wireguard/wg0.psk\n",
                base64(OTHER.public)
            ),
        )?;
        let answer = daemon.get()?;
        ensure!(answer.device("private_key") == Some(OWN.private), "{answer:?}");
        ensure!(answer.peer(OTHER.public)?.value("preshared_key") == Some(PRESHARED), "{answer:?}");
        Ok(())
    }),
    check("file_that_everybody_can_read_is_noticed", |stage| {
        use std::os::unix::fs::PermissionsExt as _;
        let text = format!("[Interface]\nPrivateKey = {}\n", base64(OWN.private));
        stage.host().write_secret(FILE, text)?;
        std::fs::set_permissions(stage.host().path(FILE), std::fs::Permissions::from_mode(0o644))?;
        let mut daemon = Daemon::begin(stage.host(), stage.foreground())?;
        // Warned of or refused, but never in silence.
        let _ = daemon.until_it_answers();
        std::thread::sleep(Duration::from_millis(100));
        let said = daemon.said().join("\n");
        ensure!(said.contains(FILE), "{said}");
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::File, name, run)
}

fn with_table(table: &str) -> String {
    format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.100.0.10/24\n{table}\n[Peer]\nPublicKey = {}\n\
         AllowedIPs = 10.8.0.0/16\n",
        base64(OWN.private),
        base64(OTHER.public)
    )
}

fn started<'a>(stage: &Stage<'a>, text: &str) -> Result<Daemon<'a>> {
    stage.host().write_secret(FILE, text)?;
    stage.start()
}

/// It does not start, and its reason holds all of `words`.
fn refused(stage: &Stage<'_>, text: &str, words: &[&str]) -> Result<()> {
    stage.host().write_secret(FILE, text)?;
    let (code, said) = stage.foreground().run(REFUSAL_BOUND)?.refusal()?;
    ensure!(code != 0, "{said}");
    for word in words {
        ensure!(said.contains(word), "no {word} in: {said}");
    }
    Ok(())
}
