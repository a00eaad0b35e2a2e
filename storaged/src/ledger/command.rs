//! `Command → apply → Outcome`: what can be asked of the ledger, by area.
//!
//! **Invariant:** the areas are a closed list. Each owns its commands, outcomes, tables and what they do, in
//! a file of its own; its commands are answered with its outcomes and nothing else.

use crate::ledger::application::Application;
use crate::ledger::tables::CorruptError;
use crate::ledger::{access, cleanup, download, hold, intents, note, upload};

/// A command of one area, which the ledger answers with that area's outcome.
pub trait Ask: Send + 'static {
    /// What comes of it.
    type Outcome: Send + 'static;

    /// As one of all commands.
    fn into_command(self) -> Command;

    /// Its own outcome out of all; `None` for another area's.
    fn of(outcome: Outcome) -> Option<Self::Outcome>;
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
    /// A file goes out.
    Download = download;
    /// Temporary things on the volumes are gone.
    Cleanup = cleanup;
    /// Nothing is deleted while it stands.
    Hold = hold;
    /// What a dead process had begun is ended.
    Intent = intents;
    /// Something that has no before.
    Note = note;
    /// Who may do what.
    Access = access;
}
