//! The mirror: what it holds, what it refuses, and what can be made again from it.

use std::path::PathBuf;
use std::time::Duration;

use redb::{ReadableDatabase as _, ReadableTable as _};

use super::*;
use crate::keys::KeyStore as _;
use crate::ledger::journal::replay::replay;
use crate::ledger::journal::{self, Envelope, Frame, Journal, JournalError, OnDisk};
use crate::ledger::tables::{META, RECORDS, STATE, TILES};
use crate::ledger::writer::StartError;
use crate::limits::JOURNAL_DELAY;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_replay_brings_an_old_copy_forward_to_the_same_ledger() {
    let lab = Lab::new();
    lab.run(0..20);
    let copy = lab.copy("copy");
    // 200 operations and more: uploads that end, that do not, and keys that are destroyed.
    lab.run(20..130);
    let (opened, keys) = copy.open();
    let done = replay(&lab.journal(), &opened.database, STORE, &keys).unwrap();
    assert!(done.records > done.records_before + 200, "{done:?}");
    drop((opened, keys));
    assert_same(&lab, &copy);
    // Again: nothing is left to do, and nothing changes.
    let (opened, keys) = copy.open();
    let again = replay(&lab.journal(), &opened.database, STORE, &keys).unwrap();
    assert_eq!((again.groups, again.records), (0, done.records));
    drop((opened, keys));
    // What was brought forward goes on: with its own journal behind it.
    std::fs::rename(lab.journal(), copy.journal()).unwrap();
    copy.run(130..140);
}

#[test]
fn a_ledger_older_than_its_mirror_does_not_start() {
    let lab = Lab::new();
    lab.run(0..3);
    let copy = lab.copy("copy");
    lab.run(3..6);
    std::fs::rename(lab.journal(), copy.journal()).unwrap();
    let error = copy.start().err().unwrap();
    assert!(matches!(error, StartError::Journal(JournalError::Ahead { .. })), "{error}");
    assert!(error.to_string().contains("culvert restore --replay"), "{error}");
}

#[test]
fn a_mirror_of_another_history_does_not_start() {
    let lab = Lab::new();
    lab.run(0..3);
    let copy = lab.copy("copy");
    lab.run(3..5);
    std::fs::rename(lab.journal(), copy.folder.join("theirs")).unwrap();
    copy.run(3..9);
    std::fs::remove_dir_all(copy.journal()).unwrap();
    std::fs::rename(copy.folder.join("theirs"), copy.journal()).unwrap();
    let error = copy.start().err().unwrap();
    assert!(matches!(error, StartError::Journal(JournalError::Fork { .. })), "{error}");
}

#[test]
fn a_mirror_that_lost_its_tail_gets_it_again() {
    let lab = Lab::new();
    lab.run(0..6);
    let before = lab.copy("before");
    lab.run(6..12);
    // The last frames were never synced.
    let newest = lab.newest_file();
    let length = newest.metadata().unwrap().len();
    std::fs::File::options().write(true).open(&newest).unwrap().set_len(length - 7).unwrap();
    lab.run(12..14);
    let (opened, keys) = before.open();
    replay(&lab.journal(), &opened.database, STORE, &keys).unwrap();
    drop((opened, keys));
    assert_same(&lab, &before);
}

#[test]
fn what_a_failed_sync_should_have_brought_to_the_disk_is_written_again() {
    let lab = Lab::new();
    lab.run(0..2);
    let (_, keys) = lab.open();
    let open = |on_disk| Journal::open(&lab.journal(), Envelope::new(STORE, Arc::clone(&keys)), on_disk);
    let whole = open(OnDisk::OnceSynced).unwrap();
    // The last frame can be read, and a sync of it failed.
    let mut journal = open(OnDisk::Before(whole.next_place() - 1)).unwrap();
    let (group, end) = (journal.end().unwrap().group, whole.end().unwrap());
    assert_eq!(group, end.group - 1, "it is not taken for durable");
    let length = || lab.newest_file().metadata().unwrap().len();
    let before = length();
    let redo = crate::ledger::redo::Redo::default();
    let frame =
        Frame { first: end.group, last: end.group, more: false, size: end.size, root: end.root, redo };
    journal.append(&[&frame.coded()]).unwrap();
    drop(journal);
    assert!(length() < before, "the new frame is shorter than the one whose place it takes");
    assert_eq!(open(OnDisk::OnceSynced).unwrap().end(), Some(end));
}

