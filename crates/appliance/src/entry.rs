//! The name of a system's boot file, by which the boot loader chooses and counts.
//!
//! ```text
//! culvert-7-b-0.1.0-2+3.efi        the newest, never started
//! culvert-7-b-0.1.0-2+2-1.efi      started once, two tries left
//! culvert-7-b-0.1.0-2.efi          confirmed
//! culvert-7-b-0.1.0-2+0-3.efi      given up: the last that would be started
//! ```
//!
//! The number in front counts installations, whatever version: the boot loader starts the highest that is not given up.

use std::fmt;
use std::str::FromStr;

use crate::limits::TRIES_AT_MOST;
use crate::version::number;
use crate::{Slot, Version};

/// One system that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Which installation on this disk it was.
    pub generation: u32,
    /// Where its image is.
    pub slot: Slot,
    /// What it is.
    pub version: Version,
    /// How often it may still be started; none once it was confirmed.
    pub tries: Option<Tries>,
}

/// The boot loader's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tries {
    /// How often it may be started yet.
    pub left: u8,
    /// How often it was.
    pub done: u8,
}

/// A file's name that is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name of a boot file is culvert-NUMBER-SLOT-VERSION[+LEFT[-DONE]].efi")]
pub struct EntryError;

impl Entry {
    /// Whether the boot loader has given it up.
    pub fn is_given_up(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "culvert-{}-{}-{}", self.generation, self.slot.letter(), self.version)?;
        match self.tries {
            None => {}
            Some(Tries { left, done: 0 }) => write!(f, "+{left}")?,
            Some(Tries { left, done }) => write!(f, "+{left}-{done}")?,
        }
        f.write_str(".efi")
    }
}

impl FromStr for Entry {
    type Err = EntryError;
    fn from_str(name: &str) -> Result<Entry, EntryError> {
        let stem =
            name.strip_prefix("culvert-").and_then(|rest| rest.strip_suffix(".efi")).ok_or(EntryError)?;
        let (stem, tries) = match stem.split_once('+') {
            None => (stem, None),
            Some((stem, count)) => (stem, Some(tries(count).ok_or(EntryError)?)),
        };
        let mut parts = stem.splitn(3, '-');
        let mut next = || parts.next().ok_or(EntryError);
        let generation = number(next()?).ok_or(EntryError)?;
        let letter = next()?;
        let slot = Slot::BOTH.into_iter().find(|slot| slot.letter() == letter).ok_or(EntryError)?;
        let version = next()?.parse().map_err(|_| EntryError)?;
        Ok(Entry { generation, slot, version, tries })
    }
}

fn tries(count: &str) -> Option<Tries> {
    let small =
        |text: &str| number(text).and_then(|it| u8::try_from(it).ok()).filter(|it| *it <= TRIES_AT_MOST);
    match count.split_once('-') {
        None => Some(Tries { left: small(count)?, done: 0 }),
        // Without a start there is no second number: one spelling.
        Some((left, done)) => Some(Tries { left: small(left)?, done: small(done).filter(|done| *done > 0)? }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_those_that_the_boot_loader_makes() {
        let entry: Entry = "culvert-7-b-0.1.0-2+2-1.efi".parse().unwrap();
        assert_eq!(entry.tries, Some(Tries { left: 2, done: 1 }));
        assert_eq!(
            (entry.generation, entry.slot, entry.version.to_string().as_str()),
            (7, Slot::B, "0.1.0-2")
        );
        assert!(!entry.is_given_up());
        assert!("culvert-7-b-0.1.0-2+0-3.efi".parse::<Entry>().unwrap().is_given_up());
        assert!(!"culvert-7-b-0.1.0-2.efi".parse::<Entry>().unwrap().is_given_up());
    }

    #[test]
    fn other_names_are_not_ours() {
        for bad in [
            "culvert.efi",
            "culvert-1-c-0.1.0-1.efi",
            "culvert-01-a-0.1.0-1.efi",
            "culvert-1-a-0.1.0-1+.efi",
            "culvert-1-a-0.1.0-1+3-0.efi",
            "culvert-1-a-0.1.0-1+100.efi",
            "culvert-1-a-0.1.0-1+3-1-1.efi",
            "culvert-1-a-0.1.0-1.EFI",
            "culvert-1-a-0.1.0-1.efi.new",
            "../culvert-1-a-0.1.0-1.efi",
        ] {
            assert_eq!(bad.parse::<Entry>(), Err(EntryError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_taken_is_written_the_same(name in "culvert-[0-9]{1,3}-[abc]-[0-9]\\.[0-9]\\.[0-9]-[0-9](\\+[0-9]{1,2}(-[0-9]{1,2})?)?\\.efi") {
            if let Ok(entry) = name.parse::<Entry>() {
                prop_assert_eq!(entry.to_string(), name);
            }
        }

        #[test]
        fn a_name_that_is_written_is_taken(generation in 0u32..999_999_999, b: bool, revision in 1u32..1000, left in 0u8..100, done in 0u8..100, counted: bool) {
            let slot = if b { Slot::B } else { Slot::A };
            let version = Version { programs: [0, 1, 0], revision };
            let entry = Entry { generation, slot, version, tries: counted.then_some(Tries { left, done }) };
            prop_assert_eq!(entry.to_string().parse::<Entry>(), Ok(entry));
        }
    }
}
