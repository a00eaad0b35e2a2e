//! Versions, attributes, requests that come again, quotas, files that wait for a scanner, and where objects go.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test panics where it fails")]

mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use storaged::ledger::access::{CohortRules, ContentRule, Scan, Wish};
use storaged::ledger::{Action, Ending, StoreId};
use storaged::objects::{Backend, NasVolume, Pool, Space};
use storaged::volumes::VolumeState;
use store_proto::{
    AttributeRules, Cohort, FileId, FileMeta, FileState, Listing, UploadReceipt, UserName, headers, routes,
};
use support::{Lab, Told, digest};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_replaced_only_by_who_knows_what_is_there() {
    let lab = Lab::start().await;
    let first = receipt(&lab.upload("a/f", "one").send().await, 201);
    let replace = |etag: &str, bytes: &'static str| lab.upload("a/f", bytes).with("if-match", etag).send();
    let wrong = digest(b"other").to_etag();
    assert_eq!(replace(&wrong, "two").await.problem(), "precondition-failed");
    assert_eq!(
        lab.upload("a/g", "two").with("if-match", &first.etag).send().await.problem(),
        "precondition-failed"
    );
    for bad in ["*", "W/\"x\"", "one"] {
        assert_eq!(replace(bad, "two").await.problem(), "bad-request");
    }
    let second = receipt(&replace(&first.etag, "two").await, 201);
    assert_ne!(second.file_id, first.file_id);
    // Once more: it is there already.
    assert_eq!(receipt(&replace(&first.etag, "two").await, 200).file_id, second.file_id);
    assert_eq!(replace(&first.etag, "three").await.problem(), "precondition-failed");
    let third = receipt(&replace(&second.etag, "three").await, 201);

    // The old ones stay, and are listed.
    for (receipt, bytes) in [(&first, "one"), (&second, "two"), (&third, "three")] {
        let told = lab.request(Method::GET, &routes::file(receipt.file_id)).send().await;
        assert_eq!(told.body, bytes);
    }
    let versions = format!("{}?path=a%2Ff", routes::versions(&c1()));
    let listed: Listing =
        serde_json::from_slice(&lab.request(Method::GET, &versions).send().await.body).unwrap();
    let found: Vec<_> = listed.files.iter().map(|file| (file.version, file.file_id)).collect();
    assert_eq!(found, [(3, third.file_id), (2, second.file_id), (1, first.file_id)]);
    assert_eq!(lab.on_volume().len(), 3, "what was refused is gone");
    let of = |path: &str| format!("{}?path={path}", routes::versions(&c1()));
    assert_eq!(lab.request(Method::GET, &of("none")).send().await.problem(), "unknown-file");
    assert_eq!(lab.request(Method::GET, &of("..%2Fx")).send().await.problem(), "invalid-path");
    assert_eq!(
        lab.request(Method::GET, &of("a%2Ff")).of_user("bob").send().await.problem(),
        "cohort-forbidden"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_file_is_told_with_it_listed_and_in_its_receipt() {
    let lab = Lab::start().await;
    let attributes = AttributeRules::parse(["protocol-year=2025", "protocol-year=2026", "site"]).unwrap();
    rules(&lab, CohortRules { attributes, ..CohortRules::default() }).await;
    let with = |path, said| lab.upload(path, "x").with(headers::CULVERT_ATTRIBUTE, said);
    for refused in ["protocol-year=2024", "ward=3", "site=x,ward=3"] {
        let told = with("a", refused).send().await;
        assert_eq!((told.status.as_u16(), told.problem().as_str()), (422, "attribute-not-allowed"));
    }
    for bad in ["site", "site=<b>", "site=a,site=b"] {
        assert_eq!(with("a", bad).send().await.problem(), "bad-request", "{bad}");
    }
    let told = receipt(&with("a", "protocol-year=2026, site=Bern/3").send().await, 201);
    receipt(&with("b", "protocol-year=2026").send().await, 201);
    receipt(&lab.upload("c", "x").send().await, 201);
    // The signed record says so too.
    let record: serde_json::Value = serde_json::from_str(told.receipt.unwrap().record()).unwrap();
    assert_eq!(record["metadata"], json!({"protocol-year": "2026", "site": "Bern/3"}));
    let listed = |query: &str| {
        let path = format!("{}?{query}", routes::cohort_files(&c1()));
        let asking = lab.request(Method::GET, &path);
        async move {
            let listing: Listing = serde_json::from_slice(&asking.send().await.body).unwrap();
            listing.files.into_iter().map(|file| (file.path.to_string(), file.attributes.to_list())).collect()
        }
    };
    let all: Vec<(String, String)> = listed("").await;
    let expected = [("a", "protocol-year=2026,site=Bern/3"), ("b", "protocol-year=2026"), ("c", "")];
    assert_eq!(all, expected.map(|(path, said)| (path.to_owned(), said.to_owned())));
    let of: Vec<(String, String)> = listed("attribute=protocol-year=2026&attribute=site=Bern/3").await;
    assert_eq!(of, all[..1]);
    assert_eq!(listed("attribute=site=Bern").await, Vec::<(String, String)>::new());
    // An upload that resumes has them from its beginning, and tells its sender what else was said.
    let new = json!({"cohort": "c1", "path": "d", "length": 1, "attributes": {"site": "x"}, "metadata": "path ZA=="});
    let begun = lab.request(Method::POST, routes::UPLOADS).body(new.to_string()).send().await;
    assert_eq!((begun.status, &begun.json()["metadata"]), (StatusCode::CREATED, &json!("path ZA==")));
    let upload = routes::upload(FileId::parse(begun.json()["upload_id"].as_str().unwrap()).unwrap());
    assert_eq!(lab.request(Method::GET, &upload).send().await.json()["metadata"], "path ZA==");
    let last = lab.request(Method::PATCH, &upload).with(headers::UPLOAD_OFFSET, "0").body("y").send().await;
    assert_eq!((last.status, last.json().get("metadata")), (StatusCode::OK, None));
    // Of the file it hears what the file has: "d" and "site=x".
    let of_file = "path ZA==,culvert-attribute c2l0ZT14";
    assert_eq!(lab.request(Method::GET, &upload).send().await.json()["metadata"], of_file);
    assert_eq!(listed("attribute=site=x").await, [("d".to_owned(), "site=x".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_is_answered_as_the_first_was() {
    let lab = Lab::start().await;
    let keyed = |key: &str, path, bytes: &'static str| {
        lab.upload(path, bytes).with(headers::IDEMPOTENCY_KEY, &format!("\"{key}\""))
    };
    let first = receipt(&keyed("k1", "a", "one").send().await, 201);
    // The name has another content by now: without the key this would be a conflict.
    receipt(&lab.upload("a", "two").with("if-match", &first.etag).send().await, 201);
    assert_eq!(lab.upload("a", "one").send().await.problem(), "conflict");
    let (files, objects) = (lab.store.ledger.reader().totals().unwrap().files, lab.on_volume().len());
    let again = receipt(&keyed("k1", "a", "one").send().await, 201);
    assert_eq!((again.file_id, again.ledger_index), (first.file_id, first.ledger_index));
    let unquoted = lab.upload("a", "one").with(headers::IDEMPOTENCY_KEY, "k1");
    assert_eq!(receipt(&unquoted.send().await, 201).file_id, first.file_id);
    // With its digest it needs no body.
    let asked = |sha256: store_proto::ContentDigest| {
        let asked = json!({"action": "upload", "cohort": "c1", "path": "a", "size": 3, "key": "k1", "sha256": sha256});
        lab.request(Method::POST, routes::PERMISSIONS).body(asked.to_string()).send()
    };
    let told = asked(digest(b"one")).await.json();
    assert_eq!(told["stored"]["created"], true);
    assert_eq!(told["stored"]["receipt"]["file_id"], first.file_id.to_string());
    // Another request may not have it: other bytes, another name, another type.
    let reused = |told: Told| {
        assert_eq!((told.status.as_u16(), told.problem().as_str()), (422, "idempotency-key-reused"))
    };
    reused(keyed("k1", "a", "One").send().await);
    reused(keyed("k1", "a", "three").send().await);
    reused(keyed("k1", "b", "one").send().await);
    reused(keyed("k1", "a", "one").with(headers::CULVERT_FILE_TYPE, "raw_csv").send().await);
    reused(asked(digest(b"two")).await);
    // A whole body with a wrong digest is refused as ever.
    let wrong = keyed("k1", "a", "One").with(headers::REPR_DIGEST, &digest(b"one").to_repr_digest());
    assert_eq!(wrong.send().await.problem(), "digest-mismatch");
    let totals = lab.store.ledger.reader().totals().unwrap();
    assert_eq!((totals.files, lab.on_volume().len(), totals.open_intents), (files, objects, 0));
    // What was there before is the answer again, though the name has moved on.
    let found = receipt(&keyed("k2", "a", "two").send().await, 200);
    receipt(&lab.upload("a", "three").with("if-match", &found.etag).send().await, 201);
    assert_eq!(receipt(&keyed("k2", "a", "two").send().await, 200).file_id, found.file_id);
    // Each user has keys of their own.
    let other = keyed("k1", "z", "else").with(headers::CULVERT_COHORT, "c2").of_user("bob").send().await;
    receipt(&other, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_free_again_when_its_request_did_nothing_and_after_a_day() {
    let lab = Lab::start().await;
    let keyed = |path, bytes: &'static str| lab.upload(path, bytes).with(headers::IDEMPOTENCY_KEY, "k");
    // While the first is under way the second is told so.
    let mut stream = chunked_with(&lab, "idempotency-key: k\r\n");
    stream.write_all(b"1\r\nx\r\n").unwrap();
    support::eventually("the first is under way", || {
        lab.store.ledger.reader().totals().unwrap().open_intents == 1
    })
    .await;
    let told = keyed("f", "xy").send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (409, "idempotency-key-in-use"));
    drop(stream);
    support::eventually("the first is over", || {
        lab.store.ledger.reader().totals().unwrap().open_intents == 0
    })
    .await;
    let first = receipt(&keyed("f", "xy").send().await, 201);
    assert_eq!(keyed("g", "xy").send().await.problem(), "idempotency-key-reused");
    // Nothing is forgotten before its time; then it is, and the key names something else.
    let now_ms = daemon::Clock.unix_milliseconds();
    let forget = |at_ms| storaged::serve::expiry::forget_repeats(&lab.store, at_ms);
    let over = |at_ms| lab.store.ledger.reader().repeats(None, 10, at_ms).unwrap().1.len();
    assert_eq!((over(now_ms), over(now_ms + 25 * 3_600_000)), (0, 1));
    forget(now_ms).await;
    assert_eq!(receipt(&keyed("f", "xy").send().await, 201).file_id, first.file_id);
    // A deleted file is not made again by a request that was late.
    lab.request(Method::DELETE, &routes::file(first.file_id)).of_user("adm").send().await;
    let told = keyed("f", "xy").send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (404, "unknown-file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_comes_again_is_the_same_upload() {
    let lab = Lab::start().await;
    let begin = |length: u64, key: &str| {
        let new = json!({"cohort": "c1", "path": "f", "length": length, "key": key});
        lab.request(Method::POST, routes::UPLOADS).body(new.to_string()).send()
    };
    let first = begin(3, "k").await;
    let id = first.json()["upload_id"].as_str().unwrap().to_owned();
    let again = begin(3, "k").await;
    assert_eq!((again.status, &again.json()["upload_id"]), (StatusCode::CREATED, &json!(id)));
    assert_eq!(again.headers["location"], first.headers["location"]);
    assert_eq!(begin(4, "k").await.problem(), "idempotency-key-reused");
    let upload = routes::upload(FileId::parse(&id).unwrap());
    let append = |offset, bytes: &'static str| {
        lab.request(Method::PATCH, &upload).with(headers::UPLOAD_OFFSET, offset).body(bytes).send()
    };
    append("0", "a").await;
    assert_eq!(begin(3, "k").await.json()["offset"], 1, "the client goes on where it was");
    append("1", "bc").await;
    let whole = begin(3, "k").await;
    assert_eq!((whole.status, &whole.json()["complete"]), (StatusCode::CREATED, &json!(true)));
    assert_eq!(whole.json()["receipt"]["size"], 3);
    // One that was given up is over, and its key names another.
    let second = begin(3, "other").await.json()["upload_id"].as_str().unwrap().to_owned();
    let second = FileId::parse(&second).unwrap();
    lab.request(Method::DELETE, &routes::upload(second)).send().await;
    assert_ne!(begin(3, "other").await.json()["upload_id"], second.to_string());
    assert_eq!(lab.store.ledger.reader().totals().unwrap().partial_uploads, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cohort_stays_within_its_quota() {
    let lab = Lab::start().await;
    rules(&lab, CohortRules { quota_bytes: Some(1000), quota_files: Some(3), ..CohortRules::default() })
        .await;
    receipt(&lab.upload("a", vec![1; 600]).send().await, 201);
    let told = lab.upload("b", vec![1; 401]).send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (507, "quota"));
    // An open upload holds its room; the next does not get it.
    let new = json!({"cohort": "c1", "path": "p", "length": 300});
    let told = lab.request(Method::POST, routes::UPLOADS).body(new.to_string()).send().await;
    assert_eq!(told.status, StatusCode::CREATED);
    assert_eq!(lab.upload("b", vec![1; 101]).send().await.problem(), "quota");
    receipt(&lab.upload("b", vec![1; 100]).send().await, 201);
    // The third file is the open upload's.
    assert_eq!(lab.upload("c", "").send().await.problem(), "quota");
    let id = FileId::parse(told.json()["upload_id"].as_str().unwrap()).unwrap();
    let ended = lab.request(Method::DELETE, &routes::upload(id)).send().await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    receipt(&lab.upload("c", vec![1; 300]).send().await, 201);
    let usage = lab.store.ledger.reader().usage(&c1()).unwrap();
    assert_eq!((usage.bytes, usage.files, usage.reserved_bytes, usage.reserved_files), (1000, 3, 0, 0));
    let by_volume = lab.store.ledger.reader().usage_by_volume().unwrap();
    assert_eq!(by_volume.len(), 1);
    assert_eq!((by_volume[0].2.objects, by_volume[0].2.sealed_bytes), (3, 1000 + 3 * 56));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_unknown_length_is_ended_where_the_quota_ends() {
    let lab = Lab::start().await;
    rules(&lab, CohortRules { quota_bytes: Some(100_000), ..CohortRules::default() }).await;
    let mut stream = chunked(&lab);
    for _ in 0..3 {
        let _ = stream.write_all(format!("c350\r\n{}\r\n", "x".repeat(50_000)).as_bytes());
    }
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 507");
    support::eventually("nothing is left", || {
        lab.on_volume().is_empty() && lab.store.ledger.reader().usage(&c1()).unwrap().reserved_bytes == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_types_are_taken() {
    let lab = Lab::start().await;
    let file_types = [store_proto::FileType::parse("raw_csv").unwrap()].into();
    rules(&lab, CohortRules { file_types, ..CohortRules::default() }).await;
    assert_eq!(lab.upload("a", "x").send().await.problem(), "type-not-allowed");
    let with = |kind| lab.upload("a", "x").with(headers::CULVERT_FILE_TYPE, kind);
    assert_eq!(with("exe").send().await.problem(), "type-not-allowed");
    receipt(&with("raw_csv").send().await, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_ends_of_names_are_taken() {
    let lab = Lab::start().await;
    let extensions = [store_proto::Extension::parse("csv").unwrap()].into();
    rules(&lab, CohortRules { extensions, ..CohortRules::default() }).await;
    for name in ["a", "a.exe", "csv/a", "a.csv.exe"] {
        assert_eq!(lab.upload(name, "x").send().await.problem(), "type-not-allowed", "{name}");
    }
    receipt(&lab.upload("b.exe/a.CSV", "x").send().await, 201);
    let new = json!({"cohort": "c1", "path": "resumed.exe"}).to_string();
    let created = lab.request(Method::POST, routes::UPLOADS).body(new).send().await;
    assert_eq!(created.problem(), "type-not-allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_bytes_are_compared_with_the_name_where_the_cohort_says_so() {
    let lab = Lab::start().await;
    receipt(&lab.upload("any.pdf", "MZ").send().await, 201);
    rules(&lab, CohortRules { content: ContentRule::Checked, ..CohortRules::default() }).await;
    let before = lab.on_volume().len();
    let mut program = b"\x7fELF\0".to_vec();
    program.resize(600_000, 7);
    for (name, body) in [("a.pdf", b"MZ".to_vec()), ("a.csv", program.clone()), ("a.gz", Vec::new())] {
        let told = lab.upload(name, body).send().await;
        assert_eq!((told.status.as_u16(), told.problem().as_str()), (415, "type-not-allowed"), "{name}");
    }
    assert_eq!(lab.on_volume().len(), before, "nothing of it was written");
    let last = lab.records().pop().unwrap();
    assert_eq!((last.action, last.ending), (Action::FileUploadedViaStream, Some(Ending::Failed)));
    let mut pdf = b"%PDF-1.7".to_vec();
    pdf.resize(600_000, 7);
    receipt(&lab.upload("a.pdf", pdf).send().await, 201);
    receipt(&lab.upload("a", program.clone()).send().await, 201);

    // In pieces, of which none alone says it, and then it is over with.
    for length in [6, program.len()] {
        let new = json!({"cohort": "c1", "path": "p.csv", "length": length}).to_string();
        let told = lab.request(Method::POST, routes::UPLOADS).body(new).send().await;
        let id = FileId::parse(told.json()["upload_id"].as_str().unwrap()).unwrap();
        let bring = |at: usize, bytes: &[u8]| {
            let asking = lab.request(Method::PATCH, &routes::upload(id)).body(bytes.to_vec());
            asking.with(headers::UPLOAD_OFFSET, &at.to_string()).send()
        };
        assert_eq!(bring(0, b"\x7fELF").await.status, StatusCode::OK);
        assert_eq!(bring(4, &program[4..length]).await.problem(), "type-not-allowed", "{length}");
        let looked = lab.request(Method::HEAD, &routes::upload(id)).send().await;
        assert_eq!(looked.status, StatusCode::NOT_FOUND, "there is nothing to resume");
    }
    assert_eq!(lab.on_volume().len(), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_names_what_it_was_derived_from_if_that_is_open_to_its_sender() {
    let lab = Lab::start().await;
    let attributes = AttributeRules::parse(["site"]).unwrap();
    rules(&lab, CohortRules { attributes, ..CohortRules::default() }).await;
    let source = receipt(&lab.upload("raw.csv", "x").send().await, 201);
    let others = lab.request(Method::POST, routes::UPLOAD).of_user("bob").body("theirs");
    let others = others.with(headers::CULVERT_COHORT, "c2").with(headers::CULVERT_PATH, "f").send().await;
    let others = receipt(&others, 201).file_id;
    let derived = |path, from: String| {
        let asking = lab.upload(path, "y").with(headers::CULVERT_FILE_TYPE, "duckdb");
        asking.with(headers::CULVERT_ATTRIBUTE, &format!("derived-from={from}")).send()
    };
    for from in [others.to_string(), FileId::from_bytes([7; 16]).to_string(), "raw.csv".to_owned()] {
        let told = derived("a.duckdb", from).await;
        assert_eq!(told.problem(), "attribute-not-allowed");
        assert!(told.json()["detail"].as_str().unwrap().contains("derived-from"), "{told:?}");
    }
    let made = receipt(&derived("a.duckdb", source.file_id.to_string()).await, 201);
    let record = lab.store.ledger.reader().record(made.ledger_index).unwrap().unwrap();
    assert_eq!(record.action, Action::NasDuckdbCreated);
    assert_eq!(record.metadata.get("derived-from"), Some(source.file_id.to_string().as_str()));
    assert_eq!(record.parent, Some(source.ledger_index), "it follows from the record of its source");
    let all = format!("{}?attribute=derived-from={}", routes::cohort_files(&c1()), source.file_id);
    let listed = lab.request(Method::GET, &all).send().await.json();
    assert_eq!(listed["files"][0]["file_id"], made.file_id.to_string());
    assert_eq!(listed["files"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_worker_derived_is_recorded_by_its_kind() {
    let lab = Lab::start().await;
    for (path, file_type) in [("a", "duckdb"), ("b", "report_html"), ("c", "raw_csv")] {
        receipt(&lab.upload(path, path).with(headers::CULVERT_FILE_TYPE, file_type).send().await, 201);
    }
    let actions: Vec<&str> = lab.records().iter().map(|record| record.action.name()).collect();
    let made: Vec<&&str> = actions.iter().filter(|name| name.starts_with("nas_")).collect();
    assert_eq!(made, [&"nas_duckdb_created", &"nas_report_created", &"nas_raw_created"]);
    let sent = actions.iter().filter(|name| **name == "file_uploaded_via_stream");
    assert_eq!(sent.count(), 6, "before and after each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_read_by_a_scanner_alone_until_its_verdict() {
    let lab = Lab::start().await;
    rules(&lab, CohortRules { scan: Scan::Required, ..CohortRules::default() }).await;
    let user = UserName::parse("vic").unwrap();
    lab.change(Wish::JoinGroup { user, group: storaged::limits::SCANNER_GROUP.to_owned() }).await;
    let clean = receipt(&lab.upload("clean", "x").send().await, 201).file_id;
    let bad = receipt(&lab.upload("bad", "y").send().await, 201).file_id;
    let get = |id, user| lab.request(Method::GET, &routes::file(id)).of_user(user).send();
    assert_eq!(get(clean, "ada").await.problem(), "file-withheld");
    assert_eq!(get(clean, "adm").await.problem(), "file-withheld");
    assert_eq!(get(clean, "vic").await.body, "x");
    let verdict = |id, user, clean: bool| {
        let body = json!({"clean": clean, "finding": "eicar"}).to_string();
        lab.request(Method::POST, &routes::verdict(id)).of_user(user).body(body).send()
    };
    assert_eq!(verdict(clean, "adm", true).await.problem(), "cohort-forbidden");
    let meta: FileMeta = serde_json::from_slice(&verdict(clean, "vic", true).await.body).unwrap();
    assert_eq!(meta.state, FileState::Available);
    assert_eq!(verdict(clean, "vic", false).await.problem(), "conflict", "once");
    assert_eq!(get(clean, "ada").await.body, "x");
    verdict(bad, "vic", false).await;
    for user in ["ada", "vic"] {
        assert_eq!(get(bad, user).await.problem(), "file-withheld");
    }
    assert_eq!(lab.store.ledger.reader().totals().unwrap().held_files, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_where_room_is_and_a_volume_that_is_away_is_passed_over() {
    let lab = two_volumes(Lab::start().await).await;
    let [first, second] = [0, 1].map(|i| Arc::clone(&lab.store.volumes[i]));
    let room = |bytes| Space { available_bytes: bytes, size_bytes: 1 << 40 };
    first.seen(room(1 << 30));
    second.seen(room(1 << 31));
    let stored = |told: Told| {
        let file = lab.store.ledger.reader().file(receipt(&told, 201).file_id).unwrap().unwrap();
        (file.file_id, file.parts[0].volume)
    };
    let (a, on) = stored(lab.upload("a", "x").send().await);
    assert_eq!(on, second.backend.id());
    second.set_usable(false);
    let (_, on) = stored(lab.upload("b", "x").send().await);
    assert_eq!(on, first.backend.id());
    // The files of the volume that is away are not to be had now; the others are, and so is health.
    let get = |id| lab.request(Method::GET, &routes::file(id)).send();
    assert_eq!(get(a).await.problem(), "backend-unavailable");
    assert_eq!(lab.request(Method::GET, routes::HEALTH).send().await.status, StatusCode::OK);
    second.set_usable(true);
    assert_eq!(get(a).await.body, "x");
    first.seen(room(10));
    second.seen(room(20));
    let told = lab.upload("c", vec![0; 21]).send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (507, "quota"));
    stored(lab.upload("c", vec![0; 20]).send().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_reserve_of_the_ledgers_disk_no_upload_begins() {
    let (folder, tokens) = Lab::start().await.stop().await;
    let full = Lab::open_changed(folder, tokens, |store| {
        let directory = tempfile::tempdir().unwrap();
        store.ledger_disk =
            storaged::ledger_disk::LedgerDisk::open(directory.path(), Some(u64::MAX)).unwrap();
    })
    .await;
    let told = full.upload("f", "x").send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (507, "quota"));
    assert_eq!(full.request(Method::GET, routes::HEALTH).send().await.status, StatusCode::OK);
    // What is there is served and recorded.
    assert_eq!(full.request(Method::GET, &routes::cohort_files(&c1())).send().await.status, StatusCode::OK);
}

async fn two_volumes(lab: Lab) -> Lab {
    let store = StoreId(lab_store(&lab));
    let (folder, tokens) = lab.stop().await;
    let path = folder.path().join("second");
    NasVolume::create("second", &path, store, FileId::from_bytes([0x22; 16])).unwrap();
    Lab::open_changed(folder, tokens, |opened| {
        let backend: Arc<dyn Backend> = Arc::new(NasVolume::open("second", &path, store).unwrap());
        let first = &opened.volumes[0];
        let again = VolumeState::new("main".into(), Arc::clone(&first.backend), first.pool.clone(), Some(0));
        let second = VolumeState::new("second".into(), backend, Pool::start(2).unwrap(), Some(0));
        opened.volumes = vec![Arc::new(again), Arc::new(second)];
    })
    .await
}

fn lab_store(lab: &Lab) -> FileId {
    let marker = std::fs::read(lab.volume().join(".culvert-volume")).unwrap();
    let marker: serde_json::Value = serde_json::from_slice(&marker).unwrap();
    FileId::parse(marker["store_id"].as_str().unwrap()).unwrap()
}

async fn rules(lab: &Lab, rules: CohortRules) {
    lab.change(Wish::SetCohort { cohort: c1(), rules }).await;
}

fn c1() -> Cohort {
    Cohort::parse("c1").unwrap()
}

fn receipt(told: &Told, status: u16) -> UploadReceipt {
    assert_eq!(told.status.as_u16(), status, "{told:?}");
    serde_json::from_slice(&told.body).unwrap()
}

fn chunked(lab: &Lab) -> std::net::TcpStream {
    chunked_with(lab, "")
}

fn chunked_with(lab: &Lab, more: &str) -> std::net::TcpStream {
    let mut head =
        format!("POST /internal/storage/upload HTTP/1.1\r\nculvert-cohort: c1\r\nculvert-path: f\r\n{more}");
    for (name, value) in &lab.good_headers("ada") {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    head.push_str("transfer-encoding: chunked\r\n\r\n");
    let mut stream = std::net::TcpStream::connect(lab.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
}
