//! Small objects in one file, durable by one sync for all who wait, before their own files are.
//!
//! A small object's own file costs two syncs, of its bytes and of its name. So it is written and named without any, and
//! its sealed bytes go into a file of the volume beside: blocks that are there, behind one another, one `fdatasync`
//! for all who come at the same time. When half of that file is full, a sync of the whole file system makes the
//! objects' own files durable, and the half begins anew; the other takes what comes meanwhile. A start after a crash
//! makes again what the crash took, before anything else looks at the volume.
//!
//! **Invariant:** an object whose put has returned is durable in its own file, or here; nothing here is overwritten before
//! its own file is durable; and what was removed does not come back: its bytes here are overwritten, durably, before
//! its removal is told.
//!
//! The bytes are described in `docs/formats/objects.md`.

pub(in crate::objects) mod ground;

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store_proto::FileId;

use crate::ledger::tables::random_id;
use crate::limits::{SPOOL_BYTES, SPOOL_SHARE, SPOOL_STEP_BYTES};

/// Each frame begins one, and so does each half: a torn write of one harms no other.
const BLOCK: u64 = 4096;
/// Where the second half begins, and the most that the first can hold. Tests fill a short one many times.
const HALF: u64 = if cfg!(test) { 8 * BLOCK } else { SPOOL_BYTES / 2 };
/// Blocks are made so far ahead.
const STEP: u64 = if cfg!(test) { BLOCK } else { SPOOL_STEP_BYTES };
/// What a half begins with, once something stands in it.
const HALF_MAGIC: &[u8; 16] = b"culvert spool 1\n";
/// Magic, round, and a hash over both.
const HALF_HEAD_BYTES: usize = 16 + 16 + 32;
/// What a frame begins with.
const FRAME_MAGIC: &[u8; 8] = b"object 1";
/// Magic, round, object, length, BLAKE3 of the sealed bytes, and a hash over all of these.
const FRAME_HEAD_BYTES: usize = 8 + 16 + 16 + 4 + 32 + 32;
/// What is overwritten at once.
const ZEROS: &[u8] = &[0; 64 * 1024];

/// What a spool lies on: its file, and the objects' own files on the same file system.
pub trait Ground: Send + Sync + Debug + 'static {
    /// Fills the buffer from the spool's file; what lies behind its end is zeros.
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes to the spool's file.
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// How long the spool's file is.
    fn length(&self) -> io::Result<u64>;
    /// Brings the spool's file to the disk.
    fn sync(&self) -> io::Result<()>;
    /// Brings everything on the file system to the disk, and says if anything could not be since this was asked last.
    fn sync_all(&self) -> io::Result<()>;
    /// Whether the object's own file holds just these bytes.
    fn holds(&self, object: FileId, sealed: &[u8]) -> io::Result<bool>;
    /// Makes the object's own file anew. Not durable before the next [`sync_all`](Self::sync_all).
    fn replace(&self, object: FileId, sealed: &[u8]) -> io::Result<()>;
    /// Bytes of the file system.
    fn size(&self) -> io::Result<u64>;
}

/// The small objects of one mount.
#[derive(Debug)]
pub struct Spool {
    ground: Box<dyn Ground>,
    state: Mutex<State>,
    /// Held by whoever removes an object that stands here, and by whoever makes one's own file again.
    order: Mutex<()>,
}

#[derive(Debug)]
struct State {
    halves: [Half; 2],
    /// Which half takes what comes.
    active: usize,
    /// How much of a half is used.
    limit: u64,
    /// What stands here cannot be brought to its place: nothing more is taken, and the next start tries again.
    broken: bool,
    /// The store ends: nothing more is taken.
    ending: bool,
}

#[derive(Debug, Default)]
struct Half {
    /// Frames of other rounds are not looked at. None: nothing stands here.
    round: Option<[u8; 16]>,
    /// Where the next frame goes.
    end: u64,
    /// Up to here it has its blocks.
    prepared: u64,
    /// The objects that stand here: their frames' places and lengths.
    live: HashMap<FileId, (u64, u64)>,
    /// Objects that are being written.
    writing: usize,
    /// The system could not bring to the disk some of what had been written, and does not say that again: own files are made
    /// anew.
    doubtful: bool,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// No more goes in.
    Full,
    /// Somebody makes the own files durable.
    Draining,
}

