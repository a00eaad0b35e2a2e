//! What operators see of uploads, end of them, and keep of reports: asked of a sealed daemon.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/made.rs"]
mod made;
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use made::{Made, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn an_upload_is_seen_on_its_way_and_can_be_given_up() {
    let made = Made::new();
    let running = made.start();
    let mut stream = made.send_head("big", 1_000_000);
    stream.write_all(&[7; 300_000]).unwrap();
    wait("its bytes are seen", || made.items("upload.list").iter().any(|item| item["received"] == 300_000));
    let listed = made.items("upload.list");
    let item = &listed[0];
    assert_eq!(
        (&item["state"], &item["resumable"], &item["user"], &item["length"], &item["waits_for"]),
        (&json!("receiving"), &json!(false), &json!("ada"), &json!(1_000_000), &json!("sender")),
        "{item}"
    );
    let silent = item["last_byte_seconds_ago"].as_f64().unwrap();
    wait("the silence grows", || {
        made.items("upload.list")[0]["last_byte_seconds_ago"].as_f64().unwrap() > silent + 0.2
    });
    // The same by the request's id, with the record of its beginning.
    let traced = made.asked("request.trace", json!({ "request": item["request"] }));
    assert_eq!(traced[0]["under_way"]["upload"], item["upload"], "{traced:?}");
    let begun =
        traced.iter().any(|record| record["phase"] == "intent" && record["file_id"] == item["upload"]);
    assert!(begun, "{traced:?}");
    assert_eq!(made.call("upload.show", json!({ "upload": item["upload"] })).unwrap()["received"], 300_000);

    made.call("upload.cancel", json!({ "upload": item["upload"] })).unwrap();
    let answer = made::read_answer(stream);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("given up by an operator"), "{answer}");
    wait("nothing is left", || made.items("upload.list").is_empty());
    let gone = made.call("upload.cancel", json!({ "upload": item["upload"] })).unwrap_err();
    assert!(gone.to_string().contains("there is no upload"), "{gone}");
    let trail = made.asked("audit.trail", json!({ "request": item["request"] }));
    let end = trail.iter().find(|record| record["ending"] == "aborted").unwrap();
    assert_eq!(end["error"], "given up by an operator");
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn an_emergency_ends_unfinished_uploads_too() {
    let made = Made::new();
    let running = made.start();
    let resumable = made.begin_resumable(json!({ "cohort": "c1", "path": "later", "length": 1_000_000 }));
    made.append(&resumable, &[1; 600_000]);
    let shown = made.call("upload.show", json!({ "upload": resumable })).unwrap();
    assert_eq!((&shown["state"], &shown["offset"]), (&json!("interrupted"), &json!(600_000)), "{shown}");
    assert_eq!(shown["objects"][0]["volume"], "main", "{shown}");
    let mut stream = made.send_head("now", 1_000_000);
    stream.write_all(&[7; 300_000]).unwrap();
    wait("both are seen", || made.items("upload.list").len() == 2);

    // Only told.
    let told = made.asked("cleanup.emergency", Value::Null);
    assert_eq!((told.len(), &told[0]["upload"]), (1, &json!(resumable)), "{told:?}");
    assert_eq!(made.items("upload.list").len(), 2);
    let done = made.call("cleanup.emergency", json!({ "confirm": true })).unwrap();
    assert_eq!(
        (&done["uploads_ended"], &done["uploads_broken_off"], &done["still_there"]),
        (&json!(1), &json!(1), &json!(0)),
        "{done}"
    );
    wait("nothing comes in any more", || made.items("upload.list").is_empty());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1 2"), "it was not taken");
    wait("nothing is left on the volume", || {
        support::files_below(&made.path("volume/objects")).is_empty()
            && support::files_below(&made.path("volume/tmp")).is_empty()
    });
    let records = made.asked("audit.trail", json!({ "action": "admin.cleanup_emergency" }));
    assert_eq!(records.len(), 2, "before and after: {records:?}");
    assert!(records[1]["detail"].as_str().unwrap().contains("1 unfinished uploads"), "{records:?}");
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn a_report_becomes_a_tracked_file() {
    let made = Made::new();
    let running = made.start();
    made.upload(b"x");
    let question = |path: &str| {
        json!({
            "format": "md", "cohort": "c1", "from_ms": 0, "to_ms": 4_102_444_800_000_u64, "into": "c1", "path": path,
        })
    };
    let kept = made.call("report.store", question("reports/all.md")).unwrap();
    assert!(kept["records"].as_u64().unwrap() >= 3, "{kept}");
    let file = kept["file_id"].as_str().unwrap();
    let text = made.get(&format!("/internal/storage/files/{file}"));
    assert!(text.contains(r"nas\_raw\_created") && text.contains("## Summary"), "{text}");
    // Its foot holds a checkpoint over all of it, and its receipt says what it is.
    assert!(text.contains("— "), "a signature line of a note: {text}");
    let receipt = made.get(&format!("/internal/storage/files/{file}/receipt"));
    assert!(receipt.contains("nas_report_created"), "{receipt}");
    let records = made.asked("audit.trail", json!({ "file": file, "action": "nas_report_created" }));
    let phases: Vec<_> = records.iter().map(|record| record["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["intent", "outcome"], "{records:?}");
    assert_eq!(records[1]["sha256"], kept["sha256"]);
    assert!(records[1]["origin"]["caller"].as_str().unwrap().starts_with("uid=0 "));
    let streams = made.asked("audit.trail", json!({ "file": file, "action": "file_uploaded_via_stream" }));
    assert!(streams.is_empty(), "nothing came from an edge: {streams:?}");
    // It is never written over, and what is no place is named.
    let again = made.call("report.store", question("reports/all.md")).unwrap_err().to_string();
    assert!(again.contains("there is a file of that name"), "{again}");
    let bad = made.call("report.store", question("../x")).unwrap_err().to_string();
    assert!(bad.contains("path"), "{bad}");
    let verified = made.call("ledger.verify", json!({})).unwrap();
    assert_eq!(verified["findings"], 0, "{verified}");
    running.end(Signal::SIGTERM, Some(0));
}

impl Made {
    fn asked(&self, verb: &str, args: Value) -> Vec<Value> {
        let mut items = Vec::new();
        daemon::admin::call(&self.path("admin.sock"), verb, args, &[], |item| items.push(item)).unwrap();
        items
    }

    fn send(&self, method: &str, path: &str, more: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{}{more}connection: close\r\ncontent-length: {}\r\n\r\n",
            self.head,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
        answer
    }

    fn get(&self, path: &str) -> String {
        self.send("GET", path, "", b"")
    }

    fn begin_resumable(&self, new: Value) -> String {
        let answer = self.send("POST", "/internal/v1/uploads", "", new.to_string().as_bytes());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let told: Value = serde_json::from_str(body).unwrap();
        told["upload_id"].as_str().unwrap().to_owned()
    }

    fn append(&self, upload: &str, bytes: &[u8]) {
        self.send("PATCH", &format!("/internal/v1/uploads/{upload}"), "upload-offset: 0\r\n", bytes);
    }
}
