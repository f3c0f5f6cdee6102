//! Whole stories with the real binary: against real servers, killed in the middle, and over days.
//!
//! Needs the peers that `tests/run` installs (see `certplan_test_support`).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests, too")]
#![allow(clippy::disallowed_methods, reason = "stories look at the files and the clock of the machine")]
#![allow(unreachable_pub, reason = "modules of helpers are shared with other test binaries")]
#![allow(dead_code, reason = "not every binary uses all of a shared helper")]

mod crash;
mod evidence;
mod peers;
mod project;
