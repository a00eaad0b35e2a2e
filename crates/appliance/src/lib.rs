//! What the build of an appliance and the appliance agree on: partitions, the names of boot files, versions, update bundles.
//!
//! **Invariant:** each thing has one spelling, and what is read from a disk or a file has passed its limits; nothing here opens
//! a file or reads a clock.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod entry;
pub mod limits;
pub mod version;

pub use bundle::{BundleError, Manifest, Part};
pub use entry::{Entry, Tries};
pub use version::Version;

/// The partition that the firmware reads: boot loader and kernels.
pub const ESP_LABEL: &str = "culvert-esp";
/// The partition for configuration, keys and files.
pub const DATA_LABEL: &str = "culvert-data";
/// On the firmware's partition: where the boot loader looks for kernels.
pub const ENTRIES: &str = "EFI/Linux";

/// A partition that holds a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The one that a new disk has a system in.
    A,
    /// The other.
    B,
}

impl Slot {
    /// Both.
    pub const BOTH: [Slot; 2] = [Slot::A, Slot::B];

    /// As it is in the names of boot files.
    pub const fn letter(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    /// Its partition's name.
    pub const fn label(self) -> &'static str {
        match self {
            Slot::A => "culvert-a",
            Slot::B => "culvert-b",
        }
    }

    /// The other one.
    pub const fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// The slot in the partition of this name.
    pub fn of_label(label: &str) -> Option<Slot> {
        Slot::BOTH.into_iter().find(|slot| slot.label() == label)
    }
}
