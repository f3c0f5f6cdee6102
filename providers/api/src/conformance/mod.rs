//! The tests that every provider runs, and the in-memory reference that they run against first.

mod memory_target;
mod target;

pub use memory_target::{Fault, MemoryTarget, TargetCall, TargetCallKind};
pub use target::{TargetHarness, check_target};