/// Room for one object. As long as it is held, the own files of its half are not taken for written.
#[derive(Debug)]
pub struct Place {
    spool: Arc<Spool>,
    half: usize,
    round: [u8; 16],
    object: FileId,
    at: u64,
}

/// Whoever has it calls [`Spool::drain`], off the runtime's threads.
#[derive(Debug)]
pub struct Drain(usize);

/// What was left by a process that did not end a half.
#[derive(Debug)]
struct Left {
    object: FileId,
    at: u64,
    length: usize,
}

impl Spool {
    /// Opens it, and brings every object that stands in it to its own file, durably.
    pub fn open(ground: impl Ground) -> io::Result<Spool> {
        let length = ground.length()?;
        let limit = (ground.size()? / SPOOL_SHARE).min(HALF) / BLOCK * BLOCK;
        let half = |begin: u64| Half {
            end: BLOCK,
            prepared: length.saturating_sub(begin).clamp(BLOCK, HALF),
            ..Half::default()
        };
        let state = State { halves: [half(0), half(HALF)], active: 0, limit, broken: false, ending: false };
        let spool = Spool { ground: Box::new(ground), state: Mutex::new(state), order: Mutex::default() };
        spool.recover(length)?;
        Ok(spool)
    }

    fn recover(&self, length: u64) -> io::Result<()> {
        let begun: Vec<u64> = [0, HALF].into_iter().filter(|begin| *begin < length).collect();
        let mut left = Vec::new();
        for begin in &begun {
            left.extend(self.left(*begin, length)?);
        }
        if left.is_empty() {
            return Ok(());
        }
        let mut again: u64 = 0;
        for object in &left {
            let sealed = self.sealed(object)?;
            // One that cannot be read is made anew too.
            if !self.ground.holds(object.object, &sealed).unwrap_or(false) {
                self.ground.replace(object.object, &sealed)?;
                again += 1;
            }
        }
        if self.ground.sync_all().is_err() {
            // What could not be brought to the disk is not said: all of them, whatever they seem to hold.
            for object in &left {
                self.ground.replace(object.object, &self.sealed(object)?)?;
            }
            self.ground.sync_all()?;
        }
        tracing::info!(
            objects = left.len(),
            made_again = again,
            "small objects that the last process had not made durable in their own files"
        );
        for begin in begun {
            self.ground.write(&[0; HALF_HEAD_BYTES], begin)?;
        }
        self.ground.sync()
    }

    /// The frames of a half's round that are whole.
    fn left(&self, begin: u64, length: u64) -> io::Result<Vec<Left>> {
        let mut left = Vec::new();
        let mut head = [0; HALF_HEAD_BYTES];
        self.ground.read(&mut head, begin)?;
        let Some(round) = half_round(&head) else { return Ok(left) };
        let end = (begin + HALF).min(length);
        let mut at = begin + BLOCK;
        while at < end {
            let mut head = [0; FRAME_HEAD_BYTES];
            self.ground.read(&mut head, at)?;
            // A place that was torn, given up or emptied hides nothing behind it.
            let Some(found) = frame_head(&head, &round).filter(|found| found.ends(at) <= end) else {
                at += BLOCK;
                continue;
            };
            let whole = Left { object: found.object, at, length: found.length };
            if blake3::hash(&self.sealed(&whole)?) == found.hash {
                at = found.ends(at);
                left.push(whole);
            } else {
                at += BLOCK;
            }
        }
        Ok(left)
    }

    fn sealed(&self, left: &Left) -> io::Result<Vec<u8>> {
        let mut sealed = vec![0; left.length];
        self.ground.read(&mut sealed, left.at + FRAME_HEAD_BYTES as u64)?;
        Ok(sealed)
    }

