//! The sandbox, judged by clients that do not share its code: lego, nsupdate, knsupdate, dig, instant-acme, and a bare
//! client that can be told to do things wrong.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "clippy takes helpers of integration tests for code that ships"
)]

mod acme;
mod client;
mod dns;
mod faults;
mod load;
mod peers;
mod restart;
mod validation;
