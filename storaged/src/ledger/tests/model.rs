//! Random commands, compared with maps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use redb::backends::InMemoryBackend;
use store_proto::{Cohort, FileId};

use super::*;
use crate::ledger::audit::Question;
use crate::ledger::download::{self, Command as Read};

#[derive(Debug, Clone)]
enum Step {
    Begin { cohort: u8, path: u8 },
    Finish { which: usize, content: u8 },
    Abandon { which: usize },
    Read { which: usize },
    EndRead { which: usize },
    Unknown,
    Deny,
    Clock(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2u8, 0..6u8).prop_map(|(cohort, path)| Step::Begin { cohort, path }),
        4 => (any::<usize>(), 1..4u8).prop_map(|(which, content)| Step::Finish { which, content }),
        2 => any::<usize>().prop_map(|which| Step::Abandon { which }),
        2 => any::<usize>().prop_map(|which| Step::Read { which }),
        2 => any::<usize>().prop_map(|which| Step::EndRead { which }),
        1 => Just(Step::Unknown),
        1 => Just(Step::Deny),
        1 => (0..1000u64).prop_map(Step::Clock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_does_what_maps_would(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps);
    }
}

#[derive(Default)]
struct Model {
    files: BTreeMap<(String, String), (FileId, u8)>,
    /// Cohort, and path, id and content, as they came.
    arrivals: Vec<(String, (String, FileId, u8))>,
    uploads: Vec<(u64, FileId, String, String)>,
    downloads: Vec<u64>,
}

fn run(steps: &[Step]) {
    let keys = fresh_keys();
    let database = open_on(InMemoryBackend::new()).unwrap();
    tables::initialize(&database, STORE, &keys, first_record()).unwrap();
    let time = TestTime::default();
    let (ledger, _) = Ledger::start(
        Opened::in_memory(Arc::new(database), STORE),
        Arc::clone(&keys),
        None,
        Host::default(),
        time.clone(),
        Silent,
    )
    .unwrap();
    let mut model = Model::default();
    for (number, step) in steps.iter().enumerate() {
        apply(&ledger, &keys, &time, &mut model, u8::try_from(number).unwrap(), step);
    }
    let reader = ledger.reader();
    assert_sound(reader, &keys);
    for name in ["c0", "c1"] {
        let cohort = Cohort::parse(name).unwrap();
        let expected: Vec<(String, FileId, u8)> =
            model.arrivals.iter().filter(|(of, ..)| of == name).map(|(_, row)| row.clone()).collect();
        // Pages of two, joined.
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let (rows, more) = reader.list(&cohort, after, 2).unwrap();
            after = rows.last().map(|row| row.ledger_index);
            found.extend(
                rows.into_iter()
                    .map(|row| (row.path.to_string(), row.file_id, u8::try_from(row.size).unwrap())),
            );
            if !more {
                break;
            }
        }
        assert_eq!(found, expected);
    }
    assert_eq!(reader.open_intents().unwrap().len(), model.uploads.len() + model.downloads.len());
    assert_trail_answers(reader);
}

