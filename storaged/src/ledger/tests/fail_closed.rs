//! If it cannot be recorded, it is not done: every kind of command, on a disk that fails under it.

use std::collections::BTreeSet;

use receipt::merkle::empty_root;

use super::crash::Disk;
use super::*;
use crate::ledger::access::Wish;
use crate::ledger::ahead::Ahead;
use crate::ledger::cleanup::{CleanupKind, Temporary};
use crate::ledger::hold::Target;

/// Makes a command when the ledger is ready for it.
type Make = Box<dyn Fn(&Keys) -> Command>;

/// The kinds of command. A new area does not compile until it is here, and is not tested until it is below.
fn kind(command: &Command) -> &'static str {
    match command {
        Command::Upload(_) => "upload",
        Command::Partial(_) => "partial",
        Command::File(_) => "file",
        Command::Download(_) => "download",
        Command::Access(_) => "access",
        Command::Capability(_) => "capability",
        Command::Cleanup(_) => "cleanup",
        Command::Deletion(_) => "deletion",
        Command::Hold(_) => "hold",
        Command::Integrity(_) => "integrity",
        Command::Intent(_) => "intent",
        Command::Epoch(_) => "epoch",
        Command::Moment(_) => "moment",
        Command::Note(_) => "note",
        Command::Repeat(_) => "repeat",
        Command::Backup(_) => "backup",
    }
}

#[test]
fn nothing_is_done_that_cannot_be_recorded() {
    let mut tried = BTreeSet::new();
    let (id, origin) = (FileId::from_bytes([1; 16]), Origin::default);
    let cohort = || Cohort::parse("c").unwrap();
    let mut refused = |disk: &Disk, command: &dyn Fn(&Keys) -> Command| {
        let keys = fresh_keys();
        let database = open_on(disk.clone()).unwrap();
        tables::initialize(&database, STORE, &keys, first_record()).unwrap();
        let ahead = Ahead::over(disk.beside()).unwrap();
        let opened = Opened { database: Arc::new(database), store: STORE, ahead };
        let time = TestTime::default();
        let (ledger, writer) =
            Ledger::start(opened, Arc::clone(&keys), None, Host::default(), time, Silent).unwrap();
        let stored = ledger.submit_blocking(begin_upload(&keys, "c", "f", id)).unwrap();
        let upload::Outcome::Begun { intent, .. } = stored else { panic!("an upload begins") };
        ledger.submit_blocking(finish_upload(intent, id, 1)).unwrap();
        let before = ledger.reader().size().unwrap();
        disk.fail();
        let command = command(&keys);
        tried.insert(kind(&command));
        assert_eq!(ledger.submit_any_blocking(command.clone()), Err(LedgerUnavailable), "{command:?}");
        assert!(!ledger.is_usable());
        assert_eq!(ledger.reader().size().unwrap(), before, "{command:?}");
        drop(ledger);
        writer.join().unwrap();
    };
    let commands: Vec<Make> = vec![
        Box::new(move |_| {
            let (origin, kind) = (origin(), integrity::FindingKind::Missing);
            integrity::Command::Found { origin, file_id: id, object: id, kind }.into_command()
        }),
        Box::new(|keys| begin_upload(keys, "c", "g", FileId::from_bytes([2; 16])).into_command()),
        Box::new(move |_| finish_upload(1, id, 1).into_command()),
        Box::new(move |_| partial::Command::Forget { upload: id }.into_command()),
        Box::new(move |_| {
            let (origin, detail) = (origin(), None);
            files::Command::Judge { origin, file_id: id, clean: true, detail }.into_command()
        }),
        Box::new(move |_| {
            download::Command::Begin { origin: origin(), file_id: id, detail: None, scanner: false }
                .into_command()
        }),
        Box::new(move |_| {
            let wish = Box::new(Wish::AddCohort { cohort: cohort(), rules: Default::default() });
            access::Command::Change { origin: origin(), wish }.into_command()
        }),
        Box::new(move |_| {
            let temporary = Temporary {
                kind: CleanupKind::UnfinishedObject,
                cohort: Some(cohort()),
                file_id: id,
                object: id,
                volume: id,
                expected_by_ms: 9,
            };
            cleanup::Command::Require { origin: origin(), temporary }.into_command()
        }),
        Box::new(move |_| {
            let target = Target::File(id);
            hold::Command::Place { origin: origin(), target, reason: "r".into() }.into_command()
        }),
        Box::new(move |_| {
            let (reason, retention_days) = ("r".to_owned(), None);
            deletion::Command::Decide { origin: origin(), file_id: id, reason, retention_days }.into_command()
        }),
        Box::new(move |_| {
            let user = UserName::parse("ada").unwrap();
            capability::Command::RevokeAllOf { origin: origin(), user }.into_command()
        }),
        Box::new(|_| intents::Command::CloseCrashed { intent: 1 }.into_command()),
        Box::new(move |_| {
            let reason = "restored".to_owned();
            epoch::Command::Open { origin: origin(), old_size: 9, old_root: empty_root(), reason }
                .into_command()
        }),
        Box::new(move |_| {
            backup::Command::Verified { origin: origin(), backup: id, at_ms: 1 }.into_command()
        }),
        Box::new(|_| repeat::Command::Forget { keys: Vec::new() }.into_command()),
        Box::new(move |_| moment::Command::Confirm { origin: origin() }.into_command()),
        Box::new(move |_| Note::new(Action::AccessDenied, Ending::Denied, origin()).into_command()),
    ];
    for command in &commands {
        refused(&Disk::empty(), command);
    }
    assert_eq!(tried.len(), 16, "each kind was tried: {tried:?}");
}
