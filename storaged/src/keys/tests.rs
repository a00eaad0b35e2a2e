use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use redb::ReadableDatabase as _;
use vault::wrap;

use super::tables::{FILE_KEYS, FileKeyRow, KEKS};
use super::*;
use crate::ledger::StoreId;

const STORE: StoreId = StoreId(FileId::from_bytes([7; 16]));

fn cohort(name: &str) -> Cohort {
    Cohort::parse(name).unwrap()
}

fn file(number: u8) -> FileId {
    FileId::from_bytes([number; 16])
}

fn root() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.key");
    write_root(&path, &RootKey::generate().unwrap());
    (folder, path)
}

fn write_root(path: &Path, key: &RootKey) {
    std::fs::write(path, key.to_text().as_bytes()).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o400)).unwrap();
}

/// Keys on a disk, with the path of their root key.
fn on_disk() -> (tempfile::TempDir, std::path::PathBuf, Keys) {
    let (folder, path) = root();
    let keys = Keys::create(folder.path(), STORE, read(&path)).unwrap();
    (folder, path, keys)
}

fn read(path: &Path) -> RootKey {
    RootKey::read(path.to_str().unwrap()).unwrap()
}

fn add(keys: &Keys, cohort: &Cohort, id: FileId, slot: u32) -> Key256 {
    let (key, change) = keys.new_file_key(cohort, id, slot).unwrap();
    keys.commit(&[change]).unwrap();
    key
}

fn has(keys: &Keys, id: FileId, slot: u32, key: &Key256) -> bool {
    keys.file_key(id, slot).unwrap().is_some_and(|found| found.as_bytes() == key.as_bytes())
}

fn rewrap_all(keys: &Keys) -> u64 {
    let mut moved = 0;
    loop {
        let step = keys.step(3).unwrap();
        moved += step.moved;
        if step.pending == 0 {
            return moved;
        }
    }
}

#[test]
fn a_file_key_is_there_when_it_is_committed_and_not_before() {
    let keys = Keys::in_memory(STORE).unwrap();
    let (key, change) = keys.new_file_key(&cohort("c5"), file(1), 0).unwrap();
    assert!(keys.file_key(file(1), 0).unwrap().is_none());
    keys.commit(&[change]).unwrap();
    assert!(has(&keys, file(1), 0, &key));
    assert!(keys.file_key(file(1), 1).unwrap().is_none() && keys.file_key(file(2), 0).unwrap().is_none());
}

#[test]
fn all_keys_come_back_after_a_restart() {
    let (folder, path, keys) = on_disk();
    let made = add(&keys, &cohort("c5"), file(1), FIRST_TAIL_SLOT);
    let store_keys = StorePurpose::ALL.map(|purpose| *keys.store_key(purpose).as_bytes());
    drop(keys);
    let keys = Keys::open(folder.path(), read(&path)).unwrap();
    assert!(has(&keys, file(1), FIRST_TAIL_SLOT, &made));
    assert_eq!(StorePurpose::ALL.map(|purpose| *keys.store_key(purpose).as_bytes()), store_keys);
    assert_eq!((keys.store(), keys.epoch()), (STORE, 1));
}

#[test]
fn store_keys_differ_by_purpose() {
    let keys = Keys::in_memory(STORE).unwrap();
    let mut bytes = StorePurpose::ALL.map(|purpose| *keys.store_key(purpose).as_bytes()).to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    assert_eq!(bytes.len(), 5);
    StorePurpose::ALL.iter().enumerate().for_each(|(at, purpose)| assert_eq!(purpose.index(), at));
}

#[test]
fn a_destroyed_file_has_no_key_and_others_keep_theirs() {
    let keys = Keys::in_memory(STORE).unwrap();
    for slot in [0, 1, FIRST_TAIL_SLOT] {
        add(&keys, &cohort("c5"), file(1), slot);
    }
    let other = add(&keys, &cohort("c5"), file(2), 0);
    keys.commit(&[KeyChange::DestroySlot { file: file(1), slot: FIRST_TAIL_SLOT }]).unwrap();
    assert!(keys.file_key(file(1), 1).unwrap().is_some());
    assert_eq!(keys.cohorts().unwrap()[0].destroyed, 0);
    keys.commit(&[KeyChange::Destroy { file: file(1) }]).unwrap();
    assert!([0, 1, FIRST_TAIL_SLOT].iter().all(|slot| keys.file_key(file(1), *slot).unwrap().is_none()));
    assert!(has(&keys, file(2), 0, &other));
    let counted = keys.cohorts().unwrap();
    assert_eq!((counted[0].keys, counted[0].destroyed), (1, 2));
}

