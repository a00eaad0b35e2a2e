//! WireGuard as a value: peers, allowed IPs, sessions and the configuration interface, without IO.
//!
//! Bytes and `now` go into a [`Device`], datagrams, packets and events come out through an [`Output`].
//!
//! **Invariant:** nothing here owns a descriptor, sleeps or reads a clock of its own, but for the date that the protocol puts
//! into an initiation (`noise::stamp`).
#![forbid(unsafe_code)]

// The harness of `tests/device` runs in here too.
#[cfg(test)]
extern crate self as wg_proto;

pub mod allowed_ips;
pub mod conf;
mod control;
mod device;
mod drop_reason;
mod endpoint;
mod gaps;
mod identities;
mod identity;
mod key;
pub mod limits;
mod load;
mod noise;
mod output;
mod peer;
mod probe;
mod rotation;
mod secrets;
mod session;
mod state;
mod timers;
pub mod uapi;
mod update;

pub use control::{AnnouncedKey, Body, CONTROL_PORT, CONTROL_VERSION, ControlMessage, Refusal, RotationId};
pub use device::Device;
pub use drop_reason::{Counters, DropReason, Drops};
pub use endpoint::{Endpoint, LocalAddress};
pub use gaps::Settled;
pub use key::{KeyError, PresharedKey, PublicKey, SecretKey};
pub use output::{ChangedKey, DeviceEvent, Output, PeerIdentity};
pub use probe::{Probed, Probes};
pub use rotation::{
    Kept, KeptAs, KeptKey, PeerRotation, RotateError, RotationKind, RotationOutcome, RotationOutput,
    RotationRequest, RotationStep, Ticket, Verdict,
};
pub use secrets::{Keeper, keep_with};
pub use state::{DeviceState, HandshakeCounts, PeerState};
pub use update::{AllowedIpChange, Change, DeviceUpdate, PeerUpdate};
