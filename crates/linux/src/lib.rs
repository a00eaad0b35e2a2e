//! The kernel interfaces.