    /// Room for an object of so many sealed bytes. `None`: it has to be synced by itself.
    pub fn place(self: &Arc<Self>, object: FileId, sealed: usize) -> Option<Place> {
        let bytes = frame_bytes(sealed);
        let mut state = self.lock();
        if state.broken || state.ending || BLOCK + bytes > state.limit {
            return None;
        }
        let (limit, active) = (state.limit, state.active);
        if state.halves[active].stage != Stage::Open || state.halves[active].end + bytes > limit {
            if state.halves[active].stage == Stage::Open {
                state.halves[active].stage = Stage::Full;
            }
            if state.halves[1 - active].stage != Stage::Open {
                return None;
            }
            state.active = 1 - active;
        }
        let number = state.active;
        let begin = HALF * number as u64;
        let half = &mut state.halves[number];
        let round = match half.round {
            Some(round) => round,
            None => {
                let round = *random_id().ok()?.as_bytes();
                self.ground.write(&half_head(&round), begin).ok()?;
                half.round = Some(round);
                round
            }
        };
        if half.end + bytes > half.prepared {
            let goal = (half.end + bytes + STEP).min(limit);
            self.zero(begin + half.prepared, begin + goal).ok()?;
            half.prepared = goal;
        }
        let at = begin + half.end;
        half.end += bytes;
        half.writing += 1;
        half.live.insert(object, (at, bytes));
        Some(Place { spool: Arc::clone(self), half: number, round, object, at })
    }

