//! The measured claims of the main job: prints one Markdown table, and fails when a claim does not hold.
//!
//! `cargo bench --bench main_job` measures all of them, `cargo bench --bench main_job -- fleet` a part: `single`, `many`,
//! `fleet`. Claims about speed are ratios within one run on one machine, or times of the real program.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that measures makes its own world and prints what it saw"
)]

mod bare;
mod fleet;
mod many;
mod program;
mod single;
mod table;

use std::process::ExitCode;

use table::Table;

fn main() -> ExitCode {
    // cargo passes `--bench`.
    let parts: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word == part);
    let mut table = Table::default();
    if wanted("fleet") {
        fleet::measure(&mut table);
    }
    if wanted("single") {
        single::measure(&mut table);
    }
    if wanted("many") {
        many::measure(&mut table);
    }
    program::remove_folders();
    println!("\n{table}");
    if table.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A runtime as the program has one.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts")
}
