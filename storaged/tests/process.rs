//! The real program: refuses bad configurations, serves under its lock-down (read from
//! `/proc`), answers operators, ends in order, and tidies after `kill -9`.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use storaged::keys::{KeyChange, KeyStore as _, Keys, RootKey};
use store_proto::{Cohort, FileId, headers};

/// A number from the range that Debian gives to nobody.
const SERVICE_USER: linux::User = linux::User { uid: 64_123, gid: 64_123 };

#[test]
fn a_served_file_and_a_lockdown_that_proc_confirms() {
    let made = Made::new();
    let running = made.start();
    let pid = running.child.id();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(':').unwrap().1.split_whitespace().next().unwrap().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        assert_eq!(field("Uid"), SERVICE_USER.uid.to_string());
    }
    let answer = made.upload(b"some bytes");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let metrics = http_get(made.metrics, "/metrics");
    for line in [
        "storaged_operations_total{action=\"file_uploaded_via_stream\",result=\"succeeded\"} 1",
        "storaged_lockdown{layer=\"seccomp\"} 1",
        "storaged_received_bytes_total 10",
        "storaged_objects 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    for secret in ["\"ada\"", "\"c1\"", "192.0.2.9", "10.100", "web1"] {
        assert!(!metrics.contains(secret), "{secret} is in the metrics");
    }
    assert!(http_get(made.metrics, "/readyz").contains("ready"));
    let log = running.end(Signal::SIGTERM, Some(0));
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn operators_read_the_trail_and_reload() {
    let made = Made::new();
    let running = made.start();
    made.upload(b"x");
    let mut items = Vec::new();
    let args = json!({"action": "nas_raw_created"});
    daemon::admin::call(&made.path("admin.sock"), "audit.trail", args, &[], |item| items.push(item)).unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["origin"]["user"], "ada");
    assert!(items[0]["time"].as_str().unwrap().ends_with('Z'));
    assert!(items[0]["host"]["boot_id"].is_string(), "{}", items[0]);

    let text = std::fs::read_to_string(made.path("storaged.toml")).unwrap();
    // A bad file is refused and the old one stays.
    let error = made
        .reload(&text.replace("[[volume]]", "[limits]\nbody_idle_timeout_seconds = 0\n[[volume]]"))
        .unwrap_err();
    assert!(error.to_string().contains("body_idle_timeout_seconds"), "{error}");
    let error = made.reload(&format!("{text}\n[[user]]\nname = \"eve\"\n")).unwrap_err();
    assert!(error.to_string().contains("culvert user add"), "{error}");
    assert!(made.upload(b"x").starts_with("HTTP/1.1 200"));
    assert_eq!(made.reload(&text).unwrap(), json!({"reloaded": true, "restart_needed": []}));
    // A user who is shut out is nobody, at once, and comes back with a new token alone.
    made.call("user.disable", json!({"user": "ada"})).unwrap();
    let answer = made.upload(b"x");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    made.call("user.disable", json!({"user": "ada"})).unwrap_err();
    made.call("user.enable", json!({"user": "ada"})).unwrap();
    assert!(made.upload(b"x").starts_with("HTTP/1.1 401"));
    let issued = made.call("token.issue", json!({"user": "ada", "label": "laptop"})).unwrap();
    let made = made.with_token(issued["token"].as_str().unwrap());
    let moved = text.replace(&made.metrics.to_string(), "127.0.0.1:1");
    assert_eq!(made.reload(&moved).unwrap()["restart_needed"], json!(["metrics_listen"]));
    assert!(made.upload(b"x").starts_with("HTTP/1.1 200"));

    let status = made.call("status", Value::Null).unwrap();
    assert_eq!((&status["role"], &status["encrypted_at_rest"]), (&json!("testing"), &json!(true)));
    assert_eq!(status["lockdown"]["layers"]["seccomp"], "on");
    made.call("nonsense", Value::Null).unwrap_err();
    // Where things are; what nobody claims is kept out of the way, by a sealed process too.
    let listed = made.items("volume.list");
    assert_eq!((&listed[0]["volume"], &listed[0]["usable"]), (&json!("main"), &json!(true)));
    let stranger = "ab".repeat(16);
    std::fs::write(made.path("volume/tmp").join(&stranger), b"of another ledger").unwrap();
    assert_eq!(
        made.items("volume.unclaimed"),
        [json!({"volume": "main", "kind": "temporary", "what": stranger})]
    );
    let used = made.items("usage");
    assert_eq!((&used[0]["files"], &used[0]["bytes"]), (&json!(1), &json!(1)));
    let shards = std::fs::read_dir(made.path("volume/objects")).unwrap().map(|shard| shard.unwrap().path());
    let mut objects = shards.flat_map(|shard| {
        let name = shard.file_name().unwrap().display().to_string();
        let rests = std::fs::read_dir(&shard).unwrap().map(|rest| rest.unwrap().file_name());
        rests.map(|rest| format!("{name}{}", rest.display())).collect::<Vec<_>>()
    });
    let claimed = objects.next().unwrap();
    let aside = |object: &str| made.call("volume.set_aside", json!({"volume": "main", "object": object}));
    aside(&claimed).unwrap_err();
    aside(&stranger).unwrap();
    assert!(
        made.path("volume/aside").join(stranger.clone() + ".tmp").exists()
            && made.items("volume.unclaimed").is_empty()
    );
    assert!(made.items("upload.list").is_empty());
    let mut actions = Vec::new();
    daemon::admin::call(&made.path("admin.sock"), "audit.trail", Value::Null, &[], |item| {
        actions.push(format!(
            "{} {}",
            item["action"].as_str().unwrap(),
            item["ending"].as_str().unwrap_or("-")
        ));
    })
    .unwrap();
    for expected in
        ["admin.reload failed", "admin.reload succeeded", "admin.status succeeded", "admin.refused denied"]
    {
        assert!(actions.iter().any(|action| action == expected), "{expected} is not in {actions:?}");
    }
    running.end(Signal::SIGTERM, Some(0));
}

