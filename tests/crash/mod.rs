//! The real binary, killed: what it leaves in the world and in state, and how the next run goes on. The sandbox's own
//! ledger is the judge.

mod accounts;
mod kill;
mod lost;
mod restored;
mod resumed;
mod shared;
mod signals;
mod world;
