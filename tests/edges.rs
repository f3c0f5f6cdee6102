//! certplan at its edges: the command line as a new user meets it, bad input and bad days.

#![allow(clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "tests make their own world")]

mod badday;
mod cli;
mod project;
mod world;
