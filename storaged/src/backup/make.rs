//! Making a backup of a running store.
//!
//! **Invariant:** the writer of the ledger waits only while two read transactions begin; what they show does not change
//! afterwards, however long the copying takes. The memory that it takes does not grow with the store.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};
use vault::age::Recipient;
use vault::age::stream;
use zeroize::Zeroizing;

use super::Part;
use super::pieces::{Head, PieceWriter};
use crate::keys::{Keys, KeysError};
use crate::ledger::{CorruptError, Ledger, tables};

/// A file that goes into the backup as it was handed in.
pub type Handed = (Part, Zeroizing<Vec<u8>>);

/// What was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// What it says about itself.
    pub head: Head,
    /// The bytes of the encrypted file.
    pub bytes: u64,
    /// SHA-256 over them.
    pub sha256: ContentDigest,
}

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The file cannot be written.
    #[error("write the backup: {0}")]
    Write(#[from] io::Error),
    /// The ledger cannot be read.
    #[error("read the ledger: {0}")]
    Ledger(#[from] CorruptError),
    /// The keys cannot be read.
    #[error("read the keys: {0}")]
    Keys(#[from] KeysError),
    /// No random bytes.
    #[error("draw the backup's id: {0}")]
    Random(#[from] getrandom::Error),
}

/// Copies a store into `to`, durably. To be called where waiting is allowed; `written` counts along.
pub fn make(
    ledger: &Ledger,
    keys: &Keys,
    handed: &[Handed],
    recipients: &[Recipient],
    now_ms: u64,
    to: File,
    written: &AtomicU64,
) -> Result<Made, MakeError> {
    let standing = keys.stand_still();
    let (snapshot, exported) =
        ledger.reader().between_groups(|| (ledger.reader().whole_snapshot(), keys.export(&standing)));
    let (snapshot, exported) = (snapshot?, exported?);
    let checkpoint = snapshot.checkpoint()?;
    let head = Head {
        backup_id: tables::random_id()?,
        checkpoint: checkpoint.as_str().to_owned(),
        group: snapshot.group()?,
        keys_epoch: exported.epoch,
        log_key: ledger.log_key().to_string(),
        made_ms: now_ms,
        made_by: format!("storaged {}", env!("CARGO_PKG_VERSION")),
        records: checkpoint.unverified().size,
        store_id: keys.store().0,
    };
    let counted = Counted { file: to, hash: Sha256::new(), bytes: 0, written };
    let mut writer = PieceWriter::new(stream::Writer::new(recipients, counted)?, &head)?;
    for &part in Part::ALL {
        match part {
            Part::Config | Part::InternalKey | Part::NextInternalKey | Part::RecoveryFile => {
                if let Some((_, bytes)) = handed.iter().find(|(of, _)| *of == part) {
                    writer.file(part, bytes)?;
                }
            }
            Part::EpochKey => writer.file(part, &exported.epoch_file)?,
            Part::KeysMeta | Part::StoreKeys | Part::Keks | Part::FileKeys => {
                writer.begin(part)?;
                exported.rows(part, &mut |key, value| writer.row(key, value).map_err(MakeError::from))?;
            }
            Part::Records
            | Part::Tiles
            | Part::ByFile
            | Part::State
            | Part::Unmirrored
            | Part::LedgerMeta => {
                writer.begin(part)?;
                snapshot.rows_of(part, &mut |key, value| writer.row(key, value).map_err(MakeError::from))?;
            }
        }
    }
    let (sealed, _manifest) = writer.finish()?;
    let Counted { file, hash, bytes, .. } = sealed.finish()?;
    file.sync_all()?;
    Ok(Made { head, bytes, sha256: ContentDigest::from_bytes(hash.finalize().into()) })
}

/// A file that counts and hashes what goes into it.
struct Counted<'a> {
    file: File,
    hash: Sha256,
    bytes: u64,
    written: &'a AtomicU64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        self.hash.update(&bytes[..length]);
        self.bytes += length as u64;
        self.written.store(self.bytes, Ordering::Relaxed);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The name of a backup's file: whose and when, so that names sort by time.
pub fn file_name(store: FileId, made_ms: u64) -> String {
    let store = store.to_string();
    let time: String =
        tables::rfc3339(made_ms).chars().filter(|c| c.is_ascii_alphanumeric()).take(15).collect();
    format!("culvert-{}-{time}Z.backup.age", &store[..8.min(store.len())])
}