#[test]
fn room_that_was_made_ahead_is_no_damage_and_hides_none() {
    let lab = Lab::new();
    lab.run(0..6);
    let (before, again) = (lab.copy("before"), lab.copy("again"));
    lab.run(6..30);
    // What a process leaves that was killed, in the newest file and, after a crash at the wrong moment, in any.
    let mut files: Vec<_> =
        std::fs::read_dir(lab.journal()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3, "{files:?}");
    let resize = |path: &Path, length: u64| {
        std::fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
    };
    for path in &files {
        resize(path, path.metadata().unwrap().len() + 100_000);
    }
    lab.run(30..32);
    let (opened, keys) = before.open();
    replay(&lab.journal(), &opened.database, STORE, &keys).unwrap();
    drop((opened, keys));
    assert_same(&lab, &before);
    // Zeros where frames were.
    let longer = files[1].metadata().unwrap().len();
    resize(&files[1], 74);
    resize(&files[1], longer);
    let (opened, keys) = again.open();
    let error = replay(&lab.journal(), &opened.database, STORE, &keys).unwrap_err().to_string();
    assert!(error.contains("does not follow the file before it"), "{error}");
}

/// Power is lost while frames are on their way: of what was not synced, sectors are lost, or came before others.
#[test]
fn whatever_a_power_cut_leaves_of_the_last_frames_the_ledger_makes_them_again() {
    power_is_cut(8, 4);
}

#[test]
fn whatever_a_power_cut_leaves_of_the_last_frames_in_the_long_run() {
    if std::env::var_os("CULVERT_SLOW").is_some() {
        power_is_cut(60, 16);
    }
}

fn power_is_cut(rounds: u8, seeds: u64) {
    let lab = Lab::new();
    let (mut new_files, mut junk) = (0, 0);
    for round in 0..rounds {
        let backup = lab.copy(&format!("backup{round}"));
        // What nobody waits for is written at the end only.
        let (ledger, keys, thread) = lab.start_mirrored(PATIENCE, Duration::from_secs(600)).unwrap();
        // Something large, so that files of the journal begin here and there.
        for number in 0..=round % 3 {
            upload(&ledger, &keys, round * 3 + number);
        }
        assert_eq!(ledger.mirror_lag(), 0, "an upload waits for the mirror");
        let synced = journal_files(&lab.journal());
        // Nobody waits for these: they are committed in the ledger, and their frames are on their way.
        for number in 0..1 + round % 5 {
            let mut id = [number; 16];
            (id[0], id[1]) = (0xdd, round);
            let begin = begin_upload(&keys, "c", &format!("r{round}/{number}"), FileId::from_bytes(id));
            ledger.submit_blocking(begin).unwrap();
        }
        let cut = lab.copy(&format!("cut{round}"));
        assert!(journal_files(&lab.journal()) == synced && ledger.mirror_lag() > 0);
        drop((ledger, keys));
        thread.join().unwrap();
        let written = journal_files(&lab.journal());
        for seed in 0..seeds {
            let left = torn(&synced, &written, seed * 251 + u64::from(round) + 1);
            new_files += u64::from(left.len() > synced.len());
            // The host's own start: it lacks nothing, for the ledger remembers what the mirror has not.
            let host = cut.copy(&format!("host{round}-{seed}"));
            put_journal(&host.journal(), &left);
            host.run(200..201);
            // The host is lost with its disk, and the mirror is all there is: nothing that it had is missing.
            let rebuilt = backup.copy(&format!("rebuilt{round}-{seed}"));
            put_journal(&rebuilt.journal(), &left);
            let (opened, keys) = rebuilt.open();
            let done = replay(&rebuilt.journal(), &opened.database, STORE, &keys).unwrap();
            junk += u64::from(done.left_behind.is_some());
            let reader = Reader::new(opened.database, Arc::clone(&keys));
            assert_sound(&reader, &keys);
            let acknowledged = u32::from(round) * 3 + u32::from(round % 3);
            let id = FileId::from_bytes([0x80 ^ u8::try_from(acknowledged).unwrap(); 16]);
            assert!(reader.file(id).unwrap().is_some(), "round {round}, seed {seed}: an upload is missing");
            drop((reader, keys));
            // And with what the host's next start wrote again, it is the same ledger.
            let again = backup.copy(&format!("again{round}-{seed}"));
            let (opened, keys) = again.open();
            let done = replay(&host.journal(), &opened.database, STORE, &keys).unwrap();
            assert_eq!(done.left_behind, None, "round {round}, seed {seed}");
            drop((opened, keys));
            assert_same(&host, &again);
            for gone in [&host, &rebuilt, &again] {
                std::fs::remove_dir_all(&gone.folder).unwrap();
            }
        }
    }
    assert!(new_files > 0 && junk > 0, "{new_files} with a new file, {junk} with torn frames");
}

