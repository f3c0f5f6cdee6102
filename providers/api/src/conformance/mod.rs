//! The tests that every provider runs, and the in-memory references that they run against first.
//!
//! They are ordinary functions that panic like a test: [`dns::all`] for DNS providers, [`check_target`] for targets.

pub mod dns;
mod memory;
mod memory_target;
mod target;

pub use memory::{Call, Fault, FaultPoint, MemoryDns};
pub use memory_target::{Fault as TargetFault, MemoryTarget, TargetCall, TargetCallKind};
pub use target::{TargetHarness, check_target};
