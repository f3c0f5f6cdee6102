//! The command line as somebody meets it who has never used it.

mod demo;
mod first_steps;
mod help;
mod terminal;
mod usage;
