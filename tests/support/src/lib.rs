//! Real servers for tests, each started on free loopback ports in a folder of its own and stopped when dropped.
//!
//! `tests/run` installs and builds them; nothing of them is linked into or shipped with the product.

mod pebble;
mod process;

pub use pebble::{Challenges, Pebble, PebbleOptions, PebbleVersion};
pub use process::{Missing, Server, free_port, peer, wait_for_port};
