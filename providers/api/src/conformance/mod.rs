//! The tests that every provider runs, and the in-memory reference that they run against first.
//!
//! They are ordinary functions that panic like a test: [`dns::all`] for DNS providers.

pub mod dns;
mod memory;

pub use memory::{Call, Fault, FaultPoint, MemoryDns};
