//! Linux, as the daemons need it: one file per kernel interface, a safe API outside.
//!
//! **Invariant:** this is the only crate of the workspace with `unsafe` in it, but for two calls of
//! `transport-cipher`, and it decides nothing:
//! what a daemon may do, and why, is said by the daemon (`sandbox.rs`), never here.
#![allow(unsafe_code, reason = "the one crate that talks to the kernel below the safe wrappers")]
#![cfg(target_os = "linux")]

pub mod allocator;
pub mod background;
mod capabilities;
pub mod descriptors;
pub mod device_mapper;
pub mod first_process;
pub mod helper_process;
pub mod inherited;
mod landlock_rules;
pub mod listen_fds;
mod lockdown;
pub mod netlink;
pub mod netns;
pub mod packet_socket;
mod privilege;
#[cfg(feature = "probe")]
pub mod probe;
pub mod seccomp;
pub mod secret_arena;
pub mod secret_memory;
pub mod seqpacket;
pub mod tun;
pub mod udp;
pub mod unix_datagram;
pub mod unix_listener;
mod unix_path;
mod user;

pub use caps::Capability;
pub use helper_process::{Helper, fork_helper};
pub use landlock_rules::{FileRule, LandlockError};
pub use listen_fds::ListenFds;
pub use lockdown::{Layer, LayerState, Lockdown};
pub use netns::NetNs;
pub use privilege::{ConfineError, Confined, Confinement, PrivilegeError, Privileged, SealError, Sealed};
pub use user::{User, UserError};
