//! The buffers of all transfers.
//!
//! **Invariant:** at most `transfers × BUFFERS_PER_TRANSFER` buffers exist, whatever arrives. A transfer
//! takes all of its buffers at once, so no two transfers can wait for each other's. Nobody has more than a share of
//! the slots, so that one who trickles cannot hold them all.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use store_proto::UserName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vault::stream::{HEADER_BYTES, SEGMENT_OVERHEAD_BYTES};

use crate::limits::{BUFFER_BYTES, BUFFERS_PER_TRANSFER};

/// The common stock.
#[derive(Debug, Clone)]
pub struct Buffers {
    slots: Arc<Semaphore>,
    /// What is left of the share of each user who has a slot, or waits for one.
    shares: Arc<Mutex<HashMap<UserName, Arc<Semaphore>>>>,
    /// How many slots one user may have.
    share: usize,
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// The right to run one transfer, and its buffers; clones share them.
#[derive(Debug, Clone)]
pub struct TransferSlot {
    buffers: Buffers,
    permit: Arc<Place>,
    own: Arc<Semaphore>,
}

/// A slot, out of a user's share.
#[derive(Debug)]
struct Place {
    /// Given back before the entry of the share is looked at.
    slot: Option<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit)>,
    /// Whose share; none: the store's own.
    user: Option<UserName>,
    home: Buffers,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slot = None;
        if let Some(user) = &self.user {
            self.home.forget(user);
        }
    }
}

/// One buffer, of one sealed segment; goes back to the stock when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    /// Where the plain bytes begin: behind the header, in the first segment of a stream.
    start: usize,
    /// Where they end.
    end: usize,
    home: Buffers,
    /// Gives the transfer its buffer back.
    _own: OwnedSemaphorePermit,
    /// The transfer is not over while one of its buffers is on the way.
    _slot: Arc<Place>,
}

impl Buffers {
    /// A stock for so many transfers at once. Buffers are made when first needed.
    pub fn new(transfers: usize) -> Buffers {
        Buffers {
            slots: Arc::new(Semaphore::new(transfers)),
            shares: Arc::default(),
            share: share_of(transfers),
            free: Arc::default(),
        }
    }

    /// Waits at most `patience` for a slot, first among the user's own transfers and then among all.
    pub async fn slot(&self, user: &UserName, patience: Duration) -> Option<TransferSlot> {
        let share = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(shares.entry(user.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.share))))
        };
        let mut place = Place { slot: None, user: Some(user.clone()), home: self.clone() };
        let waiting = async {
            let mine = share.acquire_owned().await.ok()?;
            Some((Some(mine), Arc::clone(&self.slots).acquire_owned().await.ok()?))
        };
        // Whoever waits in vain drops the place, which forgets the share if it was the last to want it.
        place.slot = Some(tokio::time::timeout(patience, waiting).await.ok()??);
        let own = Arc::new(Semaphore::new(BUFFERS_PER_TRANSFER));
        Some(TransferSlot { buffers: self.clone(), permit: Arc::new(place), own })
    }

    /// Waits at most `patience` for a slot, for what the store writes itself.
    pub async fn own_slot(&self, patience: Duration) -> Option<TransferSlot> {
        let slot =
            tokio::time::timeout(patience, Arc::clone(&self.slots).acquire_owned()).await.ok()?.ok()?;
        let place = Place { slot: Some((None, slot)), user: None, home: self.clone() };
        let own = Arc::new(Semaphore::new(BUFFERS_PER_TRANSFER));
        Some(TransferSlot { buffers: self.clone(), permit: Arc::new(place), own })
    }

    /// Forgets a share that nobody has a part of: the table is as long as there are users with transfers.
    fn forget(&self, user: &UserName) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let is_whole =
            |share: &Arc<Semaphore>| Arc::strong_count(share) == 1 && share.available_permits() == self.share;
        if shares.get(user).is_some_and(is_whole) {
            shares.remove(user);
        }
    }

    /// Slots that nobody has.
    pub fn free_slots(&self) -> usize {
        self.slots.available_permits()
    }
}

/// Three quarters: whoever is alone is hardly slower, and whoever comes finds the rest free.
fn share_of(transfers: usize) -> usize {
    (transfers - transfers / 4).max(1)
}

impl TransferSlot {
    /// One of the transfer's buffers, empty; waits while all are out.
    pub async fn take(&self) -> Buffer {
        let own = Arc::clone(&self.own).acquire_owned().await.expect("the semaphore is never closed");
        let free = self.buffers.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        let home = self.buffers.clone();
        Buffer { bytes, start: 0, end: 0, home, _own: own, _slot: Arc::clone(&self.permit) }
    }
}

