//! The drill: a host is lost, and comes back from its volumes, a backup, the journal mirror and the recovery key.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{Method, StatusCode};
use storaged::backup::Part;
use storaged::backup::check::check;
use storaged::backup::make::{Made, make};
use storaged::backup::unpack::{STATE, Unpacked, unpack, write_new};
use storaged::config::Environment;
use storaged::keeper;
use storaged::keys::{RootKey, recovery::Recipients};
use storaged::ledger::access::Wish;
use storaged::ledger::{Origin, Reader, tables};
use storaged::objects::Found;
use storaged::restore::{Doubt, Forward, Known, NewEpoch, RESTORED_FILE, Restored, new_epoch, replay_mirror};
use store_proto::{Cohort, FileId, Proof, Role, Token, UserName, routes};
use support::Lab;
use vault::age::Identity;
use zeroize::Zeroizing;

/// One pair for the recovery of the root key, one for the backups.
struct Keyring {
    recovery: Identity,
    backup: Identity,
}

impl Keyring {
    fn new() -> Keyring {
        Keyring { recovery: Identity::generate().unwrap(), backup: Identity::generate().unwrap() }
    }

    fn all(&self) -> Vec<Identity> {
        vec![self.backup.clone(), self.recovery.clone()]
    }
}

async fn back_up(lab: &Lab, keyring: &Keyring, to: &Path) -> Made {
    let root = RootKey::read(lab.folder.path().join("root.key").to_str().unwrap()).unwrap();
    let recipients = Recipients::parse(&[keyring.recovery.to_recipient().to_string()]).unwrap().unwrap();
    let handed =
        ["storaged.toml", "internal.key"].map(|name| std::fs::read(lab.folder.path().join(name)).unwrap());
    let [config, key] = handed;
    let handed = vec![
        (Part::Config, Zeroizing::new(config)),
        (Part::InternalKey, Zeroizing::new(key)),
        (Part::RecoveryFile, Zeroizing::new(recipients.wrap(&root).unwrap().into_bytes())),
    ];
    let (store, file, to) =
        (Arc::clone(&lab.store), File::create_new(to).unwrap(), keyring.backup.to_recipient());
    tokio::task::spawn_blocking(move || {
        make(&store.ledger, &store.keys, &handed, &[to], 1000, file, &AtomicU64::new(0)).unwrap()
    })
    .await
    .unwrap()
}

/// The host is lost: all but the volume. What is in the backup comes into its place.
fn rebuild(folder: &Path, backup: &Path, keyring: &Keyring) -> Unpacked {
    for name in ["state", "storaged.toml", "internal.key", "root.key"] {
        let path = folder.join(name);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }
    let into = folder.join("new");
    let unpacked = unpack(backup, &keyring.all(), &into, &mut |_| ()).unwrap();
    let root = unpacked.root_key(&keyring.all()).unwrap().unwrap();
    write_new(&folder.join("root.key"), root.to_text().as_bytes(), 0o400).unwrap();
    let marker = Restored { backup_id: unpacked.head.backup_id, made_ms: unpacked.head.made_ms };
    let marker = serde_json::to_vec(&marker).unwrap();
    write_new(&into.join(STATE).join(RESTORED_FILE), &marker, 0o600).unwrap();
    for name in ["state", "storaged.toml", "internal.key"] {
        std::fs::rename(into.join(name), folder.join(name)).unwrap();
    }
    unpacked
}

fn forward(config: &Path, known: Known) -> Forward {
    replay_mirror(config, &Environment::default(), known).unwrap()
}

/// It waits for the ledger's thread, which a runtime's own thread must not.
async fn begin_epoch(config: PathBuf, wanted: NewEpoch) -> storaged::restore::Opened {
    let begun = tokio::task::spawn_blocking(move || new_epoch(&config, &Environment::default(), wanted));
    begun.await.unwrap().unwrap()
}

