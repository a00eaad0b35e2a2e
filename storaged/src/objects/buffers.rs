//! The buffers of all transfers.
//!
//! **Invariant:** at most `transfers × BUFFERS_PER_TRANSFER` buffers exist, whatever arrives. A transfer
//! takes all of its buffers at once, so no two transfers can wait for each other's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{BUFFER_BYTES, BUFFERS_PER_TRANSFER};

/// The common stock.
#[derive(Debug, Clone)]
pub struct Buffers {
    slots: Arc<Semaphore>,
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// The right to run one transfer, and its buffers.
#[derive(Debug)]
pub struct TransferSlot {
    buffers: Buffers,
    permit: Arc<OwnedSemaphorePermit>,
    left: usize,
}

/// One buffer; goes back to the stock when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    home: Buffers,
    /// The transfer is not over while one of its buffers is on the way.
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Buffers {
    /// A stock for so many transfers at once. Buffers are made when first needed.
    pub fn new(transfers: usize) -> Buffers {
        Buffers { slots: Arc::new(Semaphore::new(transfers)), free: Arc::default() }
    }

    /// Waits at most `patience` for a slot.
    pub async fn slot(&self, patience: Duration) -> Option<TransferSlot> {
        let permit = tokio::time::timeout(patience, Arc::clone(&self.slots).acquire_owned()).await;
        let permit = permit.ok()?.ok()?;
        Some(TransferSlot { buffers: self.clone(), permit: Arc::new(permit), left: BUFFERS_PER_TRANSFER })
    }

    /// Slots that nobody has.
    pub fn free_slots(&self) -> usize {
        self.slots.available_permits()
    }
}

impl TransferSlot {
    /// One of the transfer's buffers, empty; none when all are out.
    pub fn take(&mut self) -> Option<Buffer> {
        self.left = self.left.checked_sub(1)?;
        let free = self.buffers.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Some(Buffer { bytes, filled: 0, home: self.buffers.clone(), _permit: Arc::clone(&self.permit) })
    }
}

impl Buffer {
    /// Copies what fits; the number of bytes that did.
    pub fn fill(&mut self, from: &[u8]) -> usize {
        let count = from.len().min(self.bytes.len() - self.filled);
        self.bytes[self.filled..self.filled + count].copy_from_slice(&from[..count]);
        self.filled += count;
        count
    }

    /// What has been filled in.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.filled == self.bytes.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Fills it, replacing what was in it, by a reader that says how much it wrote.
    pub fn refill<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        self.filled = 0;
        self.filled = read(&mut self.bytes)?;
        Ok(self.filled)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_transfers_run_than_slots() {
        let buffers = Buffers::new(1);
        let mut slot = buffers.slot(Duration::ZERO).await.unwrap();
        assert!(buffers.slot(Duration::from_millis(1)).await.is_none());
        let buffer = slot.take().unwrap();
        slot.take().unwrap();
        assert!(slot.take().is_none());
        drop(slot);
        assert!(buffers.slot(Duration::from_millis(1)).await.is_none(), "a buffer is still on the way");
        drop(buffer);
        assert!(buffers.slot(Duration::from_millis(1)).await.is_some());
    }
}