type JournalFiles = std::collections::BTreeMap<std::ffi::OsString, Vec<u8>>;

/// Without the zeros that were written ahead.
fn journal_files(directory: &Path) -> JournalFiles {
    let mut files = JournalFiles::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        files.insert(path.file_name().unwrap().to_owned(), bytes);
    }
    files
}

fn put_journal(directory: &Path, files: &JournalFiles) {
    std::fs::create_dir(directory).unwrap();
    for (name, bytes) in files {
        std::fs::write(directory.join(name), bytes).unwrap();
    }
}

/// Between two moments of a journal: of each sector that was written since, any may be there or not, a new file may have
/// its name or not, and what is there may end anywhere.
fn torn(synced: &JournalFiles, written: &JournalFiles, seed: u64) -> JournalFiles {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    // A file is begun when the one before it is whole: the cut comes in one of those that grew.
    let grown: Vec<_> = written.iter().filter(|(name, bytes)| synced.get(*name) != Some(*bytes)).collect();
    let (cut, bytes) = grown[usize::try_from(next(grown.len() as u64)).unwrap()];
    let mut left: JournalFiles = written.range(..cut.clone()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut torn = bytes.clone();
    let synced_bytes = match synced.get(cut) {
        Some(before) => before.len(),
        None => match next(4) {
            // Its name never came.
            0 => return left,
            // Or its header did not.
            1 => {
                torn.truncate(usize::try_from(next(75)).unwrap());
                left.insert(cut.clone(), torn);
                return left;
            }
            _ => 74,
        },
    };
    for start in (synced_bytes..torn.len()).step_by(512) {
        if next(3) == 0 {
            let end = (start + 512).min(torn.len());
            torn[start..end].fill(0);
        }
    }
    if next(3) == 0 {
        let length = torn.len() - synced_bytes;
        torn.truncate(synced_bytes + usize::try_from(next(length as u64 + 1)).unwrap());
    }
    left.insert(cut.clone(), torn);
    left
}

#[test]
fn a_mirror_is_made_anew_from_what_the_ledger_remembers() {
    let lab = Lab::new();
    let first = lab.copy("first");
    lab.run_unmirrored(0..40);
    lab.run(40..42);
    let (opened, keys) = first.open();
    let done = replay(&lab.journal(), &opened.database, STORE, &keys).unwrap();
    assert!(done.records > 80, "{done:?}");
    drop((opened, keys));
    assert_same(&lab, &first);
}

#[test]
fn each_flipped_byte_of_the_journal_is_noticed() {
    let lab = Lab::new();
    let first = lab.copy("first");
    lab.run(0..2);
    let file = lab.newest_file();
    let good = std::fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(good.len() / 97 + 1) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        let copy = first.copy(&format!("flip{at}"));
        let (opened, keys) = copy.open();
        let done = replay(&lab.journal(), &opened.database, STORE, &keys);
        // In the newest file what does not open ends the journal; nothing wrong is ever done.
        let records = Reader::new(Arc::clone(&opened.database), Arc::clone(&keys));
        assert_sound(&records, &keys);
        if let Ok(done) = done {
            assert_eq!(done.records, records.size().unwrap());
            assert!(done.records < lab.records(), "byte {at}");
        }
    }
}