impl Buffer {
    /// Empties it, for the first segment of a stream.
    pub fn begin_stream(&mut self) {
        (self.start, self.end) = (HEADER_BYTES, HEADER_BYTES);
    }

    /// Empties it, for another segment of a stream.
    pub fn continue_stream(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Copies what fits; the number of bytes that did.
    pub fn fill(&mut self, from: &[u8]) -> usize {
        let count = from.len().min(self.bytes.len() - SEGMENT_OVERHEAD_BYTES - self.end);
        self.bytes[self.end..self.end + count].copy_from_slice(&from[..count]);
        self.end += count;
        count
    }

    /// The plain bytes.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether nothing more fits, but for the tag.
    pub fn is_full(&self) -> bool {
        self.end + SEGMENT_OVERHEAD_BYTES == self.bytes.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Empties it.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// The plain bytes and room for the tag.
    pub fn sealing(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end + SEGMENT_OVERHEAD_BYTES]
    }

    /// The sealed segment.
    pub fn sealed(&self) -> &[u8] {
        &self.bytes[self.start..self.end + SEGMENT_OVERHEAD_BYTES]
    }

    /// The sealed first segment behind the stream's header.
    pub fn sealed_with_header(&mut self, header: &[u8; HEADER_BYTES]) -> &[u8] {
        self.bytes[..HEADER_BYTES].copy_from_slice(header);
        &self.bytes[..self.end + SEGMENT_OVERHEAD_BYTES]
    }

    /// A whole stream of one segment, after [`sealed_with_header`](Self::sealed_with_header).
    pub fn stream(&self) -> &[u8] {
        &self.bytes[..self.end + SEGMENT_OVERHEAD_BYTES]
    }

    /// Replaces what is in it by a segment: `read` fills exactly `sealed` bytes, opens them in place, and says
    /// which of them are plain and wanted. An error leaves it empty.
    pub fn refill<E>(
        &mut self,
        sealed: usize,
        read: impl FnOnce(&mut [u8]) -> Result<Range<usize>, E>,
    ) -> Result<(), E> {
        self.clear();
        let plain = read(&mut self.bytes[..sealed])?;
        (self.start, self.end) = (plain.start, plain.end);
        Ok(())
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

    fn user(name: &str) -> UserName {
        UserName::parse(name).unwrap()
    }

    #[tokio::test]
    async fn nobody_has_all_slots_and_a_share_is_forgotten_with_its_last_transfer() {
        let (buffers, at_once) = (Buffers::new(4), Duration::from_millis(5));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(buffers.slot(&user("ada"), at_once).await.unwrap());
        }
        assert!(buffers.slot(&user("ada"), at_once).await.is_none(), "ada has her share");
        let bob = buffers.slot(&user("bob"), at_once).await.unwrap();
        assert!(buffers.slot(&user("eve"), at_once).await.is_none(), "and now none is free");
        drop(held.pop());
        assert!(buffers.slot(&user("ada"), at_once).await.is_some());
        drop((held, bob));
        assert_eq!(buffers.shares.lock().unwrap().len(), 0);
        assert_eq!(buffers.free_slots(), 4);
    }

    #[tokio::test]
    async fn no_more_transfers_run_than_slots() {
        let buffers = Buffers::new(1);
        let slot = buffers.slot(&user("ada"), Duration::from_secs(1)).await.unwrap();
        assert!(buffers.slot(&user("ada"), Duration::from_millis(1)).await.is_none());
        let buffer = slot.take().await;
        drop(slot);
        assert!(
            buffers.slot(&user("ada"), Duration::from_millis(1)).await.is_none(),
            "a buffer is still on the way"
        );
        drop(buffer);
        assert!(buffers.slot(&user("ada"), Duration::from_millis(1)).await.is_some());
    }

    #[tokio::test]
    async fn a_transfer_waits_for_its_own_buffers() {
        let buffers = Buffers::new(2);
        let slot = buffers.slot(&user("ada"), Duration::from_secs(1)).await.unwrap();
        let first = slot.take().await;
        let _second = slot.take().await;
        let mut third = Box::pin(slot.take());
        assert!(tokio::time::timeout(Duration::from_millis(5), &mut third).await.is_err());
        drop(first);
        assert!(third.await.is_empty());
    }
}
