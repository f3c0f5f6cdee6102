//! certplan: a declarative reconciler for TLS certificates.
//!
//! `YAML text -> Node -> Desired`, `Desired + state -> refresh -> Observed`,
//! `plan(desired, state, observed, now) -> Plan`, and `apply` makes it so. ARCHITECTURE.md walks through it.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make their own world"))]

pub mod acme;
pub mod apply;
pub mod cli;
pub mod config;
pub mod dns01;
pub mod model;
pub mod plan;
pub mod probe;
pub mod refresh;
pub mod registry;
pub mod sandbox;
pub mod state;
