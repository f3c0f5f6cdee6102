//! Whole stories with the real binary: against real servers, killed in the middle, and over days.
//!
//! Needs the peers that `tests/run` installs (see `certplan_test_support`).

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod crash;
mod evidence;
mod peers;
mod project;
