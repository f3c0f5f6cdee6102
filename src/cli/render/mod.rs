//! What people read: plans, state and progress.

pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod show;
mod waiting;
