//! The sandbox, judged by clients that do not share its code: lego, nsupdate, knsupdate, dig, instant-acme, and a bare
//! client that can be told to do things wrong.

mod acme;
mod client;
mod dns;
mod faults;
mod peers;
mod restart;