fn id(told: &support::Told) -> FileId {
    assert!(told.status.is_success(), "{told:?}");
    FileId::parse(told.json()["file_id"].as_str().unwrap()).unwrap()
}

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_comes_back_from_volume_backup_mirror_and_recovery_key() {
    let (lab, keyring) = (Lab::start().await, Keyring::new());
    let before = id(&lab.upload("before", "yesterday").send().await);
    let deleted = id(&lab.upload("deleted", "to go").send().await);
    let backup = lab.folder.path().join("b.age");
    let made = back_up(&lab, &keyring, &backup).await;
    // Today: files come and go, people change, keys are rotated.
    keeper::rotate(&lab.store, None, Origin::default()).await.unwrap();
    let after = id(&lab.upload("after", "today").send().await);
    let gone = lab.request(Method::DELETE, &routes::file(deleted)).of_user("adm").send().await;
    assert!(gone.status.is_success(), "{gone:?}");
    lab.change(Wish::AddUser {
        user: user("eve"),
        role: Role::Viewer,
        cohorts: [Cohort::parse("c1").unwrap()].into(),
    })
    .await;
    lab.change(Wish::DisableUser { user: user("vic") }).await;
    let issued = issue_token(&lab, "ada").await;
    let records = lab.store.ledger.reader().size().unwrap();
    let checkpoint = lab.store.ledger.reader().checkpoint().unwrap();
    let (folder, tokens) = lab.stop().await;

    let unpacked = rebuild(folder.path(), &backup, &keyring);
    assert_eq!((unpacked.head.backup_id, unpacked.head.records), (made.head.backup_id, made.head.records));
    assert!(made.head.records < records);
    let config = folder.path().join("storaged.toml");
    let Forward { replayed, doubt } = forward(&config, Known::default());
    assert_eq!(doubt, None, "the mirror goes on where the backup ends: {replayed:?}");
    assert_eq!(replayed.records, records, "every record that was acknowledged");
    let lab = Lab::open(folder, tokens).await;
    let proof = lab.store.ledger.reader().snapshot().unwrap();
    assert_eq!(
        proof.root(records).unwrap(),
        checkpoint.unverified().root,
        "the log goes on as it was signed"
    );
    for (file, content) in [(before, "yesterday"), (after, "today")] {
        assert_eq!(lab.request(Method::GET, &routes::file(file)).send().await.body, content);
    }
    let gone = lab.request(Method::GET, &routes::file(deleted)).send().await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND, "what was deleted stays deleted");
    let book = lab.store.policy.load();
    assert!(book.book().users.contains_key(&user("eve")));
    let shut_out = lab.request(Method::GET, &routes::file(after)).of_user("vic").send().await;
    assert_eq!(shut_out.status, StatusCode::UNAUTHORIZED);
    let with_it = lab.request(Method::GET, &routes::file(after)).with_proof(Proof::Token(issued));
    assert_eq!(with_it.send().await.body, "today", "a token from after the backup is one");
    id(&lab.upload("tomorrow", "goes on").send().await);
}

