//! What every daemon of ours does alike: start, log, report, reload, drain, stop.
//!
//! **Invariant:** nothing here knows a product. Metric names come in as a prefix, verbs as a handler.
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod drain;
pub mod exit;
pub mod lockdown;
pub mod logging;
pub mod metrics;
pub mod notify;
#[cfg(feature = "probe")]
mod probe;
pub mod problem;
pub mod process_metrics;
pub mod readiness;
pub mod sandbox;
pub mod secret;
pub mod signals;
pub mod socket_directory;
pub mod status;

mod clock;

pub use clock::Clock;
pub use exit::{ExitWith, fail, run_main};
pub use logging::install_panic_hook;