#[test]
fn a_replay_over_a_shred_stops_there_and_names_what_is_needed() {
    let lab = Lab::new();
    lab.run(0..3);
    let copy = lab.copy("copy");
    lab.run(3..5);
    let concrete = keys::Keys::open(&lab.folder, lab.root_key()).unwrap();
    let gone = FileId::from_bytes([0x80; 16]);
    concrete.commit(&[keys::KeyChange::Destroy { file: gone }]).unwrap();
    concrete.shred().unwrap().unwrap();
    drop(concrete);
    lab.run(5..7);
    let (opened, keys) = copy.open();
    let before = Reader::new(Arc::clone(&opened.database), Arc::clone(&keys)).size().unwrap();
    let error = replay(&lab.journal(), &opened.database, STORE, &keys).unwrap_err();
    assert!(matches!(error, JournalError::Shredded { .. }), "{error}");
    assert!(error.to_string().contains("A backup that was made after it is needed"), "{error}");
    let reader = Reader::new(opened.database, Arc::clone(&keys));
    assert!(reader.size().unwrap() > before, "what came before the shred is done");
    assert_sound(&reader, &keys);
}

#[test]
fn a_journal_of_another_store_is_refused() {
    let lab = Lab::new();
    lab.run(0..2);
    let path = lab.newest_file();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = lab.start().err().unwrap().to_string();
    assert!(error.contains("the journal of another store"), "{error}");
}

#[test]
fn what_a_backup_covers_can_go() {
    let lab = Lab::new();
    let first = lab.copy("first");
    lab.run(0..30);
    let (opened, keys) = lab.open();
    let reader = Reader::new(opened.database, Arc::clone(&keys));
    let covered = reader.snapshot().unwrap().group().unwrap() / 2;
    drop(reader);
    let files = || std::fs::read_dir(lab.journal()).unwrap().count();
    let before = files();
    assert!(before > 3, "{before} files");
    assert_eq!(journal::prune(&lab.journal(), STORE, Arc::clone(&keys), 0).unwrap(), 0, "nothing is covered");
    let gone = journal::prune(&lab.journal(), STORE, Arc::clone(&keys), covered).unwrap();
    assert!(gone > 0 && files() == before - gone, "{gone} of {before}");
    drop(keys);
    // The store goes on, a copy from before what is gone cannot be brought forward, and says so.
    lab.run(30..32);
    let (opened, keys) = first.open();
    let error = replay(&lab.journal(), &opened.database, STORE, &keys).unwrap_err();
    assert!(matches!(error, JournalError::TooNew { .. }), "{error}");
    let (_, keys) = lab.open();
    journal::prune(&lab.journal(), STORE, keys, u64::MAX).unwrap();
    assert_eq!(files(), 1, "the newest stays");
}

