//! The tunnel daemon: WireGuard in user space, by a process that ends up without a single privilege.
//!
//! `main` reads as the table of contents; [`run`] follows it step by step. The protocol is `wg_proto`'s, the
//! system calls are `linux`'s; this crate decides what is opened, who may do what, and in which order.
#![forbid(unsafe_code)]

pub mod clock_state;
pub mod conf;
pub mod config;
pub mod control;
pub mod events;
pub mod io;
pub mod limits;
pub mod metrics;
pub mod netcfg;
pub mod parts;
mod predecessor;
mod registered;
pub mod run;
pub mod sandbox;
mod socket_file;
mod wiped;

#[cfg(test)]
#[path = "../../crates/daemon/testing/documented.rs"]
mod documented;
