//! From the frames of a body to a sealed object: body → SHA-256 → seal in place → BLAKE3 → write.
//!
//! **Invariant:** at most the transfer's own buffers are in use; the next write begins when the last has
//! ended, so the bytes are in order and the sender waits for the disk and for nothing else. A byte is copied
//! once, from the frame into the buffer in which it is hashed, sealed and written.
//!
//! The plain bytes are hashed by whoever brings them, while an input/output thread seals, hashes and writes
//! the buffer before: SHA-256 takes about as long as all the rest, so on two cores the pair runs at the speed
//! of SHA-256 alone. What fits one buffer takes one hand-over: its temporary is made, written, synced and
//! renamed by a single job, or made, written and renamed, and synced with others in the volume's spool.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use store_proto::ContentDigest;
use tokio::sync::oneshot;

use crate::objects::put::{Published, Spooled};
use crate::objects::spool::Spool;
use crate::objects::{Backend, Buffer, Opening, Part, Pool, Put, PutError, TransferSlot};

/// Where the bytes of one part go.
#[derive(Debug)]
pub struct Pipeline {
    pool: Pool,
    slot: TransferSlot,
    buffer: Buffer,
    hash: Sha256,
    size: u64,
    stage: Stage,
    /// What the first segment is compared with, before anything is made on the volume.
    opening: Option<Opening>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing was written yet.
    Fresh(Arc<dyn Backend>, Part),
    Writing(oneshot::Receiver<Result<Box<Put>, PutError>>),
    Lost,
}

/// A stage that can be written to.
enum Open {
    Fresh(Arc<dyn Backend>, Part),
    Put(Box<Put>),
}

impl Open {
    fn put(self) -> Result<Box<Put>, PutError> {
        match self {
            Open::Fresh(backend, part) => Put::begin(backend.as_ref(), &part).map(Box::new),
            Open::Put(put) => Ok(put),
        }
    }
}

impl Pipeline {
    /// A part that continues a file whose bytes so far are in `hash`. Nothing is made on the volume yet.
    pub async fn new(
        pool: Pool,
        slot: TransferSlot,
        backend: Arc<dyn Backend>,
        part: Part,
        hash: Sha256,
    ) -> Pipeline {
        let mut buffer = slot.take().await;
        buffer.begin_stream();
        Pipeline { pool, slot, buffer, hash, size: 0, stage: Stage::Fresh(backend, part), opening: None }
    }

    /// Has the first segment of a file compared with what its name says.
    pub fn expecting(self, opening: Option<Opening>) -> Pipeline {
        Pipeline { opening, ..self }
    }

    /// Takes the next bytes.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), PutError> {
        while !bytes.is_empty() {
            if self.buffer.is_full() {
                // There is more, so this segment is not the last.
                self.flush().await?;
            }
            let taken = self.buffer.fill(bytes);
            let (now, rest) = bytes.split_at(taken);
            self.hash.update(now);
            self.size += taken as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Begins with bytes that are in the hash already: the tail of the stretch before, which fits a buffer.
    pub fn carry(&mut self, tail: &[u8]) {
        let taken = self.buffer.fill(tail);
        assert_eq!(taken, tail.len(), "a tail is what did not fill a segment");
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the file so far, of the parts before too.
    pub fn digest(&self) -> ContentDigest {
        ContentDigest::from_bytes(self.hash.clone().finalize().into())
    }

    /// The state of that hash, to continue with.
    pub fn hash(&self) -> &Sha256 {
        &self.hash
    }

    /// What is in the buffer and nowhere else, as long as nothing was written.
    pub fn unwritten(&self) -> Option<&[u8]> {
        matches!(self.stage, Stage::Fresh(..)).then(|| self.buffer.filled())
    }

    /// Seals and writes what is left, and makes the part an object, durably.
    pub async fn finish(mut self) -> Result<Published, PutError> {
        self.look()?;
        let open = self.settle().await?;
        let (mut last, pool) = (self.buffer, self.pool);
        match open {
            Open::Fresh(backend, part) => match backend.spool() {
                Some(spool) => spooled(&pool, spool, backend, part, last).await,
                None => {
                    let published = pool.run(move || whole(backend.as_ref(), &part, &mut last)?.publish());
                    published.await.map_err(|_| lost())?
                }
            },
            open @ Open::Put(_) => {
                let published = pool.run(move || finished(open.put()?, &mut last)?.publish());
                published.await.map_err(|_| lost())?
            }
        }
    }

    /// Waits until nothing of it touches the volume any more, so that what it wrote can be removed.
    pub async fn stop(mut self) {
        let _ = self.settle().await;
    }

    async fn flush(&mut self) -> Result<(), PutError> {
        self.look()?;
        let open = self.settle().await?;
        let mut full = std::mem::replace(&mut self.buffer, self.slot.take().await);
        self.buffer.continue_stream();
        self.stage = Stage::Writing(self.pool.begin(move || {
            let mut put = open.put()?;
            put.write(&mut full, false)?;
            Ok(put)
        }));
        Ok(())
    }

    fn look(&mut self) -> Result<(), PutError> {
        match self.opening.take() {
            Some(opening) => Ok(opening.check(self.buffer.filled())?),
            None => Ok(()),
        }
    }

    async fn settle(&mut self) -> Result<Open, PutError> {
        match std::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::Fresh(backend, part) => Ok(Open::Fresh(backend, part)),
            Stage::Writing(job) => job.await.map_err(|_| lost())?.map(Open::Put),
            Stage::Lost => Err(lost()),
        }
    }
}

/// An object of one segment, in its own file and in the spool; a sync of that makes it durable. Where there is no room in
/// the spool it is synced by itself.
async fn spooled(
    pool: &Pool,
    spool: Arc<Spool>,
    backend: Arc<dyn Backend>,
    part: Part,
    mut last: Buffer,
) -> Result<Published, PutError> {
    let turn = pool.together().turn();
    let (volume, place) = (Arc::clone(&backend), Arc::clone(&spool));
    let written = pool.run(move || {
        let written = write_spooled(&place, volume.as_ref(), &part, &mut last);
        // Asked here: a disk that hangs may hold whoever asks.
        (written, place.due())
    });
    let (written, drain) = written.await.map_err(|_| lost())?;
    if let Some(drain) = drain {
        let spool = Arc::clone(&spool);
        let _ended = pool.begin(move || spool.drain(drain));
    }
    match written? {
        Written::Durable(published) => Ok(published),
        Written::Spooled(written) => {
            let synced = pool.settle(&spool, turn).await;
            written.settled(synced, backend.as_ref())
        }
    }
}

fn write_spooled(
    spool: &Arc<Spool>,
    backend: &dyn Backend,
    part: &Part,
    last: &mut Buffer,
) -> Result<Written, PutError> {
    match spool.place(part.object, last.stream().len()) {
        None => whole(backend, part, last)?.publish().map(Written::Durable),
        Some(room) => whole(backend, part, last)?.spool(spool, room, last.stream()).map(Written::Spooled),
    }
}

enum Written {
    Durable(Published),
    Spooled(Spooled),
}

fn whole(backend: &dyn Backend, part: &Part, last: &mut Buffer) -> Result<Box<Put>, PutError> {
    finished(Box::new(Put::begin(backend, part)?), last)
}

fn finished(mut put: Box<Put>, last: &mut Buffer) -> Result<Box<Put>, PutError> {
    put.write(last, true)?;
    Ok(put)
}

fn lost() -> PutError {
    PutError::Io { step: "write", error: std::io::Error::other("an input/output thread failed") }
}
