//! Everything that people and programs read goes through here: data to stdout, talk to stderr.

use std::io;
use std::io::IsTerminal;
use std::io::Write;

use anstream::AutoStream;
use anstream::ColorChoice;

use super::error::CliError;

/// The terminal, or what stands in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    color: ColorChoice,
    quiet: bool,
}

impl Ui {
    /// A user interface; colour only on a terminal, unless asked for.
    pub(crate) const fn new(color: ColorChoice, quiet: bool) -> Self {
        Self { color, quiet }
    }

    /// Writes data to stdout. A reader that went away is not an error.
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = AutoStream::new(io::stdout(), self.color).lock();
        ignore_closed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
            .map_err(|error| CliError::new(format!("cannot write to standard output: {error}")))
    }

    /// Says something on stderr, in a line of its own.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            self.talk(text);
        }
    }

    /// Says something on stderr that matters also when told to be quiet.
    pub(crate) fn alert(&self, text: &str) {
        self.talk(text);
    }

    /// Warns on stderr, also when told to be quiet.
    pub(crate) fn warn(&self, text: &str) {
        self.talk(&format!("warning: {text}"));
    }

    /// Reports an error on stderr.
    pub(crate) fn error(&self, error: &CliError) {
        let mut text = format!("error: {}", escape(&error.to_string()));
        if let Some(help) = error.help() {
            text.push_str("\nhint: ");
            text.push_str(&escape(help));
        }
        self.talk(&text);
    }

    /// Asks on the terminal and returns the answer's line; `None` where there is nobody to ask.
    pub(crate) fn ask(&self, question: &str) -> Result<Option<String>, CliError> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(None);
        }
        let mut stderr = io::stderr().lock();
        ignore_closed(write!(stderr, "{question}").and_then(|()| stderr.flush()))?;
        let mut answer = String::new();
        if io::stdin().read_line(&mut answer)? == 0 {
            // Nobody pressed return: what is said next begins a line of its own.
            ignore_closed(writeln!(stderr))?;
        }
        Ok(Some(answer.trim().to_owned()))
    }

    /// Whether stderr is a terminal, where progress can move.
    pub(crate) fn is_live(&self) -> bool {
        io::stderr().is_terminal() && !self.quiet
    }

    /// Whether stdout gets colour.
    pub(crate) fn colors_stdout(&self) -> bool {
        match self.color {
            ColorChoice::Always | ColorChoice::AlwaysAnsi => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => AutoStream::choice(&io::stdout()) != ColorChoice::Never,
        }
    }

    /// Whether stderr gets colour.
    pub(crate) fn colors_stderr(&self) -> bool {
        match self.color {
            ColorChoice::Always | ColorChoice::AlwaysAnsi => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => AutoStream::choice(&io::stderr()) != ColorChoice::Never,
        }
    }

    fn talk(&self, text: &str) {
        let mut stderr = AutoStream::new(io::stderr(), self.color).lock();
        // There is nowhere to report to that talking failed.
        let _ = writeln!(stderr, "{text}");
    }
}

fn ignore_closed(written: io::Result<()>) -> Result<(), CliError> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Makes text from outside safe for a terminal, its lines kept: see [`escape_line`].
pub(crate) fn escape(text: &str) -> String {
    text.split('\n').map(escape_line).collect::<Vec<_>>().join("\n")
}

/// Makes text from outside one line of a terminal: control characters and invisible ones are shown, not obeyed.
pub(crate) fn escape_line(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        let hidden = matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
        );
        if character.is_control() || hidden {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_from_outside_are_shown() {
        assert_eq!(escape("a\u{1b}[31mb\r\u{202e}c\n"), "a\\u{1b}[31mb\\r\\u{202e}c\n");
        assert_eq!(escape_line("a\n\u{2028}b"), "a\\n\\u{2028}b");
    }
}
