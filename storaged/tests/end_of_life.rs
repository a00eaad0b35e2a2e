//! What must not stay on a volume goes, and is marked as gone only when nobody finds it there.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use http::Method;
use storaged::deletion::DeleteError;
use storaged::keys::KeyStore as _;
use storaged::ledger::access::{CohortRules, Wish};
use storaged::ledger::cleanup::{self, CleanupKind, Command, Outcome, Temporary, Verifier};
use storaged::ledger::deletion::{self, Step};
use storaged::ledger::{Action, Origin, Phase, hold, tables};
use storaged::reaper::{self, Before, Look};
use store_proto::{Cohort, FileId, LogicalPath, headers, routes};
use support::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_there_is_not_marked_whoever_says_so() {
    let lab = Lab::start().await;
    let disk = lab.store.volumes[0].backend.clone();
    let object: FileId = tables::random_id().unwrap();
    let mut writing = disk.create(object).unwrap();
    writing.write(b"left over").unwrap();
    drop(writing);
    let id = require(&lab, object, disk.id()).await;

    let operator = || Verifier::Operator("uid=0".into());
    let row = reaper::pending(&lab.store).unwrap()[0].1.clone();
    let told = reaper::look(&lab.store, id, &row, Before::OnlyLook, Origin::default(), operator()).await;
    assert_eq!(told.unwrap(), Look::Still("it is still there".into()));
    let gone = reaper::look(&lab.store, id, &row, Before::Remove, Origin::default(), operator()).await;
    assert_eq!(gone.unwrap(), Look::Gone);
    assert!(disk.is_absent(object).unwrap());
    assert!(reaper::pending(&lab.store).unwrap().is_empty());
    let row = cleanup::find(&lab.store.ledger.reader().snapshot().unwrap(), id).unwrap().unwrap();
    assert_eq!((row.attempted_count, row.cleaned_up.unwrap().verified_by), (1, operator()));
    let records = lab.store.ledger.reader().records(0, 1000).unwrap();
    let about: Vec<_> = records.iter().filter(|record| record.action == Action::ScratchCleanup).collect();
    assert_eq!(about.len(), 3, "asked for, tried, done");
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_of_its_cohort_see_a_cleanup_over_http_and_mark_it_when_it_is_gone() {
    let lab = Lab::start().await;
    let disk = lab.store.volumes[0].backend.clone();
    let (object, theirs): (FileId, FileId) = (tables::random_id().unwrap(), tables::random_id().unwrap());
    let mut writing = disk.create(object).unwrap();
    writing.write(b"left over").unwrap();
    drop(writing);
    let of = |cohort: &str| Some(Cohort::parse(cohort).unwrap());
    let id = require_of(&lab, of("c1"), object, disk.id()).await;
    let other = require_of(&lab, of("c2"), theirs, disk.id()).await;
    let list = |user: &'static str, query: &str| {
        lab.request(Method::GET, &format!("{}{query}", routes::CLEANUPS)).of_user(user).send()
    };
    let verify = |user: &'static str, id: u64| {
        lab.request(Method::POST, &format!("{}/{id}/verify", routes::CLEANUPS)).of_user(user).send()
    };
    for user in ["ada", "vic", "aud"] {
        assert_eq!(list(user, "?state=overdue").await.problem(), "cohort-forbidden", "{user}");
        assert_eq!(verify(user, id).await.problem(), "cohort-forbidden", "{user}");
    }
    assert_eq!(list("adm", "?state=done").await.problem(), "bad-request");
    for query in ["", "?state=pending", "?state=overdue"] {
        let told = list("adm", query).await.json();
        assert_eq!(told["cleanups"].as_array().unwrap().len(), 1, "{told}");
        assert_eq!((&told["cleanups"][0]["id"], &told["cleanups"][0]["overdue"]), (&id.into(), &true.into()));
    }
    assert_eq!(verify("adm", other).await.problem(), "not-found");
    let told = verify("adm", id).await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (409, "conflict"), "it is still there");
    disk.remove(object).unwrap();
    for _ in 0..2 {
        assert_eq!(verify("adm", id).await.json()["cleaned_up"], true);
    }
    assert_eq!(list("adm", "").await.json()["cleanups"], serde_json::json!([]));
    let records = lab.store.ledger.reader().records(0, 1000).unwrap();
    let subject = format!("urn:culvert:cleanup:{id}");
    let about = records.iter().filter(|record| record.subject_ref.as_deref() == Some(&subject));
    let said: Vec<_> =
        about.map(|record| record.cleanup.as_ref().unwrap().cleanup_verified_by.clone()).collect();
    assert_eq!(said, [None, None, Some("adm".to_owned())], "asked for, still there, gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_away_proves_nothing() {
    let lab = Lab::start().await;
    let object: FileId = tables::random_id().unwrap();
    let id = require(&lab, object, lab.store.volumes[0].backend.id()).await;
    // As if it were unmounted: the directory is there and empty.
    let volume = lab.folder.path().join("volume");
    std::fs::rename(&volume, lab.folder.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&volume).unwrap();
    let row = reaper::pending(&lab.store).unwrap()[0].1.clone();
    for before in [Before::OnlyLook, Before::Remove] {
        let looked = reaper::look(&lab.store, id, &row, before, Origin::default(), Verifier::System).await;
        assert!(matches!(looked.unwrap(), Look::Still(_)));
    }
    let unknown = require(&lab, object, FileId::from_bytes([9; 16])).await;
    let (_, row) = reaper::pending(&lab.store).unwrap().into_iter().find(|(id, _)| *id == unknown).unwrap();
    let looked =
        reaper::look(&lab.store, unknown, &row, Before::Remove, Origin::default(), Verifier::System).await;
    assert_eq!(looked.unwrap(), Look::Still("its volume is not configured".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_is_gone_and_its_history_stands() {
    let lab = Lab::start().await;
    let kept = id(&lab.upload("a/kept", "kept").send().await);
    let file = id(&lab.upload("a/secret-name", "secret content").send().await);
    let object = lab.store.ledger.reader().file(file).unwrap().unwrap().parts[0].clone();
    let arrival = lab.store.ledger.reader().file(file).unwrap().unwrap().ledger_index;
    assert!(lab.store.ledger.reader().record(arrival).unwrap().is_some());
    let delete = |user: &'static str| {
        let path = routes::file(file);
        let asking =
            lab.request(Method::DELETE, &path).of_user(user).with(headers::CULVERT_REASON, "case 12");
        async move { asking.send().await }
    };
    for (user, problem) in
        [("ada", "cohort-forbidden"), ("vic", "cohort-forbidden"), ("aud", "cohort-forbidden")]
    {
        assert_eq!(delete(user).await.problem(), problem, "{user}");
    }
    // Neither a role nor an operator stands above a hold.
    let hold = hold::Command::Place {
        origin: Origin::default(),
        target: hold::Target::Cohort(Cohort::parse("c1").unwrap()),
        reason: "case 12".into(),
    };
    let hold::Outcome::Placed(hold) = lab.store.ledger.submit(hold).await.unwrap() else { panic!() };
    assert_eq!(delete("adm").await.problem(), "retention-locked");
    let release = hold::Command::Release { origin: Origin::default(), id: hold, reason: "closed".into() };
    lab.store.ledger.submit(release).await.unwrap();

    let told = delete("adm").await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(delete("adm").await.problem(), "unknown-file");
    assert_eq!(lab.request(Method::GET, &routes::file(file)).send().await.problem(), "unknown-file");
    assert!(lab.store.volumes[0].backend.is_absent(object.object).unwrap());
    assert_eq!(lab.store.keys.file_key(file, object.part).unwrap().map(drop), None);
    assert!(reaper::pending(&lab.store).unwrap().is_empty());
    // What was recorded about it cannot be read any more; that it was there is still proven.
    let reader = lab.store.ledger.reader();
    assert_eq!(reader.record(arrival).unwrap(), None);
    let shown = |record: &storaged::ledger::Record| serde_json::to_string(record).unwrap();
    let records = lab.records();
    assert!(records.iter().all(|record| !shown(record).contains("secret-name")));
    let deleted: Vec<_> = records.iter().filter(|record| record.action == Action::NasRawDeleted).collect();
    assert_eq!(
        deleted.iter().map(|record| record.phase).collect::<Vec<_>>(),
        [Phase::Intent, Phase::Outcome]
    );
    assert!(deleted.iter().all(|record| record.file_id == Some(file)));
    assert_eq!(reader.totals().unwrap().files, 1);
    // Its neighbour is as it was, and its name is free.
    assert_eq!(lab.request(Method::GET, &routes::file(kept)).send().await.body, "kept");
    assert_eq!(lab.upload("a/secret-name", "other").send().await.status, 201);

    let certificate = |lab: &Lab| {
        let snapshot = lab.store.ledger.reader().snapshot().unwrap();
        let row = deletion::find(&snapshot, file).unwrap().unwrap();
        storaged::deletion::certificate(file, &row, snapshot.checkpoint().unwrap().as_str())
    };
    assert_eq!(certificate(&lab)["complete"], false);
    let done = storaged::deletion::shred(&lab.store, Origin::default()).await.unwrap();
    assert_eq!(done.unwrap().1, 1, "one deletion is final");
    let shown = certificate(&lab);
    assert_eq!(
        (&shown["complete"], &shown["deleted_by"], &shown["reason"]),
        (&true.into(), &"adm".into(), &"case 12".into())
    );
    assert!(!shown.to_string().contains("secret"));
    assert_eq!(
        lab.request(Method::GET, &routes::file(kept)).send().await.body,
        "kept",
        "survivors are wrapped anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_is_a_minimum() {
    let lab = Lab::start().await;
    let rules = CohortRules { retention_days: Some(1), ..CohortRules::default() };
    lab.change(Wish::SetCohort { cohort: Cohort::parse("c1").unwrap(), rules }).await;
    let file = id(&lab.upload("a", "x").send().await);
    let refused = storaged::deletion::delete(&lab.store, Origin::default(), file, "too early".into())
        .await
        .unwrap_err();
    assert!(matches!(refused, DeleteError::Retained { .. }), "{refused}");
    assert!(refused.to_string().contains("this one until 2"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_is_lowered_goes_on_for_what_was_there() {
    let lab = Lab::start().await;
    let set = async |retention_days| {
        let rules = CohortRules { retention_days, ..CohortRules::default() };
        lab.change(Wish::SetCohort { cohort: Cohort::parse("c1").unwrap(), rules }).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    let delete =
        async |file| storaged::deletion::delete(&lab.store, Origin::default(), file, "x".into()).await;
    let kept = async |file| matches!(delete(file).await, Err(DeleteError::Retained { .. }));
    set(Some(7)).await;
    let of_seven = id(&lab.upload("seven", "7").send().await);
    set(Some(2)).await;
    let of_two = id(&lab.upload("two", "2").send().await);
    set(None).await;
    let of_none = id(&lab.upload("none", "0").send().await);
    assert!(kept(of_seven).await && kept(of_two).await);
    delete(of_none).await.unwrap();
    // Until seven days are over, not two.
    let told = delete(of_seven).await.unwrap_err().to_string();
    let DeleteError::Retained { until_ms } = delete(of_two).await.unwrap_err() else { panic!("{told}") };
    assert!(!told.contains(&tables::rfc3339(until_ms)[..10]), "{told}");
    // A longer one is for all that is there.
    let later = id(&lab.upload("later", "0").send().await);
    set(Some(30)).await;
    assert!(kept(later).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_stands_only_in_records_that_fall_with_a_file() {
    let lab = Lab::start().await;
    let file = id(&lab.upload("taken-name", "x").send().await);
    let named = |name: &str| {
        let shown = |record: &storaged::ledger::Record| serde_json::to_string(record).unwrap().contains(name);
        lab.records().into_iter().filter(shown).count()
    };
    // An upload that is refused before it was begun makes no file, so nothing ever deletes its record.
    let refused = lab.upload("refused-name", "x").of_user("vic").send().await;
    assert_eq!(refused.status, 403, "{refused:?}");
    let denied: Vec<_> =
        lab.records().into_iter().filter(|record| record.action == Action::AccessDenied).collect();
    assert_eq!((denied.len(), named("refused-name")), (1, 0));
    // Onto a name that a file has, it is about that file.
    lab.upload("taken-name", "y").of_user("vic").send().await;
    let last = lab.records().pop().unwrap();
    assert_eq!((last.action, last.file_id), (Action::AccessDenied, Some(file)));
    assert!(named("taken-name") > 1);
    storaged::deletion::delete(&lab.store, Origin::default(), file, "case 1".into()).await.unwrap();
    assert_eq!(named("taken-name"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_version_leaves_the_others() {
    let lab = Lab::start().await;
    let mut versions = Vec::new();
    let mut etag: Option<String> = None;
    for bytes in ["one", "two", "three"] {
        let mut asking = lab.upload("f", bytes);
        if let Some(etag) = &etag {
            asking = asking.with("if-match", etag);
        }
        let told = asking.send().await;
        assert_eq!(told.status, 201, "{told:?}");
        etag = Some(told.json()["etag"].as_str().unwrap().to_owned());
        versions.push(id(&told));
    }
    let listed = || {
        let path = LogicalPath::parse("f").unwrap();
        let found = lab.store.ledger.reader().versions(&Cohort::parse("c1").unwrap(), &path).unwrap();
        found.into_iter().map(|file| file.file_id).collect::<Vec<_>>()
    };
    let delete = async |file| {
        storaged::deletion::delete(&lab.store, Origin::default(), file, "x".into()).await.unwrap();
    };
    delete(versions[1]).await;
    assert_eq!(listed(), [versions[2], versions[0]], "the middle one went");
    delete(versions[2]).await;
    assert_eq!(listed(), [versions[0]], "the newest went, and the name leads to the one before");
    delete(versions[0]).await;
    assert!(listed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_was_cut_short_goes_on() {
    let lab = Lab::start().await;
    let file = id(&lab.upload("a", "x").send().await);
    let decide = deletion::Command::Decide {
        origin: Origin::default(),
        file_id: file,
        reason: "x".into(),
        retention_days: None,
    };
    lab.store.ledger.submit(decide).await.unwrap();
    // Here it stopped: out of sight, and all of it still there. Its object is nobody else's either.
    assert_eq!(lab.request(Method::GET, &routes::file(file)).send().await.problem(), "unknown-file");
    assert_eq!(lab.on_volume().len(), 1);
    let (folder, tokens) = lab.stop().await;
    let lab = Lab::open(folder, tokens).await;
    assert_eq!(lab.on_volume().len(), 1, "a start removes nothing of it by itself");
    storaged::deletion::resume(&lab.store).await.unwrap();
    assert!(lab.on_volume().is_empty());
    let row = deletion::find(&lab.store.ledger.reader().snapshot().unwrap(), file).unwrap().unwrap();
    assert!(matches!(row.step, Step::ObjectsGone { .. }), "{:?}", row.step);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shred_whose_end_was_not_recorded_is_recorded_by_the_next() {
    let lab = Lab::start().await;
    let file = id(&lab.upload("a", "x").send().await);
    storaged::deletion::delete(&lab.store, Origin::default(), file, "x".into()).await.unwrap();
    // The keys are shredded, and here the process died.
    lab.store.keys.shred().unwrap().unwrap();
    let (folder, tokens) = lab.stop().await;
    let lab = Lab::open(folder, tokens).await;
    assert!(storaged::deletion::shred(&lab.store, Origin::default()).await.unwrap().is_none());
    let row = deletion::find(&lab.store.ledger.reader().snapshot().unwrap(), file).unwrap().unwrap();
    assert!(matches!(row.step, Step::Final { key_epoch: 2, .. }), "{:?}", row.step);
    assert!(storaged::deletion::unfinished(&lab.store).unwrap().is_empty());
}

fn id(told: &support::Told) -> FileId {
    FileId::parse(told.json()["file_id"].as_str().unwrap()).unwrap()
}

async fn require(lab: &Lab, object: FileId, volume: FileId) -> u64 {
    require_of(lab, None, object, volume).await
}

async fn require_of(lab: &Lab, cohort: Option<Cohort>, object: FileId, volume: FileId) -> u64 {
    let temporary = Temporary {
        kind: CleanupKind::UnfinishedObject,
        cohort,
        file_id: object,
        object,
        volume,
        expected_by_ms: 1,
    };
    let command = Command::Require { origin: Origin::default(), temporary };
    match lab.store.ledger.submit(command).await.unwrap() {
        Outcome::Required(id) => id,
        Outcome::Retry { .. } | Outcome::Done(_) | Outcome::AlreadyDone | Outcome::Unknown => {
            panic!("asked for, and not answered so")
        }
    }
}
