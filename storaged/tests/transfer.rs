//! A file goes in, comes out whole or in part, is listed, and every step is in the trail.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test panics where it fails")]

mod support;

use http::{Method, StatusCode};
use serde_json::json;
use storaged::ledger::access::{CohortRules, Wish};
use storaged::ledger::{Action, Ending};
use store_proto::{Cohort, FileMeta, Listing, UploadReceipt, headers, routes};
use support::{Lab, digest};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_back_as_it_went_in() {
    let lab = Lab::start().await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let told = lab
        .upload("2026/visit%201/scan.csv", bytes.clone())
        .with(headers::REPR_DIGEST, &digest(&bytes).to_repr_digest())
        .with(headers::CULVERT_FILE_TYPE, "raw_csv")
        .send()
        .await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");
    let receipt: UploadReceipt = serde_json::from_slice(&told.body).unwrap();
    assert_eq!((receipt.size, receipt.sha256), (bytes.len() as u64, digest(&bytes)));
    assert_eq!(receipt.etag, digest(&bytes).to_etag());

    let told = lab.request(Method::GET, &routes::file(receipt.file_id)).send().await;
    assert_eq!(told.status, StatusCode::OK);
    assert_eq!(told.headers["content-length"], bytes.len().to_string());
    assert_eq!(told.headers["etag"], receipt.etag);
    assert_eq!(told.body, bytes);
    support::eventually("the end of the download is recorded", || lab.trail().len() == 5).await;
    assert_eq!(
        lab.trail(),
        [
            (Action::FileUploadedViaStream, None),
            (Action::NasRawCreated, Some(Ending::Succeeded)),
            (Action::FileUploadedViaStream, Some(Ending::Succeeded)),
            (Action::FileDownloadedViaStream, None),
            (Action::FileDownloadedViaStream, Some(Ending::Succeeded)),
        ]
    );
    let record = &lab.records()[2];
    assert_eq!(record.index, receipt.ledger_index);
    assert_eq!(record.sha256, Some(digest(&bytes)));
    assert_eq!(record.size, Some(bytes.len() as u64));
    assert_eq!(record.origin.user.as_ref().unwrap().as_str(), "ada");
    assert_eq!(record.origin.edge.as_ref().unwrap().as_str(), "web1");
    assert_eq!(record.origin.peer_public_key.as_deref(), Some("bmFtZWQ="));
    assert_eq!(record.origin.client_address, Some("192.0.2.9".parse().unwrap()));
    assert_eq!(record.path.as_ref().unwrap().as_str(), "2026/visit 1/scan.csv");
    assert_eq!(record.file_type.as_ref().unwrap().as_str(), "raw_csv");
    assert_eq!(record.host.process_id, std::process::id());
    let names = lab.on_volume();
    assert_eq!(names.len(), 1);
    // The id is random: compare what is there with the id, and not with names that it may happen to spell.
    let file = lab.store.ledger.reader().file(receipt.file_id).unwrap().unwrap();
    let id = file.parts[0].object.to_string();
    assert_ne!(id, receipt.file_id.to_string());
    let expected = lab.volume().join("objects").join(&id[..2]).join(&id[2..]);
    assert_eq!(names[0], expected, "nothing but the id names an object");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_range_is_served_and_others_are_answered_by_the_rules() {
    let lab = Lab::start().await;
    let bytes: Vec<u8> = (0..600_000u32).map(|i| i as u8).collect();
    let receipt: UploadReceipt =
        serde_json::from_slice(&lab.upload("f", bytes.clone()).send().await.body).unwrap();
    let file = routes::file(receipt.file_id);
    for (range, expected) in
        [("bytes=0-0", 0..1), ("bytes=262143-262145", 262_143..262_146), ("bytes=-5", 599_995..600_000)]
    {
        let told = lab.request(Method::GET, &file).with("range", range).send().await;
        assert_eq!(told.status, StatusCode::PARTIAL_CONTENT, "{range}");
        let (first, last) = (expected.start, expected.end - 1);
        assert_eq!(told.headers["content-range"], format!("bytes {first}-{last}/600000"));
        assert_eq!(told.body, bytes[expected]);
    }
    let told = lab.request(Method::GET, &file).with("range", "bytes=600000-").send().await;
    assert_eq!(
        (told.status, told.problem().as_str()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "range-not-satisfiable")
    );
    assert_eq!(told.headers["content-range"], "bytes */600000");
    let told = lab.request(Method::HEAD, &file).with("range", "bytes=0-9").send().await;
    assert_eq!((told.status, told.body.len()), (StatusCode::PARTIAL_CONTENT, 0));
    assert_eq!(told.headers["content-length"], "10");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_a_file() {
    let lab = Lab::start().await;
    let receipt: UploadReceipt = serde_json::from_slice(&lab.upload("empty", "").send().await.body).unwrap();
    assert_eq!(receipt.sha256, digest(b""));
    let told = lab.request(Method::GET, &routes::file(receipt.file_id)).send().await;
    assert_eq!((told.status, told.body.len()), (StatusCode::OK, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_written_once() {
    let lab = Lab::start().await;
    let first = lab.upload("f", "one").send().await;
    let again = lab.upload("f", "one").send().await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
    let stored = |told: &support::Told| serde_json::from_slice::<UploadReceipt>(&told.body).unwrap();
    let (first, again) = (stored(&first), stored(&again));
    let proves = |answer: &UploadReceipt| {
        let receipt = answer.receipt.clone().unwrap();
        (receipt.record().to_owned(), *receipt.salt(), receipt.leaf_index())
    };
    assert_eq!(proves(&first), proves(&again), "of the same record, whatever the log's size is by now");
    let without = |answer: UploadReceipt| UploadReceipt { receipt: None, ..answer };
    assert_eq!(without(first), without(again));
    for other in ["two", "longer"] {
        let told = lab.upload("f", other).send().await;
        assert_eq!((told.status, told.problem().as_str()), (StatusCode::CONFLICT, "conflict"), "{other}");
    }
    let told =
        lab.upload("f", "one").with(headers::REPR_DIGEST, &digest(b"two").to_repr_digest()).send().await;
    assert_eq!(told.problem(), "conflict");
    assert_eq!(lab.on_volume().len(), 1, "nothing of the refused uploads is left");
    assert!(lab.store.ledger.reader().open_intents().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_uploads_to_one_path_one_wins() {
    let lab = Lab::start().await;
    let (one, two) = (vec![1u8; 400_000], vec![2u8; 400_000]);
    let (a, b) = tokio::join!(lab.upload("f", one).send(), lab.upload("f", two).send());
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    assert_eq!(lab.on_volume().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cohort_is_listed_in_pages() {
    let lab = Lab::start().await;
    for name in ["b", "a", "c/d"] {
        assert_eq!(lab.upload(name, name.to_owned()).send().await.status, StatusCode::CREATED);
    }
    let first = lab.request(Method::GET, "/internal/v1/cohorts/c1/files?limit=2").send().await;
    let first: Listing = serde_json::from_slice(&first.body).unwrap();
    let paths = |listing: &Listing| -> Vec<String> {
        listing.files.iter().map(|file| file.path.to_string()).collect()
    };
    assert_eq!(paths(&first), ["b", "a"], "in the order of their arrival");
    let next = format!("/internal/v1/cohorts/c1/files?limit=2&cursor={}", first.next_cursor.unwrap());
    let second: Listing = serde_json::from_slice(&lab.request(Method::GET, &next).send().await.body).unwrap();
    assert_eq!(paths(&second), ["c/d"]);
    assert_eq!(second.next_cursor, None);
    assert_eq!(lab.trail().last(), Some(&(Action::AccessListed, Some(Ending::Succeeded))));
}

#[tokio::test(flavor = "multi_thread")]
async fn permission_is_given_before_the_body() {
    let lab = Lab::start().await;
    let rules = CohortRules { max_file_bytes: Some(1000), ..CohortRules::default() };
    lab.change(Wish::SetCohort { cohort: Cohort::parse("c1").unwrap(), rules }).await;
    let ask = |body: serde_json::Value| {
        lab.request(Method::POST, routes::PERMISSIONS).body(body.to_string()).send()
    };
    let told = ask(json!({"action": "upload", "cohort": "c1", "path": "f", "size": 10})).await;
    assert_eq!(told.json(), json!({"upload": {"max_bytes": 1000}}));
    let told = ask(json!({"action": "upload", "cohort": "c1", "path": "f", "size": 1001})).await;
    assert_eq!((told.status, told.problem().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "too-large"));
    let told = ask(json!({"action": "download", "cohort": "c1", "path": "f"})).await;
    assert_eq!((told.status, told.problem().as_str()), (StatusCode::NOT_FOUND, "unknown-file"));
    lab.upload("f", "ten bytes!").send().await;
    let told = ask(json!({"action": "download", "cohort": "c1", "path": "f"})).await;
    let meta: FileMeta = serde_json::from_value(told.json()["download"].clone()).unwrap();
    assert_eq!((meta.size, meta.sha256), (10, digest(b"ten bytes!")));
    let told = ask(json!({"action": "download", "cohort": "c1", "file_id": meta.file_id})).await;
    assert_eq!(told.status, StatusCode::OK);
    let told = ask(json!({"action": "upload", "cohort": "c1", "path": "f", "size": 11})).await;
    assert_eq!(told.problem(), "conflict");
    let told = ask(json!({"action": "list", "cohort": "c1"})).await;
    assert_eq!(told.json(), json!({"list": {}}));
    let told = ask(json!({"action": "upload", "cohort": "c1", "path": "../f"})).await;
    assert_eq!((told.status, told.problem().as_str()), (StatusCode::BAD_REQUEST, "bad-request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_there_after_a_restart() {
    let lab = Lab::start().await;
    let receipt: UploadReceipt = serde_json::from_slice(&lab.upload("f", "kept").send().await.body).unwrap();
    let before = lab.records();
    let (folder, tokens) = lab.stop().await;
    let lab = Lab::open(folder, tokens).await;
    assert_eq!(lab.request(Method::GET, &routes::file(receipt.file_id)).send().await.body, "kept");
    assert_eq!(lab.records()[..before.len()], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_while_uploads_run() {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    let lab = Lab::start().await;
    let mut senders = Vec::new();
    let mut answers = Vec::new();
    for i in 0..8 {
        let (sender, frames) = tokio::sync::mpsc::channel::<Result<Frame<bytes::Bytes>, std::io::Error>>(1);
        let body = StreamBody::new(futures_util::stream::unfold(frames, |mut frames| async move {
            frames.recv().await.map(|frame| (frame, frames))
        }));
        answers.push(lab.upload(&format!("f{i}"), "").send_body(body));
        senders.push(sender);
    }
    // None of them can end before the last question is answered.
    let lab = &lab;
    let asking = async move {
        for _ in 0..40 {
            for sender in &senders {
                sender.send(Ok(Frame::data(vec![7u8; 300_000].into()))).await.unwrap();
            }
            let told = lab.request(Method::GET, routes::HEALTH).send().await;
            assert_eq!(told.json()["status"], "ok");
            assert!(
                told.json()["store"].is_string(),
                "an edge with several stores needs to know which one this is"
            );
        }
    };
    let ((), answers) = tokio::join!(asking, futures_util::future::join_all(answers));
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::CREATED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_changed_on_the_disk_does_not_come_out_whole() {
    use std::os::unix::fs::FileExt as _;
    let lab = Lab::start().await;
    let bytes = vec![7; 1_000_000];
    let receipt: UploadReceipt =
        serde_json::from_slice(&lab.upload("f", bytes.clone()).send().await.body).unwrap();
    let object = std::fs::File::options().read(true).write(true).open(&lab.on_volume()[0]).unwrap();
    // Another byte than there is: any one of them is there by chance.
    let mut byte = [0];
    object.read_exact_at(&mut byte, 600_000).unwrap();
    object.write_all_at(&[byte[0] ^ 1], 600_000).unwrap();
    let response = lab
        .request(Method::GET, &routes::file(receipt.file_id))
        .send_body(http_body_util::Full::new(bytes::Bytes::new()))
        .await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    assert!(body.is_err(), "the connection breaks off before the segment");
    support::eventually("the end of the download is recorded", || lab.trail().len() == 5).await;
    let last = lab.records().pop().unwrap();
    assert_eq!(last.ending, Some(Ending::Failed));
    assert_eq!(last.error.as_deref(), Some("the object was changed: a segment does not open"));
    // Of a range, too, nothing leaves that was not authenticated; the segment beside it is as it was.
    let range = |range| lab.request(Method::GET, &routes::file(receipt.file_id)).with("range", range);
    let told = range("bytes=0-99").send().await;
    assert_eq!((told.status, &told.body[..]), (StatusCode::PARTIAL_CONTENT, &bytes[..100]));
    let changed =
        range("bytes=100000-700009").send_body(http_body_util::Full::new(bytes::Bytes::new())).await;
    assert!(http_body_util::BodyExt::collect(changed.into_body()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_file_lies_on_the_volume_in_the_clear() {
    let lab = Lab::start().await;
    let bytes = b"a line of a file that nobody else reads\n".repeat(10_000);
    assert_eq!(lab.upload("f", bytes).send().await.status, StatusCode::CREATED);
    let object = std::fs::read(&lab.on_volume()[0]).unwrap();
    assert!(!object.windows(16).any(|window| b"a line of a file that nobody".starts_with(window)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_receiver_leaves_while_it_is_opened_gets_its_outcome() {
    let lab = Lab::start().await;
    let receipt: UploadReceipt = serde_json::from_slice(&lab.upload("f", "x").send().await.body).unwrap();
    // A volume that hangs: opening a pipe waits for somebody who writes.
    let object = lab.on_volume().remove(0);
    std::fs::remove_file(&object).unwrap();
    nix::unistd::mkfifo(&object, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let file = routes::file(receipt.file_id);
    let reader = lab.store.ledger.reader();
    {
        let mut asking = std::pin::pin!(lab.request(Method::GET, &file).send());
        let opening = support::eventually("it is opened", || reader.open_intents().unwrap().len() == 1);
        tokio::select! {
            _ = &mut asking => panic!("the volume hangs"),
            () = opening => {}
        }
    }
    support::eventually("the intent is closed", || {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Refused until somebody waits for a writer.
        let _ = std::fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&object);
        reader.open_intents().unwrap().is_empty()
    })
    .await;
    assert_eq!(lab.trail().last(), Some(&(Action::FileDownloadedViaStream, Some(Ending::Failed))));
}