#[test]
fn a_change_goes_through_the_journal_as_json_without_the_secret_key() {
    let keys = Keys::in_memory(STORE).unwrap();
    let (key, change) = keys.new_file_key(&cohort("c5"), file(1), 0).unwrap();
    let text = serde_json::to_string(&change).unwrap();
    assert!(!format!("{change:?}").contains(&format!("{:?}", key.as_bytes())));
    let repeated: KeyChange = serde_json::from_str(&text).unwrap();
    assert_eq!(repeated, change);
    for _again in 0..2 {
        keys.commit(std::slice::from_ref(&repeated)).unwrap();
        assert!(has(&keys, file(1), 0, &key));
        assert_eq!(keys.cohorts().unwrap()[0].keys, 1);
    }
}

/// A new disk: yesterday's copy of the keys, and the journal of what came since.
#[test]
fn the_journal_brings_an_older_copy_of_the_keys_up_to_date() {
    let (folder, path, keys) = on_disk();
    let before = add(&keys, &cohort("c5"), file(1), 0);
    let backup = tempfile::tempdir().unwrap();
    for from in keys.files().unwrap() {
        std::fs::copy(&from, backup.path().join(from.file_name().unwrap())).unwrap();
    }
    let mut journal = Vec::new();
    let mut record = |keys: &Keys, cohort: &Cohort, id| {
        let (key, change) = keys.new_file_key(cohort, id, 0).unwrap();
        keys.commit(std::slice::from_ref(&change)).unwrap();
        journal.push(serde_json::to_string(&change).unwrap());
        key
    };
    let known = record(&keys, &cohort("c5"), file(2));
    let new_cohort = record(&keys, &cohort("c9"), file(3));
    keys.rotate(&cohort("c5")).unwrap();
    let rotated = record(&keys, &cohort("c5"), file(4));
    rewrap_all(&keys);
    drop((keys, folder.path()));

    let keys = Keys::open(backup.path(), read(&path)).unwrap();
    let changes: Vec<KeyChange> = journal.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    keys.commit(&changes).unwrap();
    for (number, key) in [(1, before), (2, known), (3, new_cohort), (4, rotated)] {
        assert!(has(&keys, file(number), 0, &key), "{number}");
    }
    add(&keys, &cohort("c5"), file(5), 0);
    assert_eq!(keys.cohorts().unwrap()[0].version, 2);
}

#[test]
fn rotation_moves_all_file_keys_and_the_old_version_goes() {
    let (folder, path, keys) = on_disk();
    let made: Vec<Key256> = (0..10).map(|n| add(&keys, &cohort("c5"), file(n), 0)).collect();
    let other = add(&keys, &cohort("c9"), file(20), 0);
    let rotated = keys.rotate(&cohort("c5")).unwrap();
    assert_eq!((rotated.version, rotated.keys, rotated.pending), (2, 10, 10));
    // A crash in the middle: the rest is still known.
    assert_eq!(keys.step(4).unwrap().moved, 4);
    drop(keys);
    let keys = Keys::open(folder.path(), read(&path)).unwrap();
    assert_eq!(keys.cohorts().unwrap()[0].pending, 6);
    assert_eq!(rewrap_all(&keys), 6);
    assert!(
        (0..10).all(|n| has(&keys, file(n), 0, &made[usize::from(n)])) && has(&keys, file(20), 0, &other)
    );
    let cohorts = keys.cohorts().unwrap();
    assert_eq!(cohorts.iter().map(|keys| (keys.version, keys.pending)).collect::<Vec<_>>(), [(2, 0), (1, 0)]);
    let state = keys.read();
    let keks = state.database.begin_read().unwrap().open_table(KEKS).unwrap();
    assert!(keks.get(("c5", 1)).unwrap().is_none());
}

