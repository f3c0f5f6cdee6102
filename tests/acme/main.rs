//! The ACME client against real servers, and against one that misbehaves.

mod fake;
mod faults;
mod issue;
mod pebble;
