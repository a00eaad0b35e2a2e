//! `Command → apply → Outcome`: what can be asked of the ledger, by area.
//!
//! **Invariant:** the areas are a closed list. Each owns its commands, outcomes, tables and what they do, in
//! a file of its own; its commands are answered with its outcomes and nothing else.

use crate::keys::KeyChange;
use crate::ledger::application::Application;
use crate::ledger::tables::CorruptError;
use crate::ledger::{
    access, backup, capability, cleanup, deletion, download, epoch, files, hold, integrity, intents, moment,
    note, partial, repeat, upload,
};

/// A command of one area, which the ledger answers with that area's outcome.
pub trait Ask: Send + 'static {
    /// What comes of it.
    type Outcome: Send + 'static;

    /// As one of all commands.
    fn into_command(self) -> Command;

    /// Its own outcome out of all; `None` for another area's.
    fn of(outcome: Outcome) -> Option<Self::Outcome>;
}

/// What the writer must know of a command before and after it is carried out.
pub trait Area {
    /// Keys that must be durable before the command's records and rows, which may be sealed under them.
    fn new_keys(&self) -> &[KeyChange] {
        &[]
    }

    /// Whether it is answered only after the journal mirror has it too: what acknowledges stored data, deletes,
    /// destroys keys or changes access does.
    fn waits_for_mirror(&self) -> bool {
        false
    }

    /// Whether it begins what cannot end well while the mirror hangs, and is refused at once then.
    fn leads_to_waiting(&self) -> bool {
        false
    }
}

macro_rules! areas {
    ($($(#[$doc:meta])* $variant:ident = $module:ident;)*) => {
        /// What is asked of the ledger.
        #[derive(Debug, Clone)]
        pub enum Command {
            $($(#[$doc])* $variant($module::Command),)*
        }

        /// What came of a command.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[$doc])* $variant($module::Outcome),)*
        }

        impl Area for Command {
            fn new_keys(&self) -> &[KeyChange] {
                match self {
                    $(Command::$variant(command) => command.new_keys(),)*
                }
            }

            fn waits_for_mirror(&self) -> bool {
                match self {
                    $(Command::$variant(command) => command.waits_for_mirror(),)*
                }
            }

            fn leads_to_waiting(&self) -> bool {
                match self {
                    $(Command::$variant(command) => command.leads_to_waiting(),)*
                }
            }
        }

        impl Command {
            /// Carries it out.
            pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
                match self {
                    $(Command::$variant(command) => command.apply(app).map(Outcome::$variant),)*
                }
            }
        }

        $(
            impl Ask for $module::Command {
                type Outcome = $module::Outcome;

                fn into_command(self) -> Command {
                    Command::$variant(self)
                }

                #[allow(unreachable_patterns, clippy::wildcard_enum_match_arm, reason = "every other area")]
                fn of(outcome: Outcome) -> Option<Self::Outcome> {
                    match outcome {
                        Outcome::$variant(outcome) => Some(outcome),
                        _ => None,
                    }
                }
            }
        )*
    };
}

areas! {
    /// A file comes in.
    Upload = upload;
    /// A file comes in in stretches.
    Partial = partial;
    /// What becomes of a file.
    File = files;
    /// A file goes out.
    Download = download;
    /// Temporary things on the volumes are gone.
    Cleanup = cleanup;
    /// A file leaves the store.
    Deletion = deletion;
    /// Nothing is deleted while it stands.
    Hold = hold;
    /// Whether objects are what was sealed.
    Integrity = integrity;
    /// What a dead process had begun is ended.
    Intent = intents;
    /// A new epoch of the log.
    Epoch = epoch;
    /// The clock.
    Moment = moment;
    /// Something that has no before.
    Note = note;
    /// Who may do what.
    Access = access;
    /// Links that open a file for whoever holds them.
    Capability = capability;
    /// Requests that come again.
    Repeat = repeat;
    /// Backups that were made.
    Backup = backup;
}
