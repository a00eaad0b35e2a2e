//! The version of an image: that of the programs, and which build of it.

use std::fmt;
use std::str::FromStr;

use crate::limits::NUMBER_DIGITS;

/// `0.1.0-2`: the second image of version 0.1.0, made for another kernel or other packages of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Of the programs: `0.1.0`.
    pub programs: [u32; 3],
    /// Of the image, from 1.
    pub revision: u32,
}

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a version is MAJOR.MINOR.PATCH-REVISION, such as 0.1.0-2")]
pub struct VersionError;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.programs;
        write!(f, "{major}.{minor}.{patch}-{}", self.revision)
    }
}

impl FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Version, VersionError> {
        let (programs, revision) = text.split_once('-').ok_or(VersionError)?;
        let mut parts = programs.split('.').map(number);
        let mut next = || parts.next().flatten().ok_or(VersionError);
        let programs = [next()?, next()?, next()?];
        if parts.next().is_some() {
            return Err(VersionError);
        }
        let revision = number(revision).filter(|revision| *revision > 0).ok_or(VersionError)?;
        Ok(Version { programs, revision })
    }
}

/// A number in its one spelling.
pub(crate) fn number(text: &str) -> Option<u32> {
    let is_plain =
        (1..=NUMBER_DIGITS).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
    (is_plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_their_numbers() {
        let sorted = ["0.1.0-1", "0.1.0-2", "0.1.0-10", "0.2.0-1", "0.10.0-1", "1.0.0-1"];
        let versions: Vec<Version> = sorted.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted());
        assert_eq!(versions.iter().map(Version::to_string).collect::<Vec<_>>(), sorted);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for bad in [
            "",
            "1",
            "0.1.0",
            "0.1.0-",
            "0.1.0-0",
            "0.1-1",
            "0.1.0.0-1",
            "00.1.0-1",
            "0.1.0-1+2",
            "0.1.0-9999999999",
            "a.1.0-1",
        ] {
            assert_eq!(bad.parse::<Version>(), Err(VersionError), "{bad}");
        }
    }
}
