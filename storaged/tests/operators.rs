//! What operators ask of a running daemon by its admin socket, and who may.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/made.rs"]
mod made;
mod support;

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use made::{Made, SERVICE_USER, http_get, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use storaged::keys::{KeyChange, KeyStore as _, Keys, RootKey};
use store_proto::{Cohort, FileId};

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
            keys.commit_ahead(keys.mark().unwrap(), &[change]).unwrap();
            (file, key)
        };
        let (lives, gone) = (add(1), add(2));
        keys.commit_ahead(keys.mark().unwrap(), &[KeyChange::Destroy { file: gone.0 }]).unwrap();
        keys.settle().unwrap();
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
        json!({"gone": 0, "still_there": 0, "uploads_ended": 0, "uploads_broken_off": 0})
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