async fn issue_token(lab: &Lab, to: &str) -> Token {
    let token = Token::from_bytes([9; 32]);
    lab.change(Wish::IssueToken {
        token: tables::random_id().unwrap(),
        user: user(to),
        sha256: token.digest(),
        expires_ms: None,
        label: None,
    })
    .await;
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterdays_backup_without_the_mirror_deletes_nothing_and_says_so() {
    let (lab, keyring) = (Lab::start().await, Keyring::new());
    let before = id(&lab.upload("before", "yesterday").send().await);
    let backup = lab.folder.path().join("b.age");
    let made = back_up(&lab, &keyring, &backup).await;
    let after = id(&lab.upload("after", "today").send().await);
    let issued = issue_token(&lab, "ada").await;
    let objects = lab.on_volume();
    let seen = lab.store.ledger.reader().checkpoint().unwrap();
    let (folder, tokens) = lab.stop().await;

    rebuild(folder.path(), &backup, &keyring);
    std::fs::remove_dir_all(folder.path().join("volume/.journal")).unwrap();
    let config = folder.path().join("storaged.toml");
    // A mirror that is lost is no reason to go on as if nothing had been.
    std::fs::create_dir(folder.path().join("volume/.journal")).unwrap();
    assert_eq!(forward(&config, Known::default()).doubt, Some(Doubt::Short));
    assert!(folder.path().join("state").join(RESTORED_FILE).exists(), "it still does not start");
    assert!(storaged::restore::refuse_undecided(&folder.path().join("state")).is_err());
    let known = (seen.unverified().size, seen.unverified().root);
    let wanted = NewEpoch { reason: "the drill".into(), seen: Some(known), origin: Origin::default() };
    let opened = begin_epoch(config.clone(), wanted).await;
    assert_eq!((opened.epoch, opened.old_size), (1, known.0));
    let lab = Lab::open(folder, tokens).await;
    assert_eq!(lab.on_volume(), objects, "no object was deleted");
    let unclaimed = lab.store.unclaimed(&lab.store.volumes[0]).await.unwrap();
    assert_eq!(unclaimed.len(), 1, "today's: {unclaimed:?}");
    assert!(matches!(unclaimed[0], Found::Object(_)));
    assert_eq!(lab.request(Method::GET, &routes::file(before)).send().await.body, "yesterday");
    let missing = lab.request(Method::GET, &routes::file(after)).send().await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let with_it = lab.request(Method::GET, &routes::file(before)).with_proof(Proof::Token(issued));
    let unknown = with_it.send().await.status;
    assert_eq!(unknown, StatusCode::UNAUTHORIZED, "a token that this history never issued is none");
    let now = lab.store.ledger.reader().checkpoint().unwrap();
    assert_eq!(now.unverified().epoch, 1, "whoever follows the log is told");
    let record = lab.store.ledger.reader().record(opened.record).unwrap().unwrap();
    assert_eq!(record.detail.as_deref(), Some("the drill"));
    assert!(opened.record >= made.head.records);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_open_in_the_backup_and_ended_well_keeps_its_object() {
    let (lab, keyring) = (Lab::start().await, Keyring::new());
    // A body whose second half comes after the backup.
    let (mut sender, body) = slow_body();
    let sending = lab.upload("slow", "").with("content-length", "2097152").send_body(body);
    sender.send(vec![7; 1 << 20]).await;
    let backup = lab.folder.path().join("b.age");
    let meanwhile = async {
        let reader = lab.store.ledger.reader().clone();
        support::eventually("the upload begins", || !reader.open_intents().unwrap().is_empty()).await;
        back_up(&lab, &keyring, &backup).await;
        sender.send(vec![7; 1 << 20]).await;
        drop(sender);
    };
    let (answer, ()) = tokio::join!(sending, meanwhile);
    id(&support::Told::read(answer).await);
    let objects = lab.on_volume();
    assert_eq!(objects.len(), 1);
    let (folder, tokens) = lab.stop().await;
    rebuild(folder.path(), &backup, &keyring);
    let wanted = NewEpoch { reason: "the drill".into(), seen: None, origin: Origin::default() };
    let config = folder.path().join("storaged.toml");
    let opened = begin_epoch(config.clone(), wanted).await;
    assert_eq!(opened.ended, 1);
    assert!(opened.journal_aside.unwrap().ends_with(".journal.before-epoch-1"));
    let lab = Lab::open(folder, tokens).await;
    assert_eq!(lab.on_volume(), objects, "it was acknowledged, so it is not removed");
}

struct Sender(tokio::sync::mpsc::Sender<Vec<u8>>);

impl Sender {
    async fn send(&mut self, bytes: Vec<u8>) {
        self.0.send(bytes).await.unwrap();
    }
}

fn slow_body()
-> (Sender, impl hyper::body::Body<Data = bytes::Bytes, Error = std::convert::Infallible> + Send + 'static) {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let bytes: Vec<u8> = receiver.recv().await?;
        let frame = hyper::body::Frame::data(bytes::Bytes::from(bytes));
        Some((Ok::<_, std::convert::Infallible>(frame), receiver))
    });
    (Sender(sender), http_body_util::StreamBody::new(Box::pin(stream)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_checked_to_the_last_record_and_key() {
    let (lab, keyring) = (Lab::start().await, Keyring::new());
    for number in 0..5 {
        id(&lab.upload(&format!("f{number}"), format!("content {number}")).send().await);
    }
    let gone = id(&lab.upload("gone", "x").send().await);
    lab.request(Method::DELETE, &routes::file(gone)).of_user("adm").send().await;
    let backup = lab.folder.path().join("b.age");
    let made = back_up(&lab, &keyring, &backup).await;
    assert_eq!(made.bytes, std::fs::metadata(&backup).unwrap().len());
    assert_eq!(made.sha256, support::digest(&std::fs::read(&backup).unwrap()));
    let scratch = lab.folder.path().join("scratch");
    let unpacked = unpack(&backup, &keyring.all(), &scratch, &mut |_| ()).unwrap();
    let root = || unpacked.root_key(&keyring.all()).unwrap().unwrap();
    let checked = check(&scratch.join(STATE), root(), &unpacked.head, &mut |_| ()).unwrap();
    assert_eq!(checked.findings, Vec::<String>::new());
    assert_eq!(checked.files, 5);
    assert_eq!(checked.records + checked.destroyed_records, unpacked.head.records);
    assert!(checked.destroyed_records > 0 && checked.file_keys >= 10 && checked.rows > 20, "{checked:?}");

    // A key that is missing is a finding: the file would be lost.
    let state = scratch.join(STATE);
    let keys = redb::Database::open(state.join("keys.redb")).unwrap();
    let transaction = keys.begin_write().unwrap();
    {
        let mut table = transaction.open_table(storaged::keys::tables::FILE_KEYS).unwrap();
        let opened = storaged::ledger::open(&state.join("ledger.redb")).unwrap();
        let keys: Arc<dyn storaged::keys::KeyStore> = Arc::clone(&lab.store.keys) as _;
        let (files, _) =
            Reader::new(opened.database, keys).list(&Cohort::parse("c1").unwrap(), None, 10).unwrap();
        table.remove((files[0].file_id.as_bytes(), 1)).unwrap().unwrap();
    }
    transaction.commit().unwrap();
    drop(keys);
    let checked = check(&state, root(), &unpacked.head, &mut |_| ()).unwrap();
    assert_eq!(checked.findings.len(), 1, "{checked:?}");
    assert!(checked.findings[0].contains("the key of part 1 is missing"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_cut_off_or_for_others_is_refused_and_leaves_nothing() {
    let (lab, keyring) = (Lab::start().await, Keyring::new());
    id(&lab.upload("f", "content").send().await);
    let backup = lab.folder.path().join("b.age");
    back_up(&lab, &keyring, &backup).await;
    let bytes = std::fs::read(&backup).unwrap();
    let scratch = lab.folder.path().join("scratch");
    let refused = |bytes: &[u8], identities: &[Identity]| {
        let bad = lab.folder.path().join("bad.age");
        std::fs::write(&bad, bytes).unwrap();
        let error = unpack(&bad, identities, &scratch, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("bad.age"), "it names the file: {error}");
        assert!(!scratch.exists(), "nothing is left: {error}");
        error
    };
    let stranger = [Identity::generate().unwrap()];
    assert!(refused(&bytes, &stranger).contains("no identity at hand opens it"));
    for cut in [bytes.len() - 1, bytes.len() / 2, 300] {
        assert!(refused(&bytes[..cut], &keyring.all()).contains("changed or cut off"), "cut at {cut}");
    }
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!(refused(&flipped, &keyring.all()).contains("changed or cut off"));
    assert!(refused(b"PK\x03\x04", &keyring.all()).contains("not an age file"));
    // Another store's root key opens nothing of it.
    let unpacked = unpack(&backup, &keyring.all(), &scratch, &mut |_| ()).unwrap();
    let other = RootKey::generate().unwrap();
    let error = check(&scratch.join(STATE), other, &unpacked.head, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("not wrapped by the key"), "{error}");
    // What is there is not overwritten.
    let again = unpack(&backup, &keyring.all(), &scratch, &mut |_| ()).unwrap_err().to_string();
    assert!(again.contains("nothing is overwritten"), "{again}");
    assert!(scratch.join(STATE).is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_while_files_arrive_is_of_one_moment() {
    let (lab, keyring) = (Arc::new(Lab::start().await), Keyring::new());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let arrived = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let load: Vec<_> = (0..4)
        .map(|writer| {
            let (lab, stop, arrived) = (Arc::clone(&lab), Arc::clone(&stop), Arc::clone(&arrived));
            tokio::spawn(async move {
                let mut sent = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let file = id(&lab.upload(&format!("w{writer}-{sent}"), "bytes").send().await);
                    if sent % 3 == 0 {
                        lab.request(Method::DELETE, &routes::file(file)).of_user("adm").send().await;
                    }
                    sent += 1;
                    arrived.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            })
        })
        .collect();
    let folder: PathBuf = lab.folder.path().to_owned();
    for round in 0..12 {
        let before = arrived.load(std::sync::atomic::Ordering::Relaxed);
        support::eventually("more files arrive", || {
            arrived.load(std::sync::atomic::Ordering::Relaxed) > before
        })
        .await;
        let backup = folder.join(format!("b{round}.age"));
        back_up(&lab, &keyring, &backup).await;
        let scratch = folder.join(format!("s{round}"));
        let unpacked = unpack(&backup, &keyring.all(), &scratch, &mut |_| ()).unwrap();
        let root = unpacked.root_key(&keyring.all()).unwrap().unwrap();
        let checked = check(&scratch.join(STATE), root, &unpacked.head, &mut |_| ()).unwrap();
        assert_eq!(checked.findings, Vec::<String>::new(), "round {round}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in load {
        writer.await.unwrap();
    }
}
