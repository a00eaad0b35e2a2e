//! A new system into the slot that does not run.
//!
//! Invariant: at any moment a power cut leaves what runs as it was, and the other slot either whole with its boot file, or
//! without one; nothing is changed for a bundle that is not signed, whole and wanted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use appliance::bundle::hex;
use appliance::limits::TRIES;
use appliance::{Entry, Manifest, Part, Slot, Tries, Version};
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use receipt::LogKey;
use sha2::{Digest as _, Sha256};

use super::esp::Esp;
use crate::console::{ProgressStyle, human_bytes, printable};
use crate::failure::Failure;
use crate::limits::UPDATE_PIECE_BYTES;
use crate::transfer::progress::Progress;

/// What runs.
pub(super) struct Running {
    pub(super) slot: Slot,
    pub(super) flavour: String,
    pub(super) version: Version,
    pub(super) root_hash: [u8; 32],
}

/// A bundle that was read once, and found right.
pub(super) struct Bundle {
    file: File,
    manifest: Manifest,
    /// Where the image begins in it.
    at: u64,
}

impl Bundle {
    /// Reads all of it; nothing is written.
    pub(super) fn open(path: &Path, key: &LogKey, style: ProgressStyle) -> Result<Bundle, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("{}: {error}", path.display()));
        let mut file = File::open(path)
            .map_err(|error| Failure::usage(format!("open the bundle {}: {error}", path.display())))?;
        let manifest = Manifest::read(&mut file, key).map_err(|error| {
            Failure::failed(format!("{}: {}", path.display(), printable(&error.to_string())))
        })?;
        let at = file.stream_position().map_err(failed)?;
        let whole = at + manifest.root.bytes + manifest.boot.bytes;
        let length = file.metadata().map_err(failed)?.len();
        if length != whole {
            return Err(Failure::failed(format!(
                "{}: it has {length} bytes and says it has {whole}: it was not copied whole, or has something behind it",
                path.display()
            )));
        }
        let mut progress = Progress::start("read the bundle".to_owned(), Some(whole - at), style);
        let mut done = 0;
        for (part, name) in [(manifest.root, "image"), (manifest.boot, "boot file")] {
            let mut hash = Sha256::new();
            pieces(&mut file, part.bytes, |piece| {
                hash.update(piece);
                done += piece.len() as u64;
                progress.set(done);
                Ok(())
            })
            .map_err(failed)?;
            same(part, hash, name)
                .map_err(|why| Failure::failed(format!("{}: {why}: it was damaged", path.display())))?;
        }
        progress.finish(done);
        Ok(Bundle { file, manifest, at })
    }

    /// Whether it is for this machine now.
    pub(super) fn check(
        &self,
        running: &Running,
        entries: &[Entry],
        allow_downgrade: bool,
    ) -> Result<(), Failure> {
        let Manifest { flavour, version, root_hash, .. } = &self.manifest;
        if *flavour != running.flavour {
            return Err(Failure::failed(format!(
                "the bundle is of flavour {flavour}, and this system is {}",
                printable(&running.flavour)
            )));
        }
        if *root_hash == running.root_hash {
            return Err(Failure::refused(format!(
                "{version} is what runs: the bundle has the same root hash"
            )));
        }
        if *version < running.version && !allow_downgrade {
            return Err(Failure::refused(format!(
                "the bundle is of version {version}, and {} runs: an older one may have faults that are known \
                 (`--allow-downgrade`)",
                running.version
            )));
        }
        match super::entry_of(running.slot, entries)? {
            Entry { tries: None, .. } => Ok(()),
            Entry { tries: Some(_), .. } => Err(Failure::refused(
                "what runs is not confirmed yet, and the other slot is the way back: wait until \
                 `culvert image status` says `confirmed`, or restart",
            )),
        }
    }

    /// Writes it; what will be started then.
    pub(super) fn install(
        mut self,
        slot: Slot,
        device: &Path,
        esp: &Esp,
        style: ProgressStyle,
    ) -> Result<Entry, Failure> {
        let Manifest { version, root, boot, .. } = self.manifest;
        let spare = Spare::open(device)?;
        if root.bytes > spare.bytes {
            return Err(Failure::failed(format!(
                "the image has {} and {} {}",
                human_bytes(root.bytes),
                slot.label(),
                human_bytes(spare.bytes)
            )));
        }
        let room = esp.room_without(slot)?;
        // A little for the directory's growth.
        if boot.bytes + (1 << 20) > room {
            return Err(Failure::failed(format!(
                "the boot file has {}, and the boot loader's partition room for {}",
                human_bytes(boot.bytes),
                human_bytes(room)
            )));
        }
        let generation = esp.entries()?.first().map_or(0, |entry| entry.generation) + 1;
        let entry = Entry { generation, slot, version, tries: Some(Tries { left: TRIES, done: 0 }) };

        esp.remove(slot)?;
        let read = |error: io::Error| Failure::failed(format!("read the bundle: {error}"));
        self.file.seek(SeekFrom::Start(self.at)).map_err(read)?;
        spare.write(&mut self.file, root, style)?;
        // The rest of the file is the boot file; it is compared while it is written, and the new name comes after that.
        let mut boot_file =
            vec![0; usize::try_from(boot.bytes).map_err(|_| Failure::failed("a boot file of that size"))?];
        self.file.read_exact(&mut boot_file).map_err(read)?;
        same(boot, Sha256::new_with_prefix(&boot_file), "boot file")
            .map_err(|why| Failure::failed(format!("{why}: the bundle was changed meanwhile")))?;
        esp.add(&entry, &mut boot_file.as_slice())?;
        Ok(entry)
    }
}

