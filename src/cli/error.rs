use std::fmt;

use certplan_provider::message_of;

use super::exit::Exit;

/// What a command fails with: a message, what to do about it, and the exit code.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    help: Option<String>,
    exit: Exit,
}

impl CliError {
    /// An error with exit code 1.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), help: None, exit: Exit::Error }
    }

    /// A command line that makes no sense, with exit code 64.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, ..Self::new(message) }
    }

    /// The same error with what to do about it.
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same error with another exit code.
    pub(crate) const fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The exit code.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do about it.
    pub(crate) fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Turns any error into a [`CliError`] whose message holds those of its sources.
impl<E: std::error::Error + 'static> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::new(message_of(&error))
    }
}
