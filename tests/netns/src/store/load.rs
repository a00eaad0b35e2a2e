//! Writers that upload without pause and remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::{Store, receipt};
use crate::payload::sha256;
use crate::wait;

/// What an upload sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// Its length.
    pub size: u64,
    /// The seed of its bytes: [`content`].
    pub seed: u64,
}

/// What the writers know, by path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Told {
    /// Acknowledged, with the file's id.
    pub acknowledged: BTreeMap<String, (String, Sent)>,
    /// Sent in full or in part, and never answered.
    pub unanswered: BTreeMap<String, Sent>,
    /// Refused with a status.
    pub refused: BTreeMap<String, (u16, String, Sent)>,
    /// Whose bytes were looked at since their last crash.
    pub looked_at: BTreeSet<String>,
}

impl Told {
    /// Takes in what another load was told.
    pub fn extend(&mut self, new: Told) {
        self.acknowledged.extend(new.acknowledged);
        self.unanswered.extend(new.unanswered);
        self.refused.extend(new.refused);
    }
}

/// Running writers.
#[derive(Debug)]
pub struct Load {
    writers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
}

/// A source of numbers that a seed repeats.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// The bytes of a seed.
pub fn content(seed: u64, size: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let words = std::iter::repeat_with(|| numbers.below(u64::MAX).to_le_bytes());
    words.flatten().take(usize::try_from(size).unwrap_or(usize::MAX)).collect()
}

impl Load {
    /// Starts `writers`; each ends when storaged does. `label` begins every path.
    pub fn start(store: &Arc<Store>, writers: u64, label: &str, seed: u64) -> Load {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
        let writers = (0..writers)
            .map(|writer| {
                let (store, stop, told) = (Arc::clone(store), Arc::clone(&stop), Arc::clone(&told));
                let uploads = Uploads::new(label, seed, writer);
                std::thread::spawn(move || write(&store, uploads, &stop, &told))
            })
            .collect();
        Load { writers, stop, told }
    }

    /// How many uploads were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.told).acknowledged.len()
    }

    /// What the writers know so far.
    pub fn so_far(&self) -> Told {
        lock(&self.told).clone()
    }

    /// Ends the writers, and says what they know.
    pub fn finish(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            // A writer that panicked knows nothing; what it had remembered counts.
            let _ = writer.join();
        }
        lock(&self.told).clone()
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one writer sends, one after the other: the same for the same seed, whatever it is answered.
#[derive(Debug)]
pub struct Uploads {
    label: String,
    numbers: Numbers,
    next: u64,
}

impl Uploads {
    /// The uploads of a writer of a load.
    pub fn new(label: &str, seed: u64, writer: u64) -> Uploads {
        let numbers = Numbers::new(seed.wrapping_mul(64).wrapping_add(writer));
        Uploads { label: format!("{label}/w{writer}"), numbers, next: 0 }
    }
}

impl Iterator for Uploads {
    type Item = (String, Sent, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let path = format!("{}/{}", self.label, self.next);
        self.next += 1;
        // Empty, small, of a few buffers, and some that take a while.
        let size = match self.numbers.below(10) {
            0 => 0,
            1..=6 => self.numbers.below(64 << 10),
            7 | 8 => self.numbers.below(700 << 10),
            _ => self.numbers.below(4 << 20),
        };
        let seed = self.numbers.below(u64::MAX);
        let bytes = content(seed, size);
        let sent = Sent { sha256: sha256(&bytes), size, seed };
        Some((path, sent, bytes))
    }
}

fn write(store: &Store, uploads: Uploads, stop: &AtomicBool, told: &Mutex<Told>) {
    let Ok(mut client) = store.connect() else { return };
    for (path, sent, bytes) in uploads {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        lock(told).unanswered.insert(path.clone(), sent.clone());
        let Ok(answer) = client.put(&path, &bytes) else { return };
        let mut told = lock(told);
        told.unanswered.remove(&path);
        match (answer.status, receipt(&answer)) {
            (201, Ok(receipt)) if receipt.sha256 == sent.sha256 && receipt.size == sent.size => {
                told.acknowledged.insert(path, (receipt.file_id, sent));
            }
            (status, _) => {
                let text = answer.text();
                told.refused.insert(path, (status, text, sent));
                drop(told);
                // Whoever was refused comes again on a connection that was not closed for it.
                std::thread::sleep(std::time::Duration::from_millis(5));
                match store.connect() {
                    Ok(next) => client = next,
                    Err(_) => return,
                }
            }
        }
    }
}

/// Waits until that many uploads were acknowledged.
pub fn until_acknowledged(load: &Load, count: usize, bound: std::time::Duration) -> anyhow::Result<()> {
    wait::until_true("uploads to be acknowledged", bound, || load.acknowledged() >= count)
}