#[test]
fn what_must_be_mirrored_is_refused_while_the_mirror_is_gone_and_the_rest_is_not() {
    let lab = Lab::new();
    let (ledger, keys, thread) = lab.start_patient(Duration::from_secs(2)).unwrap();
    let stored = upload(&ledger, &keys, 1);
    // The directory goes, as a mount does that is taken away.
    std::fs::remove_dir_all(lab.journal()).unwrap();
    std::fs::write(lab.journal(), b"not a directory").unwrap();
    let begin = begin_upload(&keys, "c", "late", FileId::from_bytes([77; 16]));
    let upload::Outcome::Begun { intent, .. } = ledger.submit_blocking(begin).unwrap() else { panic!() };
    assert_eq!(
        ledger.submit_blocking(finish_upload(intent, FileId::from_bytes([77; 16]), 1)),
        Err(LedgerUnavailable)
    );
    assert!(!ledger.mirror_keeps_up());
    // At once now, for a sender should not bring what cannot be kept.
    let begin = begin_upload(&keys, "c", "later", FileId::from_bytes([78; 16]));
    assert_eq!(ledger.submit_blocking(begin), Err(LedgerUnavailable));
    // Denials and downloads go on.
    let note = Note::new(Action::AccessDenied, Ending::Denied, Origin::default());
    ledger.submit_blocking(note).unwrap();
    let read =
        download::Command::Begin { origin: Origin::default(), file_id: stored, detail: None, scanner: false };
    assert!(matches!(ledger.submit_blocking(read).unwrap(), download::Outcome::Opened { .. }));
    assert!(ledger.mirror_lag() > 0 && ledger.is_usable());
    // It comes back, and with it everything that it lacks.
    std::fs::remove_file(lab.journal()).unwrap();
    let deadline = daemon::Clock.now() + Duration::from_secs(60);
    while !ledger.mirror_keeps_up() || ledger.mirror_lag() > 0 {
        assert!(daemon::Clock.now() < deadline, "the mirror does not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
    upload(&ledger, &keys, 2);
    drop(ledger);
    thread.join().unwrap();
}

/// A ledger, its keys and its mirror in one folder.
pub(super) struct Lab {
    pub(super) folder: PathBuf,
    root: Arc<tempfile::TempDir>,
    key: zeroize::Zeroizing<String>,
}

impl Lab {
    pub(super) fn new() -> Lab {
        let root = Arc::new(tempfile::tempdir().unwrap());
        let folder = root.path().join("lab");
        std::fs::create_dir(&folder).unwrap();
        let key = keys::RootKey::generate().unwrap();
        let lab = Lab { folder, root, key: key.to_text() };
        let keys: Keys = Arc::new(keys::Keys::create(&lab.folder, STORE, lab.root_key()).unwrap());
        create(&lab.folder.join("ledger.redb"), STORE, &keys, first_record()).unwrap();
        lab
    }

    fn root_key(&self) -> keys::RootKey {
        let path = self.root.path().join("root.key");
        if !path.exists() {
            use std::os::unix::fs::OpenOptionsExt as _;
            let mut file =
                std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
            std::io::Write::write_all(&mut file, self.key.as_bytes()).unwrap();
        }
        keys::RootKey::read(path.to_str().unwrap()).unwrap()
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.folder.join(".journal")
    }

    fn newest_file(&self) -> PathBuf {
        let mut files: Vec<_> =
            std::fs::read_dir(self.journal()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.pop().unwrap()
    }

    pub(super) fn open(&self) -> (Opened, Keys) {
        let (opened, keys) = self.open_with_keys();
        (opened, Arc::new(keys))
    }

    pub(super) fn open_with_keys(&self) -> (Opened, keys::Keys) {
        let opened = open(&self.folder.join("ledger.redb")).unwrap();
        (opened, keys::Keys::open(&self.folder, self.root_key()).unwrap())
    }

    pub(super) fn copy(&self, name: &str) -> Lab {
        let folder = self.root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        Lab { folder, root: Arc::clone(&self.root), key: self.key.clone() }
    }

    pub(super) fn start(&self) -> Result<(Ledger, Keys, std::thread::JoinHandle<()>), StartError> {
        self.start_patient(PATIENCE)
    }

    fn start_patient(
        &self,
        patience: Duration,
    ) -> Result<(Ledger, Keys, std::thread::JoinHandle<()>), StartError> {
        self.start_mirrored(patience, JOURNAL_DELAY)
    }

    fn start_mirrored(
        &self,
        patience: Duration,
        delay: Duration,
    ) -> Result<(Ledger, Keys, std::thread::JoinHandle<()>), StartError> {
        let mirror = MirrorPlace { directory: self.journal(), patience, delay };
        self.start_with(Some(mirror))
    }

    fn start_with(
        &self,
        mirror: Option<MirrorPlace>,
    ) -> Result<(Ledger, Keys, std::thread::JoinHandle<()>), StartError> {
        let (opened, keys) = self.open();
        let time = TestTime::default();
        let (ledger, thread) =
            Ledger::start(opened, Arc::clone(&keys), mirror, Host::default(), time, Silent)?;
        Ok((ledger, keys, thread))
    }

    /// Some work, then an end in order.
    pub(super) fn run(&self, numbers: std::ops::Range<u8>) {
        let (ledger, keys, thread) = self.start().unwrap();
        work(&ledger, &keys, numbers);
        assert_eq!(ledger.mirror_lag(), 0, "the last command waits for the mirror");
        drop(ledger);
        thread.join().unwrap();
    }

    /// As if the mirror had hung all the time: the process ends with nothing mirrored.
    fn run_unmirrored(&self, numbers: std::ops::Range<u8>) {
        let (ledger, keys, thread) = self.start().unwrap();
        std::fs::remove_dir_all(self.journal()).unwrap();
        std::fs::write(self.journal(), b"not a directory").unwrap();
        for number in numbers {
            let id = FileId::from_bytes([number; 16]);
            let begin = begin_upload(&keys, "c", &format!("p{number}"), id);
            ledger.submit_blocking(begin).unwrap();
            let note = Note {
                file_id: Some(id),
                ..Note::new(Action::AccessDenied, Ending::Denied, Origin::default())
            };
            ledger.submit_blocking(note).unwrap();
        }
        drop(ledger);
        thread.join().unwrap();
        std::fs::remove_file(self.journal()).unwrap();
    }

    fn records(&self) -> u64 {
        let (opened, keys) = self.open();
        Reader::new(opened.database, keys).size().unwrap()
    }
}

pub(super) fn work(ledger: &Ledger, keys: &Keys, numbers: std::ops::Range<u8>) {
    for number in numbers {
        if number % 5 == 4 {
            let mut id = [number; 16];
            id[0] = 0xee;
            let begin = begin_upload(keys, "c", &format!("p{number}"), FileId::from_bytes(id));
            assert!(matches!(ledger.submit_blocking(begin).unwrap(), upload::Outcome::Begun { .. }));
        }
        upload(ledger, keys, number);
    }
}

pub(super) fn upload(ledger: &Ledger, keys: &Keys, number: u8) -> FileId {
    let id = FileId::from_bytes([0x80 ^ number; 16]);
    let begin = begin_upload(keys, "c", &format!("q{number}"), id);
    let upload::Outcome::Begun { intent, .. } = ledger.submit_blocking(begin).unwrap() else { panic!() };
    let finished = ledger.submit_blocking(finish_upload(intent, id, number)).unwrap();
    assert!(matches!(finished, upload::Outcome::Stored(_)));
    id
}

/// Every row of both is the same, and every key that the one has opens what the other holds.
pub(super) fn assert_same(one: &Lab, other: &Lab) {
    let (one, keys) = one.open();
    let (other, other_keys) = other.open();
    let rows = |opened: &Opened| {
        let read = opened.database.begin_read().unwrap();
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for entry in read.open_table(RECORDS).unwrap().iter().unwrap() {
            let (key, row) = entry.unwrap();
            rows.push((key.value().to_be_bytes().to_vec(), row.value().to_vec()));
        }
        for entry in read.open_table(TILES).unwrap().iter().unwrap() {
            let (key, row) = entry.unwrap();
            rows.push((key.value().to_vec(), row.value().to_vec()));
        }
        for entry in read.open_table(STATE).unwrap().iter().unwrap() {
            let (key, row) = entry.unwrap();
            rows.push((key.value().to_vec(), row.value().to_vec()));
        }
        for entry in read.open_table(META).unwrap().iter().unwrap() {
            let (key, row) = entry.unwrap();
            rows.push((key.value().as_bytes().to_vec(), row.value().to_vec()));
        }
        rows
    };
    assert!(rows(&one) == rows(&other), "the ledgers differ");
    assert_sound(&Reader::new(one.database, Arc::clone(&keys)), &keys);
    assert_sound(&Reader::new(other.database, Arc::clone(&other_keys)), &other_keys);
}