/// The slot that does not run.
struct Spare {
    path: PathBuf,
    device: File,
    bytes: u64,
}

impl Spare {
    fn open(path: &Path) -> Result<Spare, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("open {}: {error}", path.display()));
        // Exclusively: the kernel refuses a device that is in use.
        let mut device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_EXCL.bits())
            .open(path)
            .map_err(failed)?;
        let bytes = device.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Spare { path: path.to_path_buf(), device, bytes })
    }

    /// The first piece last: until then there is no image.
    fn write(&self, from: &mut impl Read, part: Part, style: ProgressStyle) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::failed(format!("write {}: {error}", self.path.display()));
        let mut progress = Progress::start("write the slot".to_owned(), Some(part.bytes), style);
        let (mut first, mut at) = (Vec::new(), 0);
        pieces(from, part.bytes, |piece| {
            if at == 0 {
                first = piece.to_vec();
                self.device.write_all_at(&vec![0; piece.len()], 0)?;
                self.device.sync_all()?;
            } else {
                self.device.write_all_at(piece, at)?;
            }
            at += piece.len() as u64;
            progress.set(at);
            Ok(())
        })
        .and_then(|()| self.device.sync_all())
        .and_then(|()| self.device.write_all_at(&first, 0))
        .and_then(|()| self.device.sync_all())
        .map_err(failed)?;
        progress.finish(at);
        self.read_back(part, style)
    }

    /// From the disk, and not from what the kernel remembers of it.
    fn read_back(&self, part: Part, style: ProgressStyle) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::failed(format!("read {}: {error}", self.path.display()));
        posix_fadvise(&self.device, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|error| failed(error.into()))?;
        let mut progress = Progress::start("read the slot".to_owned(), Some(part.bytes), style);
        let (mut hash, mut done) = (Sha256::new(), 0);
        let mut device = &self.device;
        device.seek(SeekFrom::Start(0)).map_err(failed)?;
        pieces(&mut device, part.bytes, |piece| {
            hash.update(piece);
            done += piece.len() as u64;
            progress.set(done);
            Ok(())
        })
        .map_err(failed)?;
        progress.finish(done);
        same(part, hash, "image").map_err(|why| {
            Failure::failed(format!(
                "{}: {why} after it was written: the disk, or the bundle, was changed",
                self.path.display()
            ))
        })
    }
}

/// Hands out `bytes` of `from` in pieces.
fn pieces(from: &mut impl Read, bytes: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; UPDATE_PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..length];
        from.read_exact(piece)?;
        take(piece)?;
        left -= length as u64;
    }
    Ok(())
}

