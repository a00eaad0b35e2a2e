//! What the store shows of its log: receipts that verify, checkpoints that continue each other, tiles and proofs for
//! auditors alone.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use http::{Method, StatusCode};
use receipt::merkle::{verify_consistency, verify_inclusion};
use receipt::{Hash, LogKey, Receipt, SignedCheckpoint, Trust};
use storaged::ledger::Action;
use store_proto::{ConsistencyProof, InclusionProof, UploadReceipt, headers, routes};
use support::Lab;

/// The newest checkpoint, and the key that the store names.
async fn checkpoint(lab: &Lab) -> (SignedCheckpoint, LogKey) {
    // No user's proof, no internal key: the delivering peer is enough.
    let asking = lab.request(Method::GET, routes::LEDGER_CHECKPOINT);
    let told = asking.without(headers::CULVERT_CONTEXT).without(headers::X_INTERNAL_KEY).send().await;
    assert_eq!(told.status, StatusCode::OK);
    let key = LogKey::parse(told.headers[headers::CULVERT_LOG_KEY].to_str().unwrap()).unwrap();
    let checkpoint = SignedCheckpoint::parse(std::str::from_utf8(&told.body).unwrap()).unwrap();
    checkpoint.verify(&key).unwrap();
    (checkpoint, key)
}

async fn upload(lab: &Lab, path: &str, content: &'static [u8]) -> UploadReceipt {
    let told = lab.upload(path, content).send().await;
    serde_json::from_slice(&told.body).unwrap_or_else(|error| panic!("{error}: {told:?}"))
}

#[tokio::test]
async fn every_upload_is_answered_with_a_receipt_that_proves_it() {
    let lab = Lab::start().await;
    let (_, key) = checkpoint(&lab).await;
    let answer = upload(&lab, "a/b.csv", b"hello").await;
    let receipt = answer.receipt.unwrap();
    assert_eq!(receipt.leaf_index(), answer.ledger_index);
    let report = receipt::verify(&receipt, &b"hello"[..], Trust::Key(key.clone()), |_| {});
    assert!(report.is_right(), "{report:?}");
    let file = report.file.unwrap();
    assert_eq!((file.cohort.as_str(), file.path.as_str(), file.size), ("c1", "a/b.csv", 5));
    assert_eq!(file.file_id, answer.file_id.to_string());
    let other = receipt::verify(&receipt, &b"hellO"[..], Trust::Key(key.clone()), |_| {});
    assert!(!other.is_right());

    let again = upload(&lab, "a/b.csv", b"hello").await;
    assert_eq!(again.file_id, answer.file_id, "the same bytes again");
    let again = receipt::verify(&again.receipt.unwrap(), &b"hello"[..], Trust::Key(key), |_| {});
    assert!(again.is_right(), "and proven by the checkpoint of now");
}

#[tokio::test]
async fn a_receipt_can_be_fetched_by_those_who_may_read_the_file() {
    let lab = Lab::start().await;
    let (_, key) = checkpoint(&lab).await;
    let file = upload(&lab, "a.csv", b"hello").await.file_id;
    let told = lab.request(Method::GET, &routes::file_receipt(file)).of_user("vic").send().await;
    assert_eq!(told.status, StatusCode::OK);
    let receipt = Receipt::parse(&told.body).unwrap();
    assert!(receipt::verify(&receipt, &b"hello"[..], Trust::Key(key), |_| {}).is_right());
    let recorded = lab.records().pop().unwrap();
    assert_eq!((recorded.action, recorded.file_id), (Action::AccessMetadata, Some(file)));
    for user in ["bob", "aud"] {
        let told = lab.request(Method::GET, &routes::file_receipt(file)).of_user(user).send().await;
        assert!(told.status.is_client_error(), "{user}: {told:?}");
    }
}

#[tokio::test]
async fn the_log_shows_that_it_continues_what_it_showed_before() {
    let lab = Lab::start().await;
    let (before, _) = checkpoint(&lab).await;
    for (path, content) in [("a", &b"1"[..]), ("b", b"2"), ("c", b"3")] {
        upload(&lab, path, content).await;
    }
    let records = lab.store.ledger.reader().size().unwrap();
    let (after, _) = checkpoint(&lab).await;
    let (old, new) = (before.unverified(), after.unverified());
    assert_eq!(new.size, records, "a look is not recorded");
    assert!(new.size > old.size && old.epoch == new.epoch);
    let asking = lab.request(Method::GET, &routes::ledger_consistency(old.size, new.size));
    let proof: ConsistencyProof = serde_json::from_slice(&asking.send().await.body).unwrap();
    verify_consistency(old.size, &old.root, new.size, &new.root, &proof.hashes).unwrap();

    for query in ["", "?from=1", "?from=2&to=1", "?from=0&to=99999999"] {
        let path = format!("{}{query}", routes::LEDGER_CONSISTENCY);
        assert_eq!(lab.request(Method::GET, &path).send().await.problem(), "bad-request", "{query}");
    }
}

#[tokio::test]
async fn the_log_is_shown_to_registered_edges_alone() {
    let lab = Lab::start().await;
    lab.peers.lock().unwrap().clear();
    let stranger = lab.request(Method::GET, routes::LEDGER_CHECKPOINT).send().await;
    assert_eq!(stranger.status, StatusCode::FORBIDDEN, "the delivering peer is not an edge");
}

#[tokio::test]
async fn tiles_and_proofs_are_for_auditors() {
    let lab = Lab::start().await;
    let answer = upload(&lab, "a", b"1").await;
    let proof_path = format!("{}{}", routes::LEDGER_PROOF, answer.ledger_index);
    let told = lab.request(Method::GET, &proof_path).of_user("aud").send().await;
    let proof: InclusionProof = serde_json::from_slice(&told.body).unwrap();
    let (_, key) = checkpoint(&lab).await;
    let head = SignedCheckpoint::parse(&proof.checkpoint).unwrap();
    let root = head.verify(&key).unwrap().root;
    verify_inclusion(&proof.leaf, proof.index, proof.size, &proof.hashes, &root).unwrap();

    let tile_path = format!("{}0/0", routes::LEDGER_TILE);
    let tile = lab.request(Method::GET, &tile_path).of_user("aud").send().await.body;
    let at = usize::try_from(answer.ledger_index).unwrap() * 32;
    assert_eq!(Hash::from_bytes(tile[at..at + 32].try_into().unwrap()), proof.leaf);
    let absent = format!("{}0/9", routes::LEDGER_TILE);
    assert_eq!(lab.request(Method::GET, &absent).of_user("aud").send().await.problem(), "not-found");
    let absent = format!("{}99999", routes::LEDGER_PROOF);
    assert_eq!(lab.request(Method::GET, &absent).of_user("aud").send().await.problem(), "not-found");
    for user in ["ada", "adm", "vic"] {
        for path in [&proof_path, &tile_path] {
            let told = lab.request(Method::GET, path).of_user(user).send().await;
            assert_eq!(told.status, StatusCode::FORBIDDEN, "{user}");
        }
    }
}