#[test]
fn a_key_that_was_drawn_before_a_rotation_or_shred_commits_after_it() {
    let keys = Keys::in_memory(STORE).unwrap();
    add(&keys, &cohort("c5"), file(1), 0);
    let (first, late_after_rotation) = keys.new_file_key(&cohort("c5"), file(2), 0).unwrap();
    keys.rotate(&cohort("c5")).unwrap();
    rewrap_all(&keys);
    keys.commit(&[late_after_rotation]).unwrap();
    let (second, late_after_shred) = keys.new_file_key(&cohort("c5"), file(3), 0).unwrap();
    let (third, new_cohort) = keys.new_file_key(&cohort("c9"), file(4), 0).unwrap();
    keys.commit(&[KeyChange::Destroy { file: file(1) }]).unwrap();
    keys.shred().unwrap().unwrap();
    keys.commit(&[late_after_shred, new_cohort]).unwrap();
    for (number, key) in [(2, first), (3, second), (4, third)] {
        assert!(has(&keys, file(number), 0, &key), "{number}");
    }
    assert!(keys.cohorts().unwrap().iter().all(|cohort| cohort.pending == 0));
}

#[test]
fn rotating_a_cohort_that_has_no_key_is_refused() {
    let keys = Keys::in_memory(STORE).unwrap();
    assert!(matches!(keys.rotate(&cohort("c5")), Err(KeysError::NoCohort(_))));
}

#[test]
fn a_new_root_key_opens_everything_and_the_old_one_nothing() {
    let (folder, path, keys) = on_disk();
    let made = add(&keys, &cohort("c5"), file(1), 0);
    let log = *keys.store_key(StorePurpose::Log).as_bytes();
    let new_path = folder.path().join("new.key");
    write_root(&new_path, &RootKey::generate().unwrap());
    keys.rotate_root(&read(&new_path).key()).unwrap();
    let after = add(&keys, &cohort("c5"), file(2), 0);
    drop(keys);
    assert!(matches!(Keys::open(folder.path(), read(&path)), Err(OpenKeysError::RootKey(_))));
    let keys = Keys::open(folder.path(), read(&new_path)).unwrap();
    assert!(has(&keys, file(1), 0, &made) && has(&keys, file(2), 0, &after));
    assert_eq!(keys.store_key(StorePurpose::Log).as_bytes(), &log);
}

#[test]
fn a_shred_is_not_needed_before_a_file_was_destroyed() {
    let keys = Keys::in_memory(STORE).unwrap();
    add(&keys, &cohort("c5"), file(1), 0);
    assert_eq!(keys.shred().unwrap(), None);
}

#[test]
fn a_shredded_file_key_cannot_be_had_from_an_older_copy_of_the_keys() {
    let (folder, path, keys) = on_disk();
    let gone = add(&keys, &cohort("c5"), file(1), 0);
    let lives = add(&keys, &cohort("c5"), file(2), 0);
    let elsewhere = add(&keys, &cohort("c9"), file(3), 0);
    // What somebody copied before: the whole file, not the epoch's.
    let stolen = tempfile::tempdir().unwrap();
    let [keys_file, old_epoch_file] = keys.files().unwrap();
    std::fs::copy(&keys_file, stolen.path().join(store::KEYS_FILE)).unwrap();
    keys.commit(&[KeyChange::Destroy { file: file(1) }]).unwrap();
    let shred = keys.shred().unwrap().unwrap();
    assert_eq!((shred.epoch, shred.destroyed, shred.survivors), (2, 1, 1));
    assert_eq!(shred.cohorts, [cohort("c5")]);
    assert!(keys.file_key(file(1), 0).unwrap().is_none());
    assert!(has(&keys, file(2), 0, &lives) && has(&keys, file(3), 0, &elsewhere));
    assert_eq!(keys.shred().unwrap(), None);

    // All that the store still has: the root key, the new epoch's file, the new tables.
    assert!(!old_epoch_file.exists());
    let [_, epoch_file] = keys.files().unwrap();
    std::fs::copy(&epoch_file, stolen.path().join("keys.epoch-2")).unwrap();
    assert!(Keys::open(stolen.path(), read(&path)).is_err());
    std::fs::copy(&epoch_file, stolen.path().join("keys.epoch-1")).unwrap();
    assert!(Keys::open(stolen.path(), read(&path)).is_err());
    // By hand: no key of today opens a row of then.
    let old = redb::Database::open(stolen.path().join(store::KEYS_FILE)).unwrap();
    let (old_keks, old_row) = {
        let read = old.begin_read().unwrap();
        let row = read.open_table(FILE_KEYS).unwrap().get((file(1).as_bytes(), 0)).unwrap().unwrap();
        let row = FileKeyRow::parse(row.value()).unwrap();
        (tables::all_keks(&read.open_table(KEKS).unwrap()).unwrap(), row)
    };
    let state = keys.read();
    let new_keks = {
        let read = state.database.begin_read().unwrap();
        tables::all_keks(&read.open_table(KEKS).unwrap()).unwrap()
    };
    let mut at_hand = vec![state.secrets.root(), state.secrets.epoch()];
    at_hand.extend(StorePurpose::ALL.map(|purpose| keys.store_key(purpose).clone()));
    for (cohort, version, kek) in &new_keks {
        at_hand.push(state.unwrap_kek(STORE, cohort, *version, &kek.wrapped).unwrap());
    }
    for key in &at_hand {
        for (cohort, version, kek) in &old_keks {
            assert!(wrap::unwrap(key, &tables::kek_aad(STORE, cohort, *version), &kek.wrapped).is_err());
        }
        assert!(store::unwrap_file_key(key, file(1), 0, &old_row).is_err());
        assert_ne!(key.as_bytes(), gone.as_bytes());
    }
    drop(folder);
}