fn same(part: Part, hash: Sha256, name: &str) -> Result<(), String> {
    let found: [u8; 32] = hash.finalize().into();
    if found == part.sha256 {
        return Ok(());
    }
    Err(format!("the {name} has SHA-256 {} and not {}", hex(&found), hex(&part.sha256)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use appliance::ENTRIES;
    use receipt::LogSigner;

    use super::*;
    use crate::failure::Exit;

    /// A machine of files: slot a runs, slot b is a file.
    struct Machine {
        place: tempfile::TempDir,
        esp: Esp,
    }

    const OLD: &str = "culvert-1-a-0.1.0-1.efi";
    const SLOT_BYTES: usize = 4 << 20;

    fn machine() -> Machine {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join(ENTRIES)).unwrap();
        fs::write(place.path().join(ENTRIES).join(OLD), "old kernel").unwrap();
        fs::write(place.path().join("b"), vec![0xee; SLOT_BYTES]).unwrap();
        let esp = Esp::at(place.path());
        Machine { place, esp }
    }

    fn signer() -> LogSigner {
        LogSigner::from_seed("example.org/culvert", &[7; 32]).unwrap()
    }

    fn image() -> Vec<u8> {
        (0..3 * UPDATE_PIECE_BYTES + 4096).map(|at| u8::try_from(at / 1000 % 255).unwrap() + 1).collect()
    }

    fn part(bytes: &[u8]) -> Part {
        Part { bytes: bytes.len() as u64, sha256: Sha256::digest(bytes).into() }
    }

    fn manifest() -> Manifest {
        Manifest {
            flavour: "sealed".into(),
            version: "0.1.0-2".parse().unwrap(),
            root_hash: [2; 32],
            root: part(&image()),
            boot: part(b"new kernel"),
        }
    }

    impl Machine {
        fn bundle(&self, manifest: &Manifest, image: &[u8]) -> PathBuf {
            let path = self.place.path().join("bundle");
            let head = manifest.sign(&signer()).unwrap();
            fs::write(&path, [head.as_bytes(), image, b"new kernel"].concat()).unwrap();
            path
        }

        fn open(&self, manifest: &Manifest, image: &[u8]) -> Result<Bundle, Failure> {
            Bundle::open(&self.bundle(manifest, image), &signer().log_key(), ProgressStyle::None)
        }

        fn slot(&self) -> PathBuf {
            self.place.path().join("b")
        }

        fn names(&self) -> Vec<String> {
            self.esp.entries().unwrap().iter().map(Entry::to_string).collect()
        }

        fn install(&self, bundle: Bundle) -> Result<Entry, Failure> {
            bundle.install(Slot::B, &self.slot(), &self.esp, ProgressStyle::None)
        }
    }

    fn running() -> Running {
        Running {
            slot: Slot::A,
            flavour: "sealed".into(),
            version: "0.1.0-1".parse().unwrap(),
            root_hash: [1; 32],
        }
    }

    #[test]
    fn an_update_is_in_the_other_slot_and_has_three_tries() {
        let machine = machine();
        let bundle = machine.open(&manifest(), &image()).unwrap();
        bundle.check(&running(), &machine.esp.entries().unwrap(), false).unwrap();
        let entry = machine.install(bundle).unwrap();
        assert_eq!(entry.to_string(), "culvert-2-b-0.1.0-2+3.efi");
        assert_eq!(machine.names(), ["culvert-2-b-0.1.0-2+3.efi", OLD]);
        assert_eq!(fs::read(machine.esp.path(&entry)).unwrap(), b"new kernel");
        let slot = fs::read(machine.slot()).unwrap();
        assert!(slot[..image().len()] == image() && slot[image().len()..].iter().all(|byte| *byte == 0xee));
        // And once more, over what is there now.
        let again = Manifest { version: "0.1.0-3".parse().unwrap(), ..manifest() };
        machine.install(machine.open(&again, &image()).unwrap()).unwrap();
        assert_eq!(machine.names(), ["culvert-3-b-0.1.0-3+3.efi", OLD]);
    }

    #[test]
    fn a_bundle_that_is_damaged_or_of_somebody_else_changes_nothing() {
        let machine = machine();
        let mut bad = image();
        bad[UPDATE_PIECE_BYTES] ^= 1;
        assert!(machine.open(&manifest(), &bad).is_err());
        assert!(machine.open(&manifest(), &image()[..4096]).is_err(), "cut off");
        let path = machine.bundle(&manifest(), &image());
        let other = LogSigner::from_seed("example.org/culvert", &[8; 32]).unwrap().log_key();
        let Err(error) = Bundle::open(&path, &other, ProgressStyle::None) else { panic!("it was taken") };
        assert!(error.message().contains("not signed"), "{}", error.message());
        let longer = [fs::read(&path).unwrap(), vec![0]].concat();
        fs::write(&path, longer).unwrap();
        assert!(
            Bundle::open(&path, &signer().log_key(), ProgressStyle::None).is_err(),
            "something behind it"
        );
        assert_eq!(machine.names(), [OLD]);
        assert_eq!(fs::read(machine.slot()).unwrap(), vec![0xee; SLOT_BYTES]);
    }

    #[test]
    fn what_is_not_for_this_machine_now_is_refused() {
        let machine = machine();
        let check = |manifest: Manifest, running: Running, entries: &[&str], downgrade| {
            let entries: Vec<Entry> = entries.iter().map(|name| name.parse().unwrap()).collect();
            let bundle = machine.open(&manifest, &image()).unwrap();
            bundle.check(&running, &entries, downgrade).map_err(|error| error.exit())
        };
        let newer = || Running { version: "0.1.1-1".parse().unwrap(), ..running() };
        assert_eq!(check(manifest(), running(), &[OLD], false), Ok(()));
        assert_eq!(check(manifest(), newer(), &[OLD], false), Err(Exit::Refused));
        assert_eq!(check(manifest(), newer(), &[OLD], true), Ok(()));
        let same = Manifest { root_hash: [1; 32], ..manifest() };
        assert_eq!(check(same, running(), &[OLD], true), Err(Exit::Refused));
        let other = Manifest { flavour: "managed".into(), ..manifest() };
        assert_eq!(check(other, running(), &[OLD], true), Err(Exit::Failed));
        let unconfirmed = "culvert-2-a-0.1.0-1+2-1.efi";
        assert_eq!(
            check(manifest(), running(), &[unconfirmed, "culvert-1-b-0.1.0-1.efi"], false),
            Err(Exit::Refused)
        );
        assert_eq!(check(manifest(), running(), &["culvert-1-b-0.1.0-1.efi"], false), Err(Exit::CannotTell));
    }

    #[test]
    fn an_image_that_does_not_fit_leaves_the_other_system_as_it_was() {
        let machine = machine();
        machine.install(machine.open(&manifest(), &image()).unwrap()).unwrap();
        fs::write(machine.slot(), vec![0; 4096]).unwrap();
        let error = machine.install(machine.open(&manifest(), &image()).unwrap()).unwrap_err();
        assert!(error.message().contains("culvert-b"), "{}", error.message());
        assert_eq!(machine.names(), ["culvert-2-b-0.1.0-2+3.efi", OLD]);
    }

    /// What a power cut leaves: the boot file is gone before the first byte is written.
    #[test]
    fn a_bundle_that_changes_meanwhile_leaves_no_boot_file() {
        let machine = machine();
        machine.install(machine.open(&manifest(), &image()).unwrap()).unwrap();
        let bundle = machine.open(&manifest(), &image()).unwrap();
        let mut other = fs::read(machine.place.path().join("bundle")).unwrap();
        let at = other.len() - 100;
        other[at] ^= 1;
        let file = OpenOptions::new().write(true).open(machine.place.path().join("bundle")).unwrap();
        file.write_all_at(&other, 0).unwrap();
        let error = machine.install(bundle).unwrap_err();
        assert!(error.message().contains("after it was written"), "{}", error.message());
        assert_eq!(machine.names(), [OLD], "nothing starts what is half there");
    }
}
