//! Namespaces, links and the real daemons on them: the harness of the namespace tests, of `cargo xtask demo` and of
//! `cargo xtask bench`.
//!
//! Invariant: everything a lab makes lives inside one *world* (new PID, mount, network, IPC and UTS namespaces), so
//! the kernel removes it when the world's pid 1 ends, however that comes about. See [`world`].
//!
//! A program that uses this crate calls [`reexec::enter`] before anything else in `main`: the harness starts its own
//! helpers by executing the same file again.
#![forbid(unsafe_code)]

pub mod capture;
pub mod cpio;
pub mod culvert;
pub mod cutter;
mod enter;
mod holder;
pub mod host;
pub mod http;
pub mod kernel_modules;
pub mod kernel_vm;
pub mod lab;
pub mod link;
pub mod log;
pub mod memory;
pub mod mounts;
pub mod namespace;
pub mod numbered;
pub mod payload;
pub mod power_cut;
mod preload;
pub mod process_status;
pub mod program;
pub mod reexec;
pub mod runner;
pub mod store;
pub mod stream;
pub(crate) mod trace;
pub mod traffic;
pub mod trio;
pub mod tunnel;
pub mod wait;
pub mod wireguard;
pub mod world;
