//! Bad input and bad days: what was named in advance, and what follows from it.

mod ca;
mod deployments;
mod disk;
mod dns;
mod forged;
mod fuzz;
mod input;
mod journal;
mod panics;
mod places;
mod proxy;
mod secrets;
mod state;
