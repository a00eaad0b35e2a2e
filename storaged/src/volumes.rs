//! The volumes of a running store: which can be used, and where a new object goes.
//!
//! **Invariant:** no upload is begun that does not fit beside those that run and the reserve; the volume's own
//! threads touch it, so one that hangs holds up itself and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use store_proto::FileId;
use tokio::sync::Semaphore;

use crate::objects::{Backend, Pool, Space};

/// A volume and whether it can be used.
#[derive(Debug)]
pub struct VolumeState {
    /// The name in the configuration.
    pub name: String,
    /// The volume.
    pub backend: Arc<dyn Backend>,
    /// The threads that touch it.
    pub pool: Pool,
    /// Bytes that uploads leave free; none: [`default_reserve`].
    reserve_bytes: Option<u64>,
    available_bytes: AtomicU64,
    size_bytes: AtomicU64,
    /// What running uploads may still write.
    promised_bytes: AtomicU64,
    usable: AtomicBool,
    /// A look that has not come back holds one thread; another would only hold one more.
    looking: Arc<Semaphore>,
}

/// Why there is no place for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// No volume can be used.
    #[error("no volume can be used")]
    Unusable,
    /// None has room beside its reserve.
    #[error("no volume has room")]
    Full,
}

/// A sixteenth of the file system, 1 GiB at most: for the ledger's mirror on the first volume, and for what is
/// measured only every few seconds.
pub fn default_reserve(size_bytes: u64) -> u64 {
    (size_bytes / 16).min(1 << 30)
}

impl VolumeState {
    /// A volume that was just opened, so it is usable.
    pub fn new(
        name: String,
        backend: Arc<dyn Backend>,
        pool: Pool,
        reserve_bytes: Option<u64>,
    ) -> VolumeState {
        let state = VolumeState {
            name,
            pool,
            reserve_bytes,
            available_bytes: AtomicU64::new(0),
            size_bytes: AtomicU64::new(0),
            promised_bytes: AtomicU64::new(0),
            usable: AtomicBool::new(true),
            looking: Arc::new(Semaphore::new(1)),
            backend,
        };
        if let Ok(space) = state.backend.space() {
            state.seen(space);
        }
        state
    }

    /// Whether the last look found it in order.
    pub fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// Notes what a look found, and says whether it could be used before.
    pub fn set_usable(&self, usable: bool) -> bool {
        self.usable.swap(usable, Ordering::Relaxed)
    }

    /// The right to look at it: one at a time.
    pub fn looking(&self) -> &Arc<Semaphore> {
        &self.looking
    }

    /// Notes its room.
    pub fn seen(&self, space: Space) {
        self.available_bytes.store(space.available_bytes, Ordering::Relaxed);
        self.size_bytes.store(space.size_bytes, Ordering::Relaxed);
    }

    /// The room that the last look found.
    pub fn space(&self) -> Space {
        Space {
            available_bytes: self.available_bytes.load(Ordering::Relaxed),
            size_bytes: self.size_bytes.load(Ordering::Relaxed),
        }
    }

    /// Bytes that uploads leave free.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes.unwrap_or_else(|| default_reserve(self.size_bytes.load(Ordering::Relaxed)))
    }

    /// Bytes that another upload may write.
    pub fn room_bytes(&self) -> u64 {
        let taken = self.reserve_bytes().saturating_add(self.promised_bytes.load(Ordering::Relaxed));
        self.available_bytes.load(Ordering::Relaxed).saturating_sub(taken)
    }
}

/// Room on a volume that an upload holds until it has written it, or ends.
#[derive(Debug)]
pub struct Promise {
    volume: Arc<VolumeState>,
    left: u64,
}

impl Promise {
    /// On which volume.
    pub fn volume(&self) -> &Arc<VolumeState> {
        &self.volume
    }

    /// So much of it is written: the next look at the volume sees it.
    pub fn spend(&mut self, bytes: u64) {
        let spent = bytes.min(self.left);
        self.left -= spent;
        self.volume.promised_bytes.fetch_sub(spent, Ordering::Relaxed);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.volume.promised_bytes.fetch_sub(self.left, Ordering::Relaxed);
    }
}

/// The volume with the most room of those that can be used and have enough. The length may be unknown.
pub fn place(volumes: &[Arc<VolumeState>], bytes: Option<u64>) -> Result<Promise, NoPlace> {
    let mut usable = volumes.iter().filter(|volume| volume.is_usable()).peekable();
    if usable.peek().is_none() {
        return Err(NoPlace::Unusable);
    }
    let wanted = bytes.unwrap_or(1);
    let found = usable
        .map(|volume| (volume.room_bytes(), volume))
        .filter(|(room, _)| *room >= wanted)
        .max_by_key(|(room, _)| *room);
    let (_, volume) = found.ok_or(NoPlace::Full)?;
    volume.promised_bytes.fetch_add(wanted, Ordering::Relaxed);
    Ok(Promise { volume: Arc::clone(volume), left: wanted })
}

/// The volume with this id.
pub fn find(volumes: &[Arc<VolumeState>], id: FileId) -> Option<&Arc<VolumeState>> {
    volumes.iter().find(|volume| volume.backend.id() == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::StoreId;
    use crate::objects::NasVolume;

    #[test]
    fn an_object_goes_where_most_room_is() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = [volume(&folder, "a", 1000), volume(&folder, "b", 2000)];
        let volumes = [a, b];
        let first = place(&volumes, Some(1500)).unwrap();
        assert_eq!(first.volume().name, "b");
        // What is promised counts as used, until it is written or given back.
        let mut second = place(&volumes, Some(600)).unwrap();
        assert_eq!(second.volume().name, "a");
        assert_eq!(place(&volumes, Some(600)).unwrap_err(), NoPlace::Full);
        second.spend(200);
        assert_eq!(volumes[0].room_bytes(), 600);
        drop(second);
        assert_eq!(volumes[0].room_bytes(), 1000);
        drop(first);
        volumes[1].set_usable(false);
        assert_eq!(place(&volumes, Some(1)).unwrap().volume().name, "a");
        assert_eq!(place(&volumes, Some(1500)).unwrap_err(), NoPlace::Full);
        volumes[0].set_usable(false);
        assert_eq!(place(&volumes, None).unwrap_err(), NoPlace::Unusable);
    }

    #[test]
    fn the_reserve_stays_free() {
        let folder = tempfile::tempdir().unwrap();
        let state = volume(&folder, "a", 0);
        state.seen(Space { available_bytes: 200, size_bytes: 1600 });
        assert_eq!(state.room_bytes(), 200, "an explicit reserve of nothing");
        assert_eq!((default_reserve(1600), default_reserve(u64::MAX)), (100, 1 << 30));
    }

    fn volume(folder: &tempfile::TempDir, name: &str, available: u64) -> Arc<VolumeState> {
        let store = StoreId(FileId::from_bytes([1; 16]));
        let path = folder.path().join(name);
        NasVolume::create(name, &path, store, FileId::from_bytes([2; 16])).unwrap();
        let backend = Arc::new(NasVolume::open(name, &path, store).unwrap());
        let state = VolumeState::new(name.into(), backend, Pool::start(1).unwrap(), Some(0));
        state.seen(Space { available_bytes: available, size_bytes: available });
        Arc::new(state)
    }
}
