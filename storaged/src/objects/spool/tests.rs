//! A spool on a disk that loses, tears and reorders what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use super::*;

#[test]
fn whatever_a_crash_takes_what_was_told_is_there_and_what_was_removed_is_not() {
    for seed in 1..=3 {
        for fail_at in 0.. {
            let disk = Sim::new(seed);
            let mut told = Told::default();
            disk.fails_at(fail_at);
            let ended = store(&disk, &mut told, 0, 40);
            disk.crash();
            // The start may be cut off too.
            disk.fails_at((fail_at + usize::from(seed)) % 13);
            let _ = Spool::open(disk.clone());
            disk.crash();
            disk.fails_at(usize::MAX);
            Spool::open(disk.clone()).unwrap();
            disk.check(&told, &format!("seed {seed}, step {fail_at}"));
            // Nothing of rounds before comes back in the next.
            store(&disk, &mut told, 100, 12).unwrap();
            disk.crash();
            Spool::open(disk.clone()).unwrap();
            disk.check(&told, &format!("seed {seed}, step {fail_at}, the second life"));
            if ended.is_ok() {
                assert!(fail_at > 150, "only {fail_at} steps were tried");
                break;
            }
        }
    }
}

#[test]
fn own_files_that_could_not_be_written_are_written_again() {
    for failing in 1..=2 {
        let disk = Sim::new(3);
        let mut told = Told::default();
        disk.lock().failing_syncs = failing;
        store(&disk, &mut told, 0, 40).unwrap();
        disk.crash();
        Spool::open(disk.clone()).unwrap();
        disk.check(&told, "after the crash");
    }
}

#[test]
fn what_cannot_be_brought_to_its_place_stays_and_nothing_more_is_taken() {
    let disk = Sim::new(3);
    let spool = Arc::new(Spool::open(disk.clone()).unwrap());
    let mut told = Told::default();
    disk.lock().failing_syncs = 2;
    let mut taken = 0;
    for number in 0..40 {
        let Some(place) = spool.place(id(number), content(number).len()) else { break };
        put(&disk, place, number).unwrap();
        spool.sync().unwrap();
        told.stored.insert(number);
        taken += 1;
        if let Some(drain) = spool.due() {
            spool.drain(drain);
        }
    }
    assert!((2..20).contains(&taken), "{taken}");
    assert!(spool.is_broken());
    disk.crash();
    Spool::open(disk.clone()).unwrap();
    disk.check(&told, "after the crash");
}

#[test]
fn an_end_in_order_leaves_nothing_for_the_next_start() {
    for count in [1, 12, 40] {
        let disk = Sim::new(2);
        let spool = Arc::new(Spool::open(disk.clone()).unwrap());
        let mut told = Told::default();
        for number in 0..count {
            let Some(place) = spool.place(id(number), content(number).len()) else { continue };
            put(&disk, place, number).unwrap();
            spool.sync().unwrap();
            told.stored.insert(number);
        }
        spool.end();
        assert!(spool.place(id(98), 10).is_none(), "nothing more is taken");
        disk.crash();
        disk.check(&told, "without a start");
        disk.lock().own.clear();
        Spool::open(disk.clone()).unwrap();
        assert!(disk.lock().own.is_empty(), "the start has nothing to make again");
    }
}

#[test]
fn an_end_leaves_the_half_in_which_somebody_writes() {
    let disk = Sim::new(1);
    let spool = Arc::new(Spool::open(disk.clone()).unwrap());
    let held = spool.place(id(0), 10).unwrap();
    spool.end();
    assert!(spool.has(id(0)));
    drop(held);
    spool.end();
    assert!(!spool.has(id(0)));
}

#[test]
fn a_half_waits_for_those_who_write() {
    let disk = Sim::new(1);
    let spool = Arc::new(Spool::open(disk.clone()).unwrap());
    let held = spool.place(id(0), 10).unwrap();
    // The half is full: the next place is in the other.
    let mut number = 1;
    while spool.lock().active == 0 {
        drop(spool.place(id(number), 3000).unwrap());
        number += 1;
    }
    assert!(spool.due().is_none());
    drop(held);
    let drain = spool.due().unwrap();
    assert!(spool.due().is_none(), "one empties it");
    assert!(spool.has(id(0)));
    spool.drain(drain);
    assert!(!spool.has(id(0)) && spool.has(id(number - 1)));
}

