//! The ACME client against real servers, and against one that misbehaves.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "all of it is test code")]

mod fake;
mod faults;
mod issue;
mod pebble;
mod refresh;