#[test]
fn what_a_shred_replaces_is_overwritten() {
    let (folder, _path, keys) = on_disk();
    add(&keys, &cohort("c5"), file(1), 0);
    let [keys_file, epoch_file] = keys.files().unwrap();
    // A second name shows what became of the bytes.
    let witnesses = ["one", "two"].map(|name| folder.path().join(name));
    std::fs::hard_link(&keys_file, &witnesses[0]).unwrap();
    std::fs::hard_link(&epoch_file, &witnesses[1]).unwrap();
    keys.commit(&[KeyChange::Destroy { file: file(1) }]).unwrap();
    keys.shred().unwrap().unwrap();
    for witness in witnesses {
        assert!(std::fs::read(witness).unwrap().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_shred_that_stopped_before_the_new_file_took_its_place_is_undone_by_a_start() {
    let (folder, path, keys) = on_disk();
    let made = add(&keys, &cohort("c5"), file(1), 0);
    drop(keys);
    let [new, epoch_2] = [store::NEW_KEYS_FILE, "keys.epoch-2"].map(|name| folder.path().join(name));
    std::fs::write(&new, b"half").unwrap();
    std::fs::write(&epoch_2, b"half").unwrap();
    let keys = Keys::open(folder.path(), read(&path)).unwrap();
    assert!(has(&keys, file(1), 0, &made) && !new.exists() && !epoch_2.exists());
}

#[test]
fn a_shred_that_stopped_before_the_old_epoch_was_erased_is_finished_by_a_start() {
    let (folder, path, keys) = on_disk();
    add(&keys, &cohort("c5"), file(1), 0);
    let old_epoch = epoch::path(folder.path(), 1);
    let copy = std::fs::read(&old_epoch).unwrap();
    keys.commit(&[KeyChange::Destroy { file: file(1) }]).unwrap();
    keys.shred().unwrap().unwrap();
    drop(keys);
    std::fs::write(&old_epoch, copy).unwrap();
    Keys::open(folder.path(), read(&path)).unwrap();
    assert!(!old_epoch.exists());
}

#[test]
fn another_stores_root_key_is_refused() {
    let (folder, _path, keys) = on_disk();
    drop(keys);
    let refused = Keys::open(folder.path(), RootKey::generate().unwrap());
    assert!(matches!(refused, Err(OpenKeysError::RootKey(_))));
}

#[test]
fn keys_that_others_can_read_are_refused() {
    let (folder, path, keys) = on_disk();
    let file = folder.path().join(store::KEYS_FILE);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    drop(keys);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    let refused = Keys::open(folder.path(), read(&path));
    assert!(matches!(refused, Err(OpenKeysError::Mode { mode: 0o640, .. })));
}

#[test]
fn keys_are_never_overwritten_and_missing_ones_are_named() {
    let (folder, path, keys) = on_disk();
    assert!(matches!(Keys::create(folder.path(), STORE, read(&path)), Err(OpenKeysError::Exists(_))));
    drop(keys);
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Keys::open(empty.path(), read(&path)), Err(OpenKeysError::Missing(_))));
}

#[test]
fn keys_of_another_format_version_are_refused() {
    let (folder, path, keys) = on_disk();
    drop(keys);
    let database = redb::Database::open(folder.path().join(store::KEYS_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(tables::META)
        .unwrap()
        .insert(tables::META_FORMAT_VERSION, 9_u32.to_be_bytes().as_slice())
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = Keys::open(folder.path(), read(&path));
    assert!(matches!(refused, Err(OpenKeysError::Version { version: 9, .. })));
}

#[test]
fn a_root_key_file_that_the_world_can_read_is_refused() {
    let (_folder, path) = root();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    let refused = RootKey::read(path.to_str().unwrap()).unwrap_err();
    assert!(matches!(refused, RootKeyError::Mode { mode: 0o444, .. }), "{refused}");
}

#[test]
fn a_root_key_file_with_something_else_in_it_is_refused_without_showing_it() {
    let (_folder, path) = root();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    for content in ["", "c2hvcnQ=", "not base64 at all, but it is of a similar size", &"A".repeat(200)] {
        std::fs::write(&path, content).unwrap();
        let refused = RootKey::read(path.to_str().unwrap()).unwrap_err();
        assert!(matches!(refused, RootKeyError::Content(_)));
        assert!(content.is_empty() || !refused.to_string().contains(content));
    }
}

#[test]
fn keys_and_root_key_print_no_secret() {
    let (folder, path, keys) = on_disk();
    let shown = format!("{keys:?} {:?}", read(&path));
    assert!(shown.starts_with("Keys { home: ") && shown.ends_with(")") && shown.len() < 400, "{shown}");
    assert!(!shown.contains(read(&path).to_text().trim()));
    drop(folder);
}

/// What a model of keys does.
#[derive(Debug, Clone)]
enum Deed {
    Add(u8, u32, bool),
    Destroy(u8),
    DestroySlot(u8, u32),
    Rotate(bool),
    Step,
    Shred,
    Reopen,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        6 => (0..6_u8, 0..3_u32, any::<bool>()).prop_map(|(id, slot, c)| Deed::Add(id, slot, c)),
        2 => (0..6_u8).prop_map(Deed::Destroy),
        1 => (0..6_u8, 0..3_u32).prop_map(|(id, slot)| Deed::DestroySlot(id, slot)),
        1 => any::<bool>().prop_map(Deed::Rotate),
        2 => Just(Deed::Step),
        1 => Just(Deed::Shred),
        1 => Just(Deed::Reopen),
    ];
    prop::collection::vec(deed, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_rotated_and_shredded_the_keys_that_live_are_the_ones_that_were_drawn(deeds in deeds()) {
        let (folder, path, keys) = on_disk();
        let mut keys = Some(keys);
        let mut model = std::collections::BTreeMap::new();
        for deed in deeds {
            let now = keys.take().expect("put back below");
            let now = match deed {
                Deed::Add(id, slot, second) => {
                    let name = cohort(if second { "c9" } else { "c5" });
                    // A file stays in its cohort.
                    let name = if id % 2 == 0 { cohort("c5") } else { name };
                    model.insert((id, slot), *add(&now, &name, file(id), slot).as_bytes());
                    now
                }
                Deed::Destroy(id) => {
                    now.commit(&[KeyChange::Destroy { file: file(id) }]).unwrap();
                    model.retain(|(other, _), _| *other != id);
                    now
                }
                Deed::DestroySlot(id, slot) => {
                    now.commit(&[KeyChange::DestroySlot { file: file(id), slot }]).unwrap();
                    model.remove(&(id, slot));
                    now
                }
                Deed::Rotate(second) => {
                    let _no_cohort_yet = now.rotate(&cohort(if second { "c9" } else { "c5" }));
                    now
                }
                Deed::Step => {
                    now.step(2).unwrap();
                    now
                }
                Deed::Shred => {
                    now.shred().unwrap();
                    now
                }
                Deed::Reopen => {
                    drop(now);
                    Keys::open(folder.path(), read(&path)).unwrap()
                }
            };
            for id in 0..6 {
                for slot in 0..3 {
                    let found = now.file_key(file(id), slot).unwrap().map(|key| *key.as_bytes());
                    prop_assert_eq!(found, model.get(&(id, slot)).copied());
                }
            }
            let counted: u64 = now.cohorts().unwrap().iter().map(|cohort| cohort.keys).sum();
            prop_assert_eq!(counted, model.len() as u64);
            keys = Some(now);
        }
    }
}
