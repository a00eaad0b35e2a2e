//! One rule and how it is looked at.

use std::fmt;

use anyhow::Result;

use crate::stage::Stage;

/// The part of the contract that a check holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Command line, environment, files, the ways to end.
    CommandLine,
    /// `get=1`.
    Get,
    /// `set=1`.
    Set,
    /// How connections to the configuration socket behave.
    Connection,
    /// The signs and numbers of errors.
    Errno,
    /// The configuration file.
    File,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Section::CommandLine => "1.1",
            Section::Get => "1.2 get",
            Section::Set => "1.2 set",
            Section::Connection => "1.2 connections",
            Section::Errno => "1.3",
            Section::File => "1.7",
        })
    }
}

/// A check. Its name says the fact that it shows.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// Which part of the contract.
    pub section: Section,
    pub(crate) run: fn(&Stage<'_>) -> Result<()>,
}

impl Check {
    pub(crate) const fn new(
        section: Section,
        name: &'static str,
        run: fn(&Stage<'_>) -> Result<()>,
    ) -> Check {
        Check { name, section, run }
    }
}
