//! `edge`: the public side. It asks storaged, streams, and stores nothing.
//!
//! **Invariant:** no byte of a body stays here. Bodies pass in frames of bounded size, the process
//! can write to no file, and what cannot be passed on is refused at once.
#![forbid(unsafe_code)]

pub mod conditional;
pub mod config;
pub mod limits;
pub mod plan;
pub mod range;
pub mod refusal;
pub mod target;
