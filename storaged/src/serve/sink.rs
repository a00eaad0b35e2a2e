//! From the frames of a body to an object: fills one buffer while the other is hashed and written.
//!
//! **Invariant:** at most the transfer's own buffers are in use; the next write begins when the last has
//! ended, so the file's bytes are in order and the client waits for the disk and for nothing else.

use std::sync::Arc;

use store_proto::{ContentDigest, FileId};
use tokio::sync::oneshot;

use crate::objects::{Backend, Buffer, Pool, Put, PutError, TransferSlot};

/// Where the bytes of one upload go.
#[derive(Debug)]
pub struct Sink {
    pool: Pool,
    slot: TransferSlot,
    buffer: Buffer,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle(Put),
    Writing(oneshot::Receiver<(Put, Result<(), PutError>)>),
    Lost,
}

impl Sink {
    /// Makes the object's temporary file.
    pub async fn open(
        pool: Pool,
        slot: TransferSlot,
        disk: Arc<dyn Backend>,
        id: FileId,
    ) -> Result<Sink, PutError> {
        let put = pool.run(move || Put::begin(disk.as_ref(), id)).await.map_err(|_| lost())??;
        let buffer = slot.take().await;
        Ok(Sink { pool, slot, buffer, stage: Stage::Idle(put) })
    }

    /// Takes the next bytes.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), PutError> {
        while !bytes.is_empty() {
            let taken = self.buffer.fill(bytes);
            bytes = &bytes[taken..];
            if self.buffer.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Waits until all bytes are written, and gives their number and digest. Nothing is durable yet.
    pub async fn finish(mut self) -> Result<Written, PutError> {
        if !self.buffer.is_empty() {
            self.flush().await?;
        }
        let put = self.settle().await?;
        let (size, sha256) = (put.size(), put.digest());
        Ok(Written { pool: self.pool, put, size, sha256 })
    }

    async fn flush(&mut self) -> Result<(), PutError> {
        let mut put = self.settle().await?;
        let full = std::mem::replace(&mut self.buffer, self.slot.take().await);
        self.stage = Stage::Writing(self.pool.begin(move || {
            let written = put.write(full.filled());
            (put, written)
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<Put, PutError> {
        match std::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::Idle(put) => Ok(put),
            Stage::Writing(job) => {
                let (put, written) = job.await.map_err(|_| lost())?;
                written.map(|()| put)
            }
            Stage::Lost => Err(lost()),
        }
    }
}

/// All bytes are written; the object has no name yet.
#[derive(Debug)]
pub struct Written {
    pool: Pool,
    put: Put,
    /// How many.
    pub size: u64,
    /// Their digest.
    pub sha256: ContentDigest,
}

impl Written {
    /// Makes it an object, durably.
    pub async fn publish(self) -> Result<(), PutError> {
        let put = self.put;
        self.pool.run(move || put.publish()).await.map_err(|_| lost())?
    }
}

fn lost() -> PutError {
    PutError::Io { step: "write", error: std::io::Error::other("an input/output thread failed") }
}
