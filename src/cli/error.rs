use std::any::Any;
use std::fmt;

use certplan_provider::message_of;
use serde_json::Value;

use crate::state::LeaseError;
use crate::state::SealError;
use crate::state::StateError;

use super::exit::Exit;

/// What a command fails with: a message, what to do about it, and the exit code.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    help: Option<String>,
    exit: Exit,
    problems: Vec<Value>,
}

impl CliError {
    /// An error with exit code 1.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), help: None, exit: Exit::Error, problems: Vec::new() }
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

    /// The same error with the problems of the configuration that it counts, for who reads events.
    pub(crate) fn with_problems(mut self, problems: Vec<Value>) -> Self {
        self.problems = problems;
        self
    }

    /// The problems that it counts, as objects.
    pub(crate) fn problems(&self) -> &[Value] {
        &self.problems
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

/// Turns any error into a [`CliError`] whose message holds those of its sources, with the hint that belongs to it.
impl<E: std::error::Error + 'static> From<E> for CliError {
    fn from(error: E) -> Self {
        let (help, exit) = advice(&error);
        Self { help, exit, ..Self::new(message(&error)) }
    }
}

/// What to do about an error of the state, its keys or its leases, and the exit code that it ends with.
fn advice(error: &dyn Any) -> (Option<String>, Exit) {
    if let Some(error) = error.downcast_ref::<StateError>() {
        return (error.each().find_map(StateError::hint).map(str::to_owned), Exit::Error);
    }
    if let Some(error) = error.downcast_ref::<LeaseError>() {
        let exit = if matches!(error, LeaseError::Held { .. }) { Exit::Locked } else { Exit::Error };
        return (error.hint().map(str::to_owned), exit);
    }
    (error.downcast_ref::<SealError>().and_then(seal_hint).map(str::to_owned), Exit::Error)
}

const fn seal_hint(error: &SealError) -> Option<&'static str> {
    match error {
        SealError::Identity { .. } => {
            Some("an identity is one line that begins with AGE-SECRET-KEY-1, as `age-keygen` writes it")
        }
        SealError::IdentityFile { .. } => {
            Some("CERTPLAN_AGE_KEY_FILE names the file, or ~/.config/certplan/identity.txt is it")
        }
        SealError::NoIdentity { .. } => Some(
            "CERTPLAN_AGE_KEY_FILE names the file of an identity that it is sealed to; CERTPLAN_AGE_KEY holds it itself",
        ),
        _ => None,
    }
}

/// The message of an error with those of its sources; of several broken objects, each in a line of its own.
fn message<E: std::error::Error + 'static>(error: &E) -> String {
    match (error as &dyn Any).downcast_ref::<StateError>() {
        Some(StateError::Several { errors }) => {
            let mut message = format!("{} state objects cannot be used:", errors.len());
            for error in errors.iter().take(SHOWN) {
                message.push_str("\n  ");
                message.push_str(&message_of(error));
            }
            if errors.len() > SHOWN {
                message.push_str(&format!("\n  and {} more", errors.len() - SHOWN));
            }
            message
        }
        _ => message_of(error),
    }
}

/// How many broken objects are named.
const SHOWN: usize = 10;
