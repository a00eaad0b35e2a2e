//! Two devices and an in-memory wire between them.
//!
//! Time is a field and jumps; nothing sleeps. The Noise implementation has a clock of its own that
//! does not jump with it, so what it times for itself is not tested here, and our own rules are.

#![expect(clippy::unwrap_used, reason = "a helper of tests may panic as their bodies may")]

mod configuration;
mod hostile;
mod outage;
mod pair;
mod probe;
mod rotation;
mod transport;
