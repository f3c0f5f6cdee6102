use std::process::ExitCode;

/// How a command ended: the codes are part of the interface, and the first that applies wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or no changes.
    Success,
    /// An error, and nothing was done.
    Error,
    /// There are changes; only with `--detailed-exitcode`.
    Changes,
    /// The run finished, and some resources failed.
    Partial,
    /// What was reviewed is stale.
    Stale,
    /// Another run holds the lease.
    Locked,
    /// A rate limit or our own back-off defers something; only with `--detailed-exitcode`.
    Deferred,
    /// A policy refuses it.
    Refused,
    /// The command line is wrong (`EX_USAGE` of sysexits).
    Usage,
    /// Stopped by SIGINT or SIGTERM: 130, as shells report it.
    Interrupted,
}

impl Exit {
    /// The code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Error => 1,
            Self::Changes => 2,
            Self::Partial => 3,
            Self::Stale => 4,
            Self::Locked => 5,
            Self::Deferred => 6,
            Self::Refused => 7,
            Self::Usage => 64,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
