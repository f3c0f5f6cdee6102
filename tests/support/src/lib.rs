//! Real servers for tests, each started on free loopback ports in a folder of its own and stopped when dropped.
//!
//! `tests/run` installs and builds them; nothing of them is linked into or shipped with the product.

mod apache;
mod haproxy;
mod nginx;
mod process;
mod web;

pub use apache::Apache;
pub use haproxy::Haproxy;
pub use nginx::Nginx;
pub use process::{Missing, Server, free_port, peer, wait_for_port};
pub use web::{WebServer, served_fingerprint};