#[test]
fn without_room_an_object_is_synced_by_itself() {
    let disk = Sim::new(1);
    let spool = Arc::new(Spool::open(disk.clone()).unwrap());
    assert!(spool.place(id(1), usize::try_from(HALF).unwrap()).is_none(), "larger than a half");
    let mut number = 0;
    while spool.place(id(number), 3000).is_some() {
        number += 1;
    }
    assert_eq!(u64::from(number), 2 * (HALF / BLOCK - 1), "both halves are full");
    spool.drain(spool.due().unwrap());
    assert!(spool.place(id(number), 3000).is_some());
    disk.lock().size = BLOCK * SPOOL_SHARE;
    let small = Arc::new(Spool::open(disk).unwrap());
    assert!(small.place(id(1), 1).is_none(), "a file system as small as that has no room for a spool");
}

#[test]
fn a_frame_that_was_changed_is_not_taken_for_an_object() {
    for byte in 0..FRAME_HEAD_BYTES + 10 {
        let disk = Sim::new(1);
        let spool = Arc::new(Spool::open(disk.clone()).unwrap());
        for number in 0..2 {
            let place = spool.place(id(number), content(number).len()).unwrap();
            place.write(&content(number), blake3::hash(&content(number)).as_bytes()).unwrap();
        }
        disk.lock().spool[usize::try_from(BLOCK).unwrap() + byte] ^= 1;
        Spool::open(disk.clone()).unwrap();
        let own = disk.lock().own.clone();
        assert_eq!(own.keys().copied().collect::<Vec<_>>(), [id(1)], "byte {byte}");
    }
}

/// What a user of the store was told.
#[derive(Debug, Default)]
struct Told {
    stored: BTreeSet<u8>,
    removed: BTreeSet<u8>,
}

/// Stores objects in groups, and removes some of them, until the disk fails.
fn store(disk: &Sim, told: &mut Told, first: u8, count: u8) -> io::Result<()> {
    let spool = Arc::new(Spool::open(disk.clone())?);
    let mut waiting = Vec::new();
    for number in first..first + count {
        match spool.place(id(number), content(number).len()) {
            Some(place) => {
                put(disk, place, number)?;
                waiting.push(number);
            }
            None => {
                disk.write_own(number)?;
                disk.sync_all()?;
                told.stored.insert(number);
            }
        }
        if number % 3 == 0 {
            spool.sync()?;
            told.stored.extend(waiting.drain(..));
        }
        if number % 4 == 3
            && let Some(drain) = spool.due()
        {
            spool.drain(drain);
        }
        if number % 5 == 4 && told.stored.contains(&(number - 4)) {
            // From here on it may or may not be there.
            told.stored.remove(&(number - 4));
            spool.removing(id(number - 4), || disk.remove_own(id(number - 4)))?;
            told.removed.insert(number - 4);
        }
    }
    if disk.lock().dead { Err(io::Error::other("dead")) } else { Ok(()) }
}

fn put(disk: &Sim, place: Place, number: u8) -> io::Result<()> {
    disk.write_own(number)?;
    place.write(&content(number), blake3::hash(&content(number)).as_bytes())
}

fn id(number: u8) -> FileId {
    FileId::from_bytes([number; 16])
}

/// Of one to three blocks.
fn content(number: u8) -> Vec<u8> {
    vec![number; 40 + usize::from(number) * 2711 % 8000]
}

/// A disk with a file for the spool, and objects' own files.
#[derive(Debug, Clone)]
struct Sim(Arc<Mutex<Disk>>);

#[derive(Debug)]
struct Disk {
    size: u64,
    /// The spool's file as a process sees it, and as the disk has it.
    spool: Vec<u8>,
    durable: Vec<u8>,
    /// What was written and not synced.
    pending: Vec<(usize, Vec<u8>)>,
    own: BTreeMap<FileId, Vec<u8>>,
    own_durable: BTreeMap<FileId, Vec<u8>>,
    dirty: BTreeSet<FileId>,
    /// Syncs of everything that fail: what they were to write is not tried again.
    failing_syncs: u32,
    steps: usize,
    dead: bool,
    random: u64,
}