    /// Brings what was written to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.ground.sync()
    }

    /// Whether a half is full, and nobody has begun to empty it.
    pub fn due(&self) -> Option<Drain> {
        let mut state = self.lock();
        if state.broken {
            return None;
        }
        let number = state.halves.iter().position(|half| half.stage == Stage::Full && half.writing == 0)?;
        state.halves[number].stage = Stage::Draining;
        Some(Drain(number))
    }

    /// Whether it has given up: what stands here cannot be brought to its place.
    pub fn is_broken(&self) -> bool {
        self.lock().broken
    }

    /// Takes nothing more, and empties both halves, off the runtime's threads. What is being written meanwhile stays for
    /// the next start, as after a crash.
    pub fn end(&self) {
        self.lock().ending = true;
        for number in 0..2 {
            let mut state = self.lock();
            let (broken, half) = (state.broken, &mut state.halves[number]);
            if broken || half.round.is_none() || half.writing > 0 || half.stage == Stage::Draining {
                continue;
            }
            half.stage = Stage::Draining;
            drop(state);
            self.drain(Drain(number));
        }
    }

    /// Makes the own files of a full half's objects durable, and begins the half anew.
    pub fn drain(&self, Drain(number): Drain) {
        let drained = self.make_durable(number);
        // Whoever empties a frame has looked where it is.
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        match drained {
            Ok(()) => {
                let half = &mut state.halves[number];
                let prepared = half.prepared;
                *half = Half { end: BLOCK, prepared, ..Half::default() };
            }
            Err(error) => {
                state.broken = true;
                tracing::error!(
                    %error,
                    objects = state.halves[number].live.len(),
                    "small objects cannot be brought to their own files; they stand in the volume's spool, and the next start tries again"
                );
            }
        }
    }

    fn make_durable(&self, number: usize) -> io::Result<()> {
        let doubtful = self.lock().halves[number].doubtful || self.sync_all().is_err();
        if doubtful {
            let objects: Vec<FileId> = self.lock().halves[number].live.keys().copied().collect();
            for object in objects {
                let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
                // One that was removed meanwhile stays away.
                let Some((at, _)) = self.lock().halves[number].live.get(&object).copied() else { continue };
                let mut head = [0; FRAME_HEAD_BYTES];
                self.ground.read(&mut head, at)?;
                let round = self.lock().halves[number].round.unwrap_or_default();
                let Some(found) = frame_head(&head, &round) else { continue };
                let sealed = self.sealed(&Left { object, at, length: found.length })?;
                if blake3::hash(&sealed) == found.hash {
                    self.ground.replace(object, &sealed)?;
                }
            }
            self.sync_all()?;
        }
        self.ground.write(&[0; HALF_HEAD_BYTES], HALF * number as u64)?;
        self.ground.sync()
    }

    /// A failure is about objects of both halves.
    fn sync_all(&self) -> io::Result<()> {
        self.ground.sync_all().inspect_err(|error| {
            tracing::warn!(%error, "a sync of the volume failed: small objects are written again");
            for half in &mut self.lock().halves {
                half.doubtful = true;
            }
        })
    }

    /// Removes an object by `remove`, and what stands of it here.
    pub fn removing(&self, object: FileId, remove: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !self.has(object) {
            return remove();
        }
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        remove()?;
        let found = self.lock().halves.iter().find_map(|half| half.live.get(&object).copied());
        if let Some((at, bytes)) = found {
            self.zero(at, at + bytes)?;
            self.ground.sync()?;
            for half in &mut self.lock().halves {
                half.live.remove(&object);
            }
        }
        Ok(())
    }

    /// Whether a start after a crash would make the object again.
    pub fn has(&self, object: FileId) -> bool {
        self.lock().halves.iter().any(|half| half.live.contains_key(&object))
    }

    fn zero(&self, mut at: u64, end: u64) -> io::Result<()> {
        while at < end {
            let piece = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.ground.write(&ZEROS[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Writes the object's sealed bytes, of which `hash` is BLAKE3. Durable after the next [`Spool::sync`].
    pub fn write(&self, sealed: &[u8], hash: &[u8; 32]) -> io::Result<()> {
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        let mut head = Vec::with_capacity(FRAME_HEAD_BYTES);
        head.extend_from_slice(FRAME_MAGIC);
        head.extend_from_slice(&self.round);
        head.extend_from_slice(self.object.as_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(hash);
        let sum = blake3::hash(&head);
        head.extend_from_slice(sum.as_bytes());
        let ground = &self.spool.ground;
        ground.write(sealed, self.at + FRAME_HEAD_BYTES as u64)?;
        ground.write(&head, self.at)
    }
}

/// However writing it ended, it is over.
impl Drop for Place {
    fn drop(&mut self) {
        self.spool.lock().halves[self.half].writing -= 1;
    }
}

/// What a frame's head says.
struct FrameHead {
    object: FileId,
    length: usize,
    hash: blake3::Hash,
}

impl FrameHead {
    fn ends(&self, at: u64) -> u64 {
        at + frame_bytes(self.length)
    }
}

fn frame_bytes(sealed: usize) -> u64 {
    ((FRAME_HEAD_BYTES + sealed) as u64).next_multiple_of(BLOCK)
}

fn frame_head(head: &[u8; FRAME_HEAD_BYTES], round: &[u8; 16]) -> Option<FrameHead> {
    let (told, sum) = head.split_last_chunk::<32>()?;
    let rest = told.strip_prefix(FRAME_MAGIC)?.strip_prefix(round)?;
    if blake3::hash(told) != *sum {
        return None;
    }
    let (object, rest) = rest.split_first_chunk::<16>()?;
    let (length, hash) = rest.split_first_chunk::<4>()?;
    Some(FrameHead {
        object: FileId::from_bytes(*object),
        length: usize::try_from(u32::from_be_bytes(*length)).ok()?,
        hash: blake3::Hash::from_bytes(hash.try_into().ok()?),
    })
}

fn half_head(round: &[u8; 16]) -> Vec<u8> {
    let told = [HALF_MAGIC.as_slice(), round].concat();
    let sum = blake3::hash(&told);
    [told.as_slice(), sum.as_bytes()].concat()
}

fn half_round(head: &[u8; HALF_HEAD_BYTES]) -> Option<[u8; 16]> {
    let (told, sum) = head.split_last_chunk::<32>()?;
    let round = told.strip_prefix(HALF_MAGIC)?;
    (blake3::hash(told) == *sum).then(|| round.try_into().ok())?
}

#[cfg(test)]
mod tests;