fn apply(ledger: &Ledger, keys: &Keys, time: &TestTime, model: &mut Model, number: u8, step: &Step) {
    match step {
        Step::Begin { cohort, path } => {
            let (cohort, path) = (format!("c{cohort}"), format!("p{path}"));
            let id = FileId::from_bytes([number; 16]);
            let upload::Outcome::Begun { intent, .. } =
                ledger.submit_blocking(begin_upload(keys, &cohort, &path, id)).unwrap()
            else {
                panic!("an upload begins")
            };
            model.uploads.push((intent, id, cohort, path));
        }
        Step::Finish { which, content } => {
            let Some((intent, id, cohort, path)) = pick(&model.uploads, *which).cloned() else { return };
            let outcome = ledger.submit_blocking(finish_upload(intent, id, *content)).unwrap();
            match model.files.get(&(cohort.clone(), path.clone())) {
                Some((existing, _)) => {
                    assert!(matches!(outcome, upload::Outcome::PathTaken(file) if file.file_id == *existing));
                }
                None => {
                    assert!(matches!(outcome, upload::Outcome::Stored(file) if file.file_id == id));
                    model.arrivals.push((cohort.clone(), (path.clone(), id, *content)));
                    model.files.insert((cohort, path), (id, *content));
                    model.uploads.retain(|(open, ..)| *open != intent);
                }
            }
        }
        Step::Abandon { which } => {
            let Some((intent, ..)) = pick(&model.uploads, *which).cloned() else { return };
            let command = upload::Command::Abandon {
                intent,
                ending: Ending::Aborted,
                error: "gone".into(),
                received: 1,
                left: false,
                instead: None,
            };
            let ended = ledger.submit_blocking(command.clone()).unwrap();
            assert!(matches!(ended, upload::Outcome::Abandoned(_)));
            assert_eq!(ledger.submit_blocking(command).unwrap(), upload::Outcome::UnknownIntent);
            model.uploads.retain(|(open, ..)| *open != intent);
        }
        Step::Read { which } => {
            let files: Vec<FileId> = model.files.values().map(|(id, _)| *id).collect();
            let Some(file_id) = pick(&files, *which).copied() else { return };
            let command = Read::Begin { origin: Origin::default(), file_id, detail: None, scanner: false };
            let download::Outcome::Opened { intent, file } = ledger.submit_blocking(command).unwrap() else {
                panic!("a stored file opens")
            };
            assert_eq!(file.file_id, file_id);
            model.downloads.push(intent);
        }
        Step::EndRead { which } => {
            let Some(intent) = pick(&model.downloads, *which).copied() else { return };
            let command = Read::Finish { intent, ending: Ending::Succeeded, error: None, sent: 1 };
            assert!(matches!(ledger.submit_blocking(command).unwrap(), download::Outcome::Ended(_)));
            model.downloads.retain(|open| *open != intent);
        }
        Step::Unknown => {
            let file_id = FileId::from_bytes([0xff; 16]);
            let command = Read::Begin { origin: Origin::default(), file_id, detail: None, scanner: false };
            assert_eq!(ledger.submit_blocking(command).unwrap(), download::Outcome::UnknownFile);
            let unknown = ledger.submit_blocking(finish_upload(u64::MAX, file_id, 1)).unwrap();
            assert_eq!(unknown, upload::Outcome::UnknownIntent);
        }
        Step::Deny => {
            let note = Note::new(Action::AccessDenied, Ending::Denied, Origin::default());
            assert!(ledger.submit_blocking(note).unwrap() > 0);
        }
        Step::Clock(to) => time.0.store(*to, Ordering::Relaxed),
    }
}

/// Every question has the answer that a filter over all records gives.
fn assert_trail_answers(reader: &Reader) {
    let all = reader.records(0, usize::MAX).unwrap();
    let questions = [
        Question::default(),
        Question { cohort: Some(Cohort::parse("c0").unwrap()), ..Question::default() },
        Question { action: Some(Action::AccessDenied), limit: Some(2), ..Question::default() },
        Question { since_ms: Some(500), ..Question::default() },
        Question {
            since_ms: Some(500),
            limit: Some(3),
            user: Some(UserName::parse("ada").unwrap()),
            ..Question::default()
        },
        Question { limit: Some(0), ..Question::default() },
    ];
    for question in questions {
        let mut expected: Vec<Record> = all
            .iter()
            .filter(|record| {
                question.matches(record) && question.since_ms.is_none_or(|since| record.time_ms >= since)
            })
            .cloned()
            .collect();
        if let Some(limit) = question.limit {
            expected.drain(..expected.len().saturating_sub(limit));
        }
        let mut found = Vec::new();
        question
            .ask(reader, |record| {
                found.push(record);
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(found, expected, "{question:?}");
    }
}

fn pick<T>(from: &[T], which: usize) -> Option<&T> {
    if from.is_empty() { None } else { from.get(which % from.len()) }
}
