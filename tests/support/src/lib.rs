//! Real servers for tests, each started on free loopback ports in a folder of its own and stopped when dropped.
//!
//! `tests/run` installs and builds them; nothing of them is linked into or shipped with the product.

mod apache;
mod bind;
mod dns;
mod haproxy;
mod knot;
mod nginx;
mod pebble;
mod powerdns;
mod process;
mod proxy;
mod web;

pub use apache::Apache;
pub use bind::Bind;
pub use dns::{TsigKey, ZoneFile, add_txt, txt};
pub use haproxy::Haproxy;
pub use knot::Knot;
pub use nginx::Nginx;
pub use pebble::{Challenges, Pebble, PebbleOptions, PebbleVersion};
pub use powerdns::PowerDns;
pub use process::{Missing, Server, free_port, peer, wait_for_port};
pub use web::{WebServer, served_fingerprint};
