//! What a start finds in a volume's spool.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storaged::objects::Spool;
use storaged::objects::spool::Ground;
use store_proto::FileId;

/// Frames begin blocks, and the first block of a half is its head.
const BLOCK: usize = 4096;
/// What stands before an object's bytes.
const FRAME_HEAD: usize = 108;
/// What a half's head has.
const HALF_HEAD: usize = 64;
const OBJECTS: u8 = 4;

/// A spool that was damaged anywhere: each object whose frame was not is made again, byte for byte, none that was is, and
/// the next start finds nothing. Junk is no object unless its hashes say so.
pub fn spool(data: &[u8]) {
    let junk = Memory::default();
    junk.lock().file = data.to_vec();
    let opened = Spool::open(junk.clone());
    assert!(opened.is_ok(), "what is no frame is passed over: {opened:?}");
    for sealed in junk.lock().own.values() {
        let stands = data.windows(sealed.len().max(1)).any(|bytes| bytes == sealed.as_slice());
        assert!(stands || sealed.is_empty(), "an object of bytes that are not there");
    }

    let ground = Memory::default();
    let mut places = Vec::new();
    {
        let spool = Arc::new(Spool::open(ground.clone()).expect("an empty spool"));
        let mut at = BLOCK;
        for number in 1..=OBJECTS {
            let sealed = content(number);
            let place = spool.place(id(number), sealed.len()).expect("there is room");
            place.write(&sealed, blake3::hash(&sealed).as_bytes()).expect("memory has room");
            places.push(at..at + FRAME_HEAD + sealed.len());
            at += (FRAME_HEAD + sealed.len()).next_multiple_of(BLOCK);
        }
    }
    let whole = ground.lock().file.clone();
    let mut damaged = whole.clone();
    let end = places.last().map_or(0, |last| last.end);
    for (edit, _) in data.as_chunks::<3>().0.iter().zip(0..64) {
        let place = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % end;
        damaged[place] ^= edit[2];
    }
    let same = |place: Range<usize>| damaged[place.clone()] == whole[place];
    let head = same(0..HALF_HEAD);
    let expected: BTreeMap<FileId, Vec<u8>> = (1..=OBJECTS)
        .zip(&places)
        .filter(|(_, place)| head && same((*place).clone()))
        .map(|(number, _)| (id(number), content(number)))
        .collect();
    ground.lock().file = damaged;
    assert!(Spool::open(ground.clone()).is_ok(), "damage is passed over");
    assert_eq!(std::mem::take(&mut ground.lock().own), expected);
    assert!(Spool::open(ground.clone()).is_ok());
    assert_eq!(ground.lock().own, BTreeMap::new(), "the spool is empty after a start");
}

fn id(number: u8) -> FileId {
    FileId::from_bytes([number; 16])
}

/// Of one to three blocks, and of every length modulo one that matters.
fn content(number: u8) -> Vec<u8> {
    vec![number; usize::from(number) * 2731 - 500]
}

/// A spool's file, and the own files that a start made.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    file: Vec<u8>,
    own: BTreeMap<FileId, Vec<u8>>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(at: u64) -> io::Result<usize> {
    usize::try_from(at).map_err(io::Error::other)
}

impl Ground for Memory {
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let contents = self.lock();
        let there = contents.file.get(index(at)?..).unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        buffer[count..].fill(0);
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut contents, at) = (self.lock(), index(at)?);
        if contents.file.len() < at + bytes.len() {
            contents.file.resize(at + bytes.len(), 0);
        }
        contents.file[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().file.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn holds(&self, object: FileId, sealed: &[u8]) -> io::Result<bool> {
        Ok(self.lock().own.get(&object).is_some_and(|own| own == sealed))
    }

    fn replace(&self, object: FileId, sealed: &[u8]) -> io::Result<()> {
        self.lock().own.insert(object, sealed.to_vec());
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(1 << 30)
    }
}
