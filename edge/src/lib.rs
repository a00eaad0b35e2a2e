//! `edge`: the public side. It asks storaged, streams, and stores nothing.
//!
//! **Invariant:** no byte of a body stays here. Bodies pass in frames of bounded size, the process
//! can write to no file, and what cannot be passed on is refused at once.
#![forbid(unsafe_code)]

pub mod acquire;
pub mod answer;
mod bearer;
pub mod census;
pub mod circuit;
pub mod cli;
pub mod client_body;
pub mod client_stream;
pub mod conditional;
pub mod config;
pub mod control;
pub mod dialect;
pub mod disposition;
mod each;
pub mod events;
pub mod form;
mod form_upload;
pub mod frame_watch;
pub mod gate;
pub mod limits;
mod links;
pub mod listen;
pub mod lockouts;
pub mod metrics;
mod page;
pub mod parts;
pub mod plan;
pub mod proxy_header;
pub mod range;
pub mod recent;
pub mod refusal;
pub mod request;
mod resumable;
pub mod run;
pub mod sandbox;
pub mod store;
pub mod store_client;
pub mod stream;
pub mod streams;
pub mod target;
pub mod tls;
pub mod track;
pub mod transport;
pub mod tunnel;
pub mod upload_metadata;
pub mod upstream;
pub mod witness;

#[cfg(test)]
#[path = "../../crates/daemon/testing/documented.rs"]
mod documented;