impl Sim {
    fn new(seed: u8) -> Sim {
        Sim(Arc::new(Mutex::new(Disk {
            size: 1 << 30,
            spool: Vec::new(),
            durable: Vec::new(),
            pending: Vec::new(),
            own: BTreeMap::new(),
            own_durable: BTreeMap::new(),
            dirty: BTreeSet::new(),
            failing_syncs: 0,
            steps: usize::MAX,
            dead: false,
            random: u64::from(seed),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process dies at this step: of a write half arrives.
    fn fails_at(&self, steps: usize) {
        let mut disk = self.lock();
        (disk.steps, disk.dead) = (steps, false);
    }

    /// Power comes back: of what was not synced each write is there, torn or not there.
    fn crash(&self) {
        let mut disk = self.lock();
        for (at, bytes) in std::mem::take(&mut disk.pending) {
            let arrives = disk.some_of(bytes.len());
            write(&mut disk.durable, at, &bytes[..arrives]);
        }
        disk.spool = disk.durable.clone();
        let (dirty, own) = (std::mem::take(&mut disk.dirty), std::mem::take(&mut disk.own));
        for object in dirty {
            let Some(bytes) = own.get(&object) else { continue };
            // None: not even its name, or what had the name before.
            let arrives = disk.some_of(bytes.len() + 1);
            if let Some(arrives) = arrives.checked_sub(1) {
                disk.own_durable.insert(object, bytes[..arrives].to_vec());
            }
        }
        disk.own = disk.own_durable.clone();
        disk.dead = false;
    }

    fn write_own(&self, number: u8) -> io::Result<()> {
        self.replace(id(number), &content(number))
    }

    /// Durable at once.
    fn remove_own(&self, object: FileId) -> io::Result<()> {
        let mut disk = self.lock();
        disk.step()?;
        disk.own.remove(&object);
        disk.own_durable.remove(&object);
        disk.dirty.remove(&object);
        Ok(())
    }

    fn check(&self, told: &Told, when: &str) {
        let disk = self.lock();
        for number in &told.stored {
            assert_eq!(disk.own_durable.get(&id(*number)), Some(&content(*number)), "{number}: {when}");
        }
        for number in &told.removed {
            assert!(!disk.own.contains_key(&id(*number)), "{number} came back: {when}");
        }
    }
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        if self.steps == 0 || self.dead {
            self.dead = true;
            return Err(io::Error::other("the process is dead"));
        }
        self.steps -= 1;
        Ok(())
    }

    /// Nothing, all or a part of so many bytes.
    fn some_of(&mut self, bytes: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = usize::try_from(self.random >> 40).unwrap();
        match drawn % 3 {
            0 => 0,
            1 => bytes,
            _ => drawn / 3 % bytes.max(1),
        }
    }
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Ground for Sim {
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let disk = self.lock();
        let at = usize::try_from(at).unwrap();
        let there = disk.spool.get(at..).unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        buffer[count..].fill(0);
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut disk = self.lock();
        let (alive, at) = (disk.step(), usize::try_from(at).unwrap());
        let arrives = if alive.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        write(&mut disk.spool, at, arrives);
        disk.pending.push((at, arrives.to_vec()));
        alive
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().spool.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.step()?;
        for (at, bytes) in std::mem::take(&mut disk.pending) {
            write(&mut disk.durable, at, &bytes);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()?;
        let mut disk = self.lock();
        let dirty = std::mem::take(&mut disk.dirty);
        if disk.failing_syncs > 0 {
            disk.failing_syncs -= 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        for object in dirty {
            let bytes = disk.own[&object].clone();
            disk.own_durable.insert(object, bytes);
        }
        Ok(())
    }

    fn holds(&self, object: FileId, sealed: &[u8]) -> io::Result<bool> {
        Ok(self.lock().own.get(&object).is_some_and(|own| own == sealed))
    }

    fn replace(&self, object: FileId, sealed: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        let alive = disk.step();
        let arrives = if alive.is_ok() { sealed } else { &sealed[..sealed.len() / 2] };
        disk.own.insert(object, arrives.to_vec());
        disk.dirty.insert(object);
        alive
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().size)
    }
}
