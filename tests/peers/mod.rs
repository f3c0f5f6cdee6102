//! The whole job with the real binary against real servers: Pebble, BIND, Knot, PowerDNS, nginx, Apache and HAProxy.

mod examples;
mod issuance;
mod lifecycle;
mod main_job;
mod selection;
mod story;
mod web;
