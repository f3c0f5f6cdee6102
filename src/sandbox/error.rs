use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why a sandbox cannot start or keep what it was given to keep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A port cannot be listened on.
    #[error("cannot listen on `{address}` for {purpose}")]
    Bind {
        /// Where.
        address: String,
        /// What for.
        purpose: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A certificate or key of the sandbox itself cannot be made or read back.
    #[error("cannot {action} the sandbox's own certificates: {reason}")]
    Certificates {
        /// What was tried.
        action: &'static str,
        /// What the library said.
        reason: String,
    },
    /// The folder cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Folder {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file in the folder is not what the sandbox wrote.
    #[error("`{}` is not what a sandbox wrote: {reason}", path.display())]
    FolderContent {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An option that cannot be.
    #[error("{reason}")]
    Option {
        /// What is wrong.
        reason: String,
    },
    /// The sandbox serves no one but its own host.
    #[error("`{address}` is not a loopback address, and a sandbox listens on nothing else")]
    NotLoopback {
        /// The address that was asked for.
        address: IpAddr,
    },
}
