//! The deploy target `files`: certificates as PEM files on this machine, for nginx, Apache, HAProxy and their like.
//!
//! # Layout
//!
//! ```text
//! <directory>/shop -> .certplan/shop/000002-3f2a1b9c0d4e     the layout `certbot`
//! <directory>/shop.pem -> .certplan/shop.pem/…/combined.pem   the layout `haproxy`
//! <directory>/.certplan/shop/000002-3f2a1b9c0d4e/             fullchain.pem, chain.pem, cert.pem, privkey.pem
//! <directory>/.certplan/shop/pending.json                     while a deployment is neither committed nor rolled back
//! ```
//!
//! A version is written completely, with modes and owners, and saved to disk before one `rename` makes the link lead to it.
//! So there is no moment at which certificate and key do not belong together, whoever reads the folder. (A
//! program that opens two files by their full paths exactly while the link changes can get one of each, as with any files;
//! servers read when they are reloaded, which comes after the change.) What served before stays until the
//! commit, and is then removed with its key: no old key lies about.
//!
//! A flat layout (`shop.crt` and `shop.key` side by side) is not offered, because two names cannot be changed at once.
//! PKCS#12 is not offered either: the one maintained library stands on pre-releases and brings 34 more crates. `openssl
//! pkcs12 -export` as the first word of a `reload` script makes one where a server needs it.
//!
//! # Commands
//!
//! `test` runs when the new files are in place, for `nginx -t` and `haproxy -c` check the files at their final path,
//! but no server has read them yet. When it or `reload` fails, the link is turned back before anything else happens, and the
//! error holds what the command said. Both run without a shell, in a process group of their own that is killed when
//! the timeout passes. `systemctl reload-or-restart` is what a server needs that cannot start before its first certificate is there.

mod account;
mod block;
mod command;
mod contents;
mod failure;
mod folders;
mod guard;
mod look;
mod place;
mod placing;
mod step;
mod store;
mod target;
#[cfg(test)]
mod tests;

use certplan_provider::TargetFactory;
use certplan_provider::schema_of;

use block::FilesBlock;
use block::FilesParameters;

/// The deploy target `files`.
pub const FACTORY: TargetFactory = TargetFactory {
    kind: "files",
    schema: schema_of::<FilesBlock>,
    parameters: schema_of::<FilesParameters>,
    check: |block| FilesBlock::read(block).map(drop),
    build: target::build,
};
