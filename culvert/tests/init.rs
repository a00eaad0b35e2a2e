//! `culvert init storaged` makes a store once, and never a second time.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use store_proto::Token;

#[test]
fn a_store_is_made_once_and_its_tokens_shown_once() {
    let folder = tempfile::tempdir().unwrap();
    let made = init(folder.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let report: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let users: Vec<_> =
        report["tokens"].as_array().unwrap().iter().map(|it| it["user"].as_str().unwrap()).collect();
    assert_eq!(users, ["admin", "ann"]);
    let config = fs::read_to_string(folder.path().join("storaged.toml")).unwrap();
    for issued in report["tokens"].as_array().unwrap() {
        let token = Token::parse(issued["token"].as_str().unwrap()).unwrap();
        assert!(!config.contains(&token.digest().to_string()) && !config.contains(token.expose()));
    }

    let again = init(folder.path());
    assert_eq!(again.status.code(), Some(3), "refused");
    assert!(String::from_utf8_lossy(&again.stderr).contains("storaged.toml exists already"));
    assert_eq!(fs::read_to_string(folder.path().join("storaged.toml")).unwrap(), config);
}

#[test]
fn an_address_outside_the_tunnel_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(folder.path(), &["--profile", "lab", "--bind-address", "192.0.2.1:8001"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bind_address"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_production_store_that_would_stay_root_is_not_made() {
    if !nix::unistd::geteuid().is_root() {
        return; // Nobody but root can become somebody else.
    }
    let folder = tempfile::tempdir().unwrap();
    let refused = run(folder.path(), &["--profile", "production"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--run-as storaged"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let made = run(folder.path(), &["--profile", "production", "--run-as", "64123:64123", "--no-recovery"]);
    assert!(made.status.success());
    assert!(String::from_utf8_lossy(&made.stdout).contains("LOSES EVERY FILE"));
}

#[test]
fn a_production_store_without_a_way_to_recover_the_root_key_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(folder.path(), &["--profile", "production", "--run-as", "64123:64123"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--no-recovery"));
    let refused = run(folder.path(), &["--profile", "lab", "--recovery-recipient", "age1nobody"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("age1nobody"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The pair is the one that age itself is tested with.
#[test]
fn the_root_key_is_wrapped_to_its_recipient_and_proven_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let identity = folder.path().join("identity.txt");
    fs::write(&identity, IDENTITY).unwrap();
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    let made = run(
        &store,
        &[
            "--profile",
            "lab",
            "--recovery-recipient",
            RECIPIENT,
            "--prove-recovery",
            identity.to_str().unwrap(),
            "--json",
        ],
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let report: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(report["recovery"]["proven"], true);
    let wrapped = fs::read_to_string(report["recovery"]["path"].as_str().unwrap()).unwrap();
    assert!(wrapped.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
}

#[test]
fn a_volume_is_added_once_and_belongs_to_the_store() {
    let folder = tempfile::tempdir().unwrap();
    assert!(init(folder.path()).status.success());
    let config = folder.path().join("storaged.toml");
    let add = |name: &str| {
        let volume = format!("{name}={}", folder.path().join(name).display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.args(["volume", "add", "--config"]).arg(&config).arg(volume).output().unwrap()
    };
    let added = add("second");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let marker = |volume: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(volume.join(".culvert-volume")).unwrap()).unwrap()
    };
    let parsed: toml::Table = fs::read_to_string(&config).unwrap().parse().unwrap();
    let volumes = parsed["volume"].as_array().unwrap();
    assert_eq!(volumes.len(), 2);
    let [first, second] = [0, 1].map(|i| marker(Path::new(volumes[i]["path"].as_str().unwrap())));
    assert_eq!(first["store_id"], second["store_id"]);
    assert_ne!(first["volume_id"], second["volume_id"]);
    assert_eq!(add("second").status.code(), Some(3), "refused");
    assert_eq!(fs::read_to_string(&config).unwrap().matches("[[volume]]").count(), 2);
}

#[test]
fn what_is_made_can_be_reached_by_its_owner_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let made = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_culvert")])
        .args(["init", "storaged", "--profile", "lab", "--edge", "web1", "--config"])
        .arg(at("etc/culvert/storaged.toml"))
        .arg("--internal-key")
        .arg(at("etc/culvert/internal.key"))
        .arg("--state-dir")
        .arg(at("lib/culvert/state"))
        .arg("--volume")
        .arg(format!("main={}", at("srv/culvert/volume").display()))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
    for passable in ["etc", "etc/culvert", "lib", "lib/culvert", "srv", "srv/culvert"] {
        assert_eq!(mode(passable), 0o755, "{passable}");
    }
    for own in ["lib/culvert/state", "srv/culvert/volume", "srv/culvert/volume/objects"] {
        assert_eq!(mode(own), 0o700, "{own}");
    }
    for (file, expected) in [
        ("etc/culvert/storaged.toml", 0o640),
        ("etc/culvert/internal.key", 0o640),
        ("lib/culvert/state/ledger.redb", 0o600),
        ("lib/culvert/state/keys.redb", 0o600),
    ] {
        assert_eq!(mode(file), expected, "{file}");
    }
}

const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33\n";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn init(folder: &Path) -> Output {
    run(folder, &["--profile", "lab", "--edge", "web1", "--cohort", "c5", "--user", "ann:user=c5", "--json"])
}

fn run(folder: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["init", "storaged"])
        .arg("--config")
        .arg(folder.join("storaged.toml"))
        .arg("--internal-key")
        .arg(folder.join("internal.key"))
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--volume")
        .arg(format!("main={}", folder.join("volume").display()))
        .args(more)
        .output()
        .unwrap()
}
