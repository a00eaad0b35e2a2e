//! Two devices and an in-memory wire between them.
//!
//! Time is a field and jumps; nothing sleeps.

#![expect(clippy::unwrap_used, reason = "a helper of tests may panic as their bodies may")]

mod configuration;
mod hostile;
mod outage;
mod pair;
mod probe;
mod rotation;
mod transport;