/// Under the seal: new files in the state directory, renames, removals, and no memory mapped for secrets.
#[test]
fn keys_are_rotated_and_shredded_by_a_sealed_daemon() {
    let made = Made::new();
    let (lives, gone) = {
        let root = RootKey::read(made.path("root.key").to_str().unwrap()).unwrap();
        let keys = Keys::open(&made.path("state"), root).unwrap();
        let cohort = Cohort::parse("c1").unwrap();
        let add = |byte| {
            let file = FileId::from_bytes([byte; 16]);
            let (key, change) = keys.new_file_key(&cohort, file, 0).unwrap();
            keys.commit(&[change]).unwrap();
            (file, key)
        };
        let (lives, gone) = (add(1), add(2));
        keys.commit(&[KeyChange::Destroy { file: gone.0 }]).unwrap();
        (lives, gone)
    };
    let running = made.start();
    let rotated = made.call("kek.rotate", json!({"cohort": "c1"})).unwrap();
    assert_eq!(rotated["rotated"][0]["version"], 2, "{rotated}");
    wait("the file key is re-wrapped", || {
        let status = made.call("kek.status", Value::Null).unwrap();
        status["cohorts"][0]["pending"] == 0
    });
    let status = made.call("kek.status", Value::Null).unwrap();
    assert_eq!(status["cohorts"][0]["not_yet_shredded"], 1, "{status}");
    let shred = made.call("kek.shred", Value::Null).unwrap();
    assert_eq!((&shred["destroyed"], &shred["survivors"]), (&json!(1), &json!(1)), "{shred}");
    assert_eq!(made.call("kek.shred", Value::Null).unwrap()["destroyed"], 0);
    let refused = made.call("kek.rotate", json!({"cohort": "nowhere"})).unwrap_err().to_string();
    assert!(refused.contains("nowhere"), "{refused}");

    let new = made.path("root-2.key");
    std::fs::write(&new, RootKey::generate().unwrap().to_text().as_bytes()).unwrap();
    let rotate = || {
        let file = std::fs::File::open(&new).unwrap();
        let args = json!({"path": new});
        daemon::admin::call(&made.path("admin.sock"), "kek.rotate_root", args, &[file.as_fd()], |_| ())
    };
    let refused = rotate().unwrap_err().to_string();
    assert!(refused.contains("chmod"), "everybody may read it: {refused}");
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    rotate().unwrap();
    let metrics = http_get(made.metrics, "/metrics");
    for line in ["storaged_dek_rewrap_pending 0", "storaged_shreds_total{result=\"succeeded\"} 1"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let mut actions = Vec::new();
    daemon::admin::call(&made.path("admin.sock"), "audit.trail", Value::Null, &[], |item| {
        actions.push(item["action"].as_str().unwrap().to_owned());
    })
    .unwrap();
    for expected in ["key.rotated", "key.destroyed", "key.root_rotated"] {
        assert!(actions.iter().filter(|action| *action == expected).count() >= 2, "{expected}: {actions:?}");
    }
    running.end(Signal::SIGTERM, Some(0));
    let keys = Keys::open(&made.path("state"), RootKey::read(new.to_str().unwrap()).unwrap()).unwrap();
    assert_eq!(keys.file_key(lives.0, 0).unwrap().unwrap().as_bytes(), lives.1.as_bytes());
    assert!(keys.file_key(gone.0, 0).unwrap().is_none());
}

#[test]
fn holds_and_cleanups_are_asked_for_by_name() {
    let made = Made::new();
    let running = made.start();
    let placed = made.call("hold.place", json!({"cohort": "c1", "reason": "case 12"})).unwrap();
    let mut holds = Vec::new();
    daemon::admin::call(&made.path("admin.sock"), "hold.list", Value::Null, &[], |item| holds.push(item))
        .unwrap();
    assert_eq!((&holds[0]["id"], &holds[0]["cohort"]), (&placed["id"], &json!("c1")));
    assert!(holds[0]["placed_by"].as_str().unwrap().starts_with("uid="));
    for (verb, args, wrong) in [
        ("hold.place", json!({"cohort": "nowhere", "reason": "x"}), "there is no cohort nowhere"),
        ("hold.place", json!({"cohort": "c1", "reason": " "}), "reason"),
        ("hold.place", json!({"reason": "x"}), "either a cohort or a file"),
        ("hold.place", json!({"file": "00112233445566778899aabbccddeeff", "reason": "x"}), "no such file"),
        ("hold.release", json!({"id": 9999, "reason": "x"}), "no hold 9999"),
        ("cleanup.mark", json!({"id": 9999}), "no cleanup 9999"),
        ("cleanup.mark", json!({"id": "x"}), "invalid type"),
    ] {
        let error = made.call(verb, args).unwrap_err().to_string();
        assert!(error.contains(wrong), "{verb}: {error}");
    }
    made.call("hold.release", json!({"id": placed["id"], "reason": "closed"})).unwrap();
    assert_eq!(made.call("hold.list", Value::Null).unwrap(), json!({"holds": 0}));
    assert_eq!(made.call("cleanup.list", json!({"overdue": true})).unwrap(), json!({"cleanups": 0}));
    assert_eq!(made.call("cleanup.verify", Value::Null).unwrap(), json!({"gone": 0, "still_there": 0}));
    assert_eq!(
        made.call("cleanup.emergency", json!({"confirm": true})).unwrap(),
        json!({"gone": 0, "still_there": 0})
    );
    let metrics = made.get_metrics();
    let counted = ["storaged_cleanups_overdue 0", "storaged_legal_holds 0", "storaged_cleanups_pending 0"];
    for series in counted {
        assert!(metrics.contains(series), "{series}");
    }
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn a_report_is_made_of_the_trail() {
    let made = Made::new();
    let running = made.start();
    made.upload(b"x");
    let document = |args: Value| {
        let mut text = String::new();
        daemon::admin::call(&made.path("admin.sock"), "report.audit", args, &[], |item| {
            text.push_str(item["text"].as_str().unwrap());
        })
        .map(|done| (text, done))
    };
    let all = json!({"cohort": "c1", "format": "json", "from_ms": 0, "to_ms": 9_000_000_000_000_u64});
    let (text, done) = document(all.clone()).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let records = report["records"].as_array().unwrap();
    assert_eq!(done["records"], records.len());
    assert!(
        records
            .iter()
            .any(|record| record["action"] == "nas_raw_created" && record["origin"]["user"] == "ada")
    );
    assert!(records.iter().all(|record| record["cohort"] == "c1"));
    assert!(report["summary"]["checkpoint"].as_str().unwrap().starts_with("culvert/"));
    for (key, value, wrong) in [
        ("format", json!("pdf"), "format"),
        ("cohort", json!("nowhere"), "no such cohort"),
        ("to_ms", json!(0), "not before"),
    ] {
        let mut args = all.clone();
        args[key] = value;
        let error = document(args).unwrap_err().to_string();
        assert!(error.contains(wrong), "{error}");
    }
    // One file's trail, by its id.
    let id = records.iter().find_map(|record| record["file_id"].as_str()).unwrap();
    let mut found = Vec::new();
    daemon::admin::call(
        &made.path("admin.sock"),
        "audit.trail",
        json!({"file": id, "limit": 2}),
        &[],
        |item| {
            found.push(item["action"].as_str().unwrap().to_owned());
        },
    )
    .unwrap();
    assert_eq!(found, ["nas_raw_created", "file_uploaded_via_stream"]);
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn after_kill_9_the_next_start_tidies_and_serves() {
    let made = Made::new();
    let running = made.start();
    assert!(made.upload(b"kept").starts_with("HTTP/1.1 201"));
    let mut half = made.send_head("half", 3_000_000);
    half.write_all(&vec![7; 1_000_000]).unwrap();
    wait("a temporary file", || std::fs::read_dir(made.path("volume/tmp")).unwrap().count() == 1);
    running.end(Signal::SIGKILL, None);
    let running = made.start();
    assert_eq!(std::fs::read_dir(made.path("volume/tmp")).unwrap().count(), 0);
    assert!(made.upload(b"kept").starts_with("HTTP/1.1 200"), "what was acknowledged is there");
    let log = running.end(Signal::SIGTERM, Some(0));
    assert!(log.contains("a dead process had left open"), "{log}");
}

#[test]
fn a_drain_lets_a_running_upload_end() {
    let made = Made::new();
    let running = made.start();
    let mut stream = made.send_head("slow", 600_000);
    stream.write_all(&[7; 300_000]).unwrap();
    wait("a temporary file", || std::fs::read_dir(made.path("volume/tmp")).unwrap().count() == 1);
    kill(running.pid(), Signal::SIGTERM).unwrap();
    wait("new connections are refused or unanswered", || !made.is_healthy());
    stream.write_all(&[7; 300_000]).unwrap();
    let answer = read_answer(stream);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    running.wait(Some(0));
}

#[test]
fn the_directory_of_the_sockets_is_made_after_a_boot() {
    let made = Made::new();
    let text = std::fs::read_to_string(made.path("storaged.toml")).unwrap();
    let text = text.replace("/admin.sock\"", "/run/culvert/admin.sock\"");
    std::fs::write(made.path("storaged.toml"), text).unwrap();
    let running = made.start();
    assert!(made.path("run/culvert/admin.sock").exists());
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn a_listener_that_is_handed_in_is_used_if_it_is_the_configured_one() {
    let made = Made::new();
    let (configured, other) = (
        std::net::TcpListener::bind(made.address).unwrap(),
        std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let hand_in = |listener: std::net::TcpListener| {
        let script =
            "LISTEN_FDS=1 LISTEN_FDNAMES=internal LISTEN_PID=$$ exec \"$0\" --config \"$1\" 3<&0 </dev/null";
        Command::new("sh")
            .args([
                "-c",
                script,
                env!("CARGO_BIN_EXE_storaged"),
                made.path("storaged.toml").to_str().unwrap(),
            ])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let refused = hand_in(other).wait_with_output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{told}");
    assert!(told.contains("`internal`") && told.contains(&made.address.to_string()), "{told}");

    let running = Running::of(hand_in(configured));
    wait("storaged is healthy", || made.is_healthy());
    assert!(made.upload(b"x").starts_with("HTTP/1.1 201"));
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn bad_configurations_are_refused_by_key_value_and_exit_code() {
    let made = Made::new();
    let text = std::fs::read_to_string(made.path("storaged.toml")).unwrap();
    let services = text.replace("role = \"testing\"", "role = \"services\"");
    let address = format!("\"{}\"", made.address);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let table: Vec<(String, Vec<String>)> = vec![
        (text.replace("role = \"testing\"\n", ""), vec!["role".into(), "no default".into()]),
        (text.replace("\"testing\"", "\"web\""), vec!["role".into(), "edge".into()]),
        (format!("colour = 1\n{text}"), vec!["colour".into(), "bad.toml:1:1".into()]),
        (services.clone(), vec!["bind_address".into(), made.address.to_string(), "loopback".into()]),
        (services.replace(&address, "\"0.0.0.0:8001\""), vec!["0.0.0.0:8001".into()]),
        (
            services.replace(&address, "\"192.0.2.1:8001\""),
            vec!["192.0.2.1:8001".into(), "10.100.0.0/24".into()],
        ),
        (services.replace(&address, "\"10.100.0.250:8001\""), vec!["10.100.0.250:8001".into(), "wg0".into()]),
        (text.replace(&address, &format!("\"{}\"", taken.local_addr().unwrap())), vec!["in use".into()]),
        (
            text.replace(&made.metrics.to_string(), &taken.local_addr().unwrap().to_string()),
            vec!["metrics_listen".into(), "in use".into()],
        ),
        (
            text.replace("/admin.sock\"", "/storaged.toml/x.sock\""),
            vec!["admin_socket".into(), "storaged.toml/x.sock".into()],
        ),
        (
            text.replace("internal.key", "missing.key"),
            vec!["internal_api_key_file".into(), "missing.key".into()],
        ),
        (format!("{text}\n[[cohort]]\nname = \"c9\"\n"), vec!["culvert cohort add".into()]),
        (text.replace("volume\"", "state\""), vec!["volume `main`".into(), ".culvert-volume".into()]),
    ];
    for (text, expected) in table {
        let file = made.path("bad.toml");
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_storaged"))
            .args(["--config", file.to_str().unwrap(), "--log-level", "error"])
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        // What a later start may find better is not the configuration's fault.
        let code = match expected[0].as_str() {
            "10.100.0.250:8001" => 75,
            "in use" | "metrics_listen" | "admin_socket" => 71,
            _ => 78,
        };
        assert_eq!(output.status.code(), Some(code), "{expected:?}: {told}");
        for part in expected {
            assert!(told.contains(&part), "{part:?} is not in {told:?}");
        }
    }
}

#[test]
fn the_configuration_can_be_checked_and_printed_without_secrets() {
    let made = Made::new();
    let run = |flag| {
        let output = Command::new(env!("CARGO_BIN_EXE_storaged"))
            .args(["--config", made.path("storaged.toml").to_str().unwrap(), flag])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("--check-config").contains("ok"));
    let printed = run("--print-config");
    assert!(printed.contains("role = \"testing\"") && !printed.contains("ada"));
    assert!(printed.contains("admin_users = []") && printed.contains("auditor_users = []"), "{printed}");
    let key = std::fs::read_to_string(made.path("internal.key")).unwrap();
    assert!(!printed.contains(key.trim()));
}

/// As another user: what the admin socket says to `verb`.
fn ask_as(made: &Made, uid: u32, verb: &str) -> String {
    // This very program, for the kernel tells who a process is and not who a thread is.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "asks_as_whoever_runs_it", "--nocapture"])
        .env("ADMIN_SOCKET", made.path("admin.sock"))
        .env("ADMIN_VERB", verb)
        .uid(uid)
        .gid(SERVICE_USER.gid)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The other half of [`ask_as`]; by itself it asks nothing.
#[test]
fn asks_as_whoever_runs_it() {
    let (Ok(socket), Ok(verb)) = (std::env::var("ADMIN_SOCKET"), std::env::var("ADMIN_VERB")) else { return };
    let args = if verb == "user.disable" { json!({"user": "ada"}) } else { Value::Null };
    let told = daemon::admin::call(&PathBuf::from(socket), &verb, args, &[], |_| ());
    let told = match told {
        Ok(_) => "answered".to_owned(),
        Err(error) => error.to_string(),
    };
    std::io::stdout().write_all(format!("told: {told}\n").as_bytes()).unwrap();
}

#[test]
fn an_auditor_looks_and_a_stranger_is_recorded() {
    const AUDITOR: u32 = 64_200;
    let made = Made::new();
    let file = made.path("storaged.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("auditor_users = [\"{AUDITOR}:{AUDITOR}\"]\n{text}")).unwrap();
    let running = made.start();
    for verb in ["user.list", "access.list", "audit.trail", "status", "capability.key"] {
        let told = ask_as(&made, AUDITOR, verb);
        assert!(told.contains("told: answered"), "{verb}: {told}");
    }
    let told = ask_as(&made, AUDITOR, "user.disable");
    assert!(told.contains("an auditor looks and changes nothing"), "{told}");
    assert!(made.upload(b"x").starts_with("HTTP/1.1 201"), "ada was not shut out");
    let told = ask_as(&made, 64_300, "user.list");
    assert!(told.contains("may not use this socket"), "{told}");
    let mut refusals = Vec::new();
    daemon::admin::call(&made.path("admin.sock"), "audit.trail", Value::Null, &[], |item| {
        if item["ending"] == "denied" {
            refusals.push(format!("{} {} {}", item["action"], item["detail"], item["origin"]["caller"]));
        }
    })
    .unwrap();
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(refusals[0].contains("auditor may not user.disable") && refusals[0].contains("uid=64200"));
    assert!(refusals[1].contains("admin_caller") && refusals[1].contains("uid=64300"));
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn an_internal_key_that_everybody_can_read_is_refused() {
    let made = Made::new();
    let key = made.path("internal.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_storaged"))
        .args(["--config", made.path("storaged.toml").to_str().unwrap(), "--check-config"])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("internal.key") && told.contains("644"), "{told}");
}

fn head(address: SocketAddr, key: &str, token: store_proto::Token) -> String {
    let context = support::context(token).encode();
    format!(
        "host: {address}\r\n{}: {key}\r\n{}: {context}\r\n{}: c1\r\n",
        headers::X_INTERNAL_KEY,
        headers::CULVERT_CONTEXT,
        headers::CULVERT_COHORT,
    )
}

struct Made {
    folder: tempfile::TempDir,
    address: SocketAddr,
    metrics: SocketAddr,
    head: String,
}

impl Made {
    fn new() -> Made {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests start a daemon that becomes another user: run as root"
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, metrics) = (free(), free());
        let options = storaged::init::InitOptions {
            bind_address: address,
            metrics_listen: metrics,
            owner: Some(SERVICE_USER),
            ..support::options(folder.path(), None)
        };
        let report = storaged::init::run(options).unwrap();
        let token = report.tokens.iter().find(|issued| issued.user.as_str() == "ada").unwrap().token.clone();
        let key = std::fs::read_to_string(&report.internal_key_path).unwrap();
        let head = head(address, key.trim(), token);
        support::fake_wgd(&folder.path().join("wgd.events"));
        let wgd = folder.path().join("wgd.events");
        std::os::unix::fs::chown(wgd, Some(SERVICE_USER.uid), None).unwrap();
        Made { folder, address, metrics, head }
    }

    /// Asks with another token from now on.
    fn with_token(mut self, token: &str) -> Made {
        let key = std::fs::read_to_string(self.path("internal.key")).unwrap();
        self.head = head(self.address, key.trim(), store_proto::Token::parse(token).unwrap());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Running {
        let child = Command::new(env!("CARGO_BIN_EXE_storaged"))
            .args(["--config", self.path("storaged.toml").to_str().unwrap(), "--log-format", "text"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let running = Running::of(child);
        wait("storaged is healthy", || self.is_healthy());
        running
    }

    fn get_metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.metrics);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn is_healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let request = format!(
            "GET /internal/storage/health HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.address
        );
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }

    fn send_head(&self, path: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "POST /internal/storage/upload HTTP/1.1\r\n{}culvert-path: {path}\r\ncontent-length: {length}\r\n\r\n",
            self.head
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    fn upload(&self, bytes: &[u8]) -> String {
        let mut stream = self.send_head("f", bytes.len());
        stream.write_all(bytes).unwrap();
        read_answer(stream)
    }

    fn items(&self, verb: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let keep = |item: Value| items.push(item);
        daemon::admin::call(&self.path("admin.sock"), verb, Value::Null, &[], keep).unwrap();
        items
    }

    fn call(&self, verb: &str, args: Value) -> Result<Value, daemon::admin::CallError> {
        daemon::admin::call(&self.path("admin.sock"), verb, args, &[], |_| ())
    }

    fn reload(&self, text: &str) -> Result<Value, daemon::admin::CallError> {
        let file = self.path("new.toml");
        std::fs::write(&file, text).unwrap();
        let (config, key) =
            (std::fs::File::open(&file).unwrap(), std::fs::File::open(self.path("internal.key")).unwrap());
        let files = json!({"files": [
            {"key": "config", "reference": "new.toml", "path": "new.toml"},
            {"key": "internal_api_key_file", "reference": self.path("internal.key"), "path": self.path("internal.key")},
        ]});
        daemon::admin::call(&self.path("admin.sock"), "reload", files, &[config.as_fd(), key.as_fd()], |_| ())
    }
}

struct Running {
    child: Child,
    log: std::thread::JoinHandle<String>,
}

impl Running {
    fn of(mut child: Child) -> Running {
        let log = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                text.push_str(&line);
                text.push('\n');
            }
            text
        });
        Running { child, log }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn end(self, signal: Signal, code: Option<i32>) -> String {
        kill(self.pid(), signal).unwrap();
        self.wait(code)
    }

    fn wait(mut self, code: Option<i32>) -> String {
        let status = self.child.wait().unwrap();
        let log = self.log.join().unwrap();
        assert_eq!(status.code(), code, "{log}");
        log
    }
}

fn read_answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains('}') {
        let length = stream.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the connection ended: {answer:?}");
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come true within 10 s");
}
