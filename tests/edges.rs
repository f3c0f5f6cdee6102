//! certplan at its edges: the command line as a new user meets it, bad input and bad days.

#![allow(clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "tests make their own world")]

mod badday;
mod cli;
#[allow(dead_code, reason = "the stories use the rest of it")]
mod project;
mod world;
