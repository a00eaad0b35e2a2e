//! The contract of a userspace WireGuard with the outside as a table of checks, run against wgd or any other program.
//!
//! Invariant: a check looks at the program from outside only (command line, environment, files, the configuration
//! socket, stock tools, the wire), so it can be run against every implementation. What others may do differently is
//! listed, with the reason, in [`differences`]; any other difference is a failure.
#![forbid(unsafe_code)]

mod answer;
mod check;
mod checks;
mod daemon;
pub mod differences;
mod keys;
mod pair;
mod perl;
mod stage;
mod subject;
mod suite;
mod uapi;
mod wire;

pub use check::{Check, Section};
pub use checks::all;
pub use subject::Subject;
pub use suite::run;
