//! The messages between `edge` and `storaged`.
//!
//! Every type here is parsed once, at the border, and is valid from then on: a `LogicalPath` that
//! exists cannot climb, a `Cohort` that exists can stand in a URL, a `Token` never prints itself.
//!
//! **Invariant:** this crate does no IO, reads no clock, and knows neither `edge` nor `storaged`.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod capability;
pub mod client_chain;
pub mod context;
pub mod digest;
pub mod file;
pub mod headers;
mod hex;
pub mod jwt;
pub mod limits;
pub mod lockout;
pub mod log_proof;
pub mod logical_path;
pub mod names;
pub mod permission;
pub mod policy;
pub mod problem;
pub mod routes;
pub mod token;
pub mod upload;

pub use attributes::{Attribute, AttributeError, AttributeRules, Attributes, DERIVED_FROM};
pub use capability::{
    Capability, CapabilityClaims, CapabilityError, CapabilityKey, CapabilityMethod, CapabilitySigner,
    MadeCapability, NewCapability, PresignRequest,
};
pub use client_chain::{ClientChain, ClientChainError};
pub use context::{ContextError, Proof, RequestContext};
pub use digest::{ContentDigest, DigestError, ETag};
pub use file::{FileMeta, FileState, Listing, UploadReceipt, Verdict};
pub use jwt::{Jwt, JwtFormError};
pub use lockout::{Lockout, LockoutReason, Lockouts, PrincipalError, PrincipalId};
pub use log_proof::{ConsistencyProof, InclusionProof};
pub use logical_path::{LogicalPath, PathError};
pub use names::{
    Cohort, EdgeName, Extension, FileId, FileType, IdempotencyKey, NameError, RequestId, UserName,
};
pub use permission::{FileSelector, Permission, PermissionRequest, StoredBefore, UploadPermission};
pub use policy::{Action, Role, ServerRole, StoreHealth};
pub use problem::{ProblemBody, ProblemKind};
pub use receipt::Receipt;
pub use token::{Token, TokenDigest, TokenError};
pub use upload::{NewUpload, UploadState, Uploads};
