//! What is wrong with a configuration, at which place, and what to do about it.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use serde_json::json;

use super::render::Renderer;
use super::span::Sources;
use super::span::Span;
use super::span::disjoint;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is planned until it is mended.
    Error,
    /// It works, and is likely not what was meant.
    Warning,
}

impl Severity {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A place that a diagnostic points at; the first one of a diagnostic is where the problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is there, in a few words; may be empty.
    pub message: String,
}

/// One problem.
///
/// No text of it holds a secret. Text from the configuration is escaped before it enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable identifier: `unknown-key`.
    pub code: &'static str,
    /// What is wrong, in one phrase.
    pub message: String,
    /// Where: the first label is the place itself, others are related places.
    pub labels: Vec<Label>,
    /// What to do about it.
    pub help: Vec<String>,
}

impl Diagnostic {
    pub(crate) fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: vec![Label { span, message: String::new() }],
            help: Vec::new(),
        }
    }

    pub(crate) fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    pub(crate) fn label(mut self, message: impl Into<String>) -> Self {
        if let Some(first) = self.labels.first_mut() {
            first.message = message.into();
        }
        self
    }

    pub(crate) fn related(mut self, span: Span, message: impl Into<String>) -> Self {
        self.labels.push(Label { span, message: message.into() });
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    fn span(&self) -> Span {
        self.labels.first().map_or_else(Span::default, |label| label.span)
    }
}

/// Collects problems; at most [`Report::LIMIT`] of them, for a file can have a million.
#[derive(Debug, Default)]
pub(crate) struct Report {
    list: Vec<Diagnostic>,
    masks: Vec<Span>,
    left_out: usize,
    errors: usize,
    compared: usize,
}

impl Report {
    const LIMIT: usize = 1_000;

    /// How many words are compared with misspelt ones: thousands of both would take hours.
    const COMPARISONS: usize = 100_000;

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if diagnostic.severity == Severity::Error {
            self.errors += 1;
        }
        if self.list.len() < Self::LIMIT {
            self.list.push(diagnostic);
        } else {
            self.left_out += 1;
        }
    }

    /// Hides a place in every snippet that is printed: a secret stands there.
    pub(crate) fn mask(&mut self, span: Span) {
        self.masks.push(span);
    }

    pub(crate) const fn errors(&self) -> usize {
        self.errors
    }

    /// Whether the next problem is still shown, and may come with a suggestion.
    pub(crate) const fn suggests(&self) -> bool {
        self.list.len() < Self::LIMIT && self.compared < Self::COMPARISONS
    }

    /// The candidate that is closest to a misspelt word, if one is close and there is still time to look.
    pub(crate) fn closest<'a>(
        &mut self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Option<&'a str> {
        if !self.suggests() {
            return None;
        }
        closest(word, candidates.into_iter().inspect(|_| self.compared += 1))
    }

    pub(crate) fn finish(mut self, sources: Arc<Sources>) -> Diagnostics {
        self.list.sort_by(|a, b| (a.span(), a.code, &a.message).cmp(&(b.span(), b.code, &b.message)));
        // A node that several aliases share is checked once per use.
        self.list.dedup();
        Diagnostics {
            sources,
            list: self.list,
            masks: disjoint(self.masks),
            left_out: self.left_out,
            errors: self.errors,
        }
    }
}

/// All problems of one configuration, sorted by place.
#[derive(Clone, Default)]
pub struct Diagnostics {
    sources: Arc<Sources>,
    list: Vec<Diagnostic>,
    /// In order, none inside another.
    masks: Vec<Span>,
    left_out: usize,
    errors: usize,
}

impl Diagnostics {
    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many problems there are.
    pub const fn len(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// Whether there is nothing to say.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any problem is an error.
    pub const fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// The problems as text with the source lines, in plain ASCII apart from the configuration's own words; `colour`
    /// adds escape sequences for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        let mut renderer = Renderer::new(&self.sources, &self.masks, colour);
        for diagnostic in &self.list {
            text.push_str(&renderer.render(diagnostic));
            text.push_str("\n\n");
        }
        if self.left_out > 0 {
            text.push_str(&format!("{} more problems are not shown\n", self.left_out));
        }
        while text.ends_with("\n\n") {
            text.pop();
        }
        text
    }

    /// The problems as JSON: an array of objects with `severity`, `code`, `message`, `labels` and `help`.
    pub fn to_json(&self) -> Value {
        let label = |label: &Label| {
            let start = self.sources.locate(label.span);
            let end = self.sources.locate(Span { start: label.span.end, ..label.span });
            json!({
                "file": start.as_ref().map(|start| start.file.clone()),
                "line": start.as_ref().map(|start| start.line),
                "column": start.as_ref().map(|start| start.column),
                "end_line": end.as_ref().map(|end| end.line),
                "end_column": end.as_ref().map(|end| end.column),
                "message": label.message,
            })
        };
        let list = self.list.iter().map(|diagnostic| {
            json!({
                "severity": diagnostic.severity.as_str(),
                "code": diagnostic.code,
                "message": diagnostic.message,
                "labels": diagnostic.labels.iter().map(label).collect::<Vec<_>>(),
                "help": diagnostic.help,
            })
        });
        Value::Array(list.collect())
    }
}

impl Diagnostics {
    /// The problems as a plan tells its own, each an object with `severity`, `code`, `summary`, `detail` and its place.
    pub(crate) fn to_events(&self) -> Vec<Value> {
        let event = |diagnostic: &Diagnostic| {
            let mut event = json!({
                "severity": diagnostic.severity.as_str(),
                "code": diagnostic.code,
                "summary": diagnostic.message,
            });
            if !diagnostic.help.is_empty() {
                event["detail"] = diagnostic.help.join("\n").into();
            }
            if let Some(place) = diagnostic.labels.first().and_then(|label| self.sources.locate(label.span)) {
                event["file"] = place.file.into();
                event["line"] = place.line.into();
                event["column"] = place.column.into();
            }
            event
        };
        self.list.iter().map(event).collect()
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the sources: they may hold what a diagnostic masks.
        f.debug_list().entries(&self.list).finish()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

/// Text from outside in one line: control and invisible characters escaped, long text cut.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    if is_key_material(text) {
        return "a private key".to_owned();
    }
    let mut quoted = String::from("`");
    for (count, character) in text.chars().enumerate() {
        if count == LONGEST {
            quoted.push_str("...");
            break;
        }
        if is_hidden(character) {
            quoted.extend(character.escape_default());
        } else {
            quoted.push(character);
        }
    }
    quoted.push('`');
    quoted
}

/// Whether a text is a private key or an age identity, wherever it was pasted.
pub(crate) fn is_key_material(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    text.contains("AGE-SECRET-KEY-") || text.contains("AGE-PLUGIN-") || text.contains("PRIVATE KEY--")
}

/// Whether a terminal could take the character for something else than a visible one.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The candidate that is closest to a misspelt word, if one is close.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.chars().take(64).collect::<String>().to_lowercase();
    let distance = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        // `renew_before` for `renew`, `dir` for `directory`: nearer than anything that is merely similar in length.
        let begins = candidate.len().min(word.len()) >= 3
            && (candidate.starts_with(&word) || word.starts_with(&candidate));
        let most = if begins { usize::MAX } else { (candidate.len().max(word.len()) / 3).clamp(1, 4) };
        // Each character more is a step at least, and counting them is far quicker.
        if word.chars().count().abs_diff(candidate.chars().count()) > most {
            return None;
        }
        let distance = strsim::damerau_levenshtein(&word, &candidate);
        (distance <= most).then_some(distance)
    };
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(candidate)?, candidate)))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Words as a list for people: "`a`, `b` and 3 more".
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    const MOST: usize = 12;
    let mut words = words.into_iter();
    let shown: Vec<String> = words.by_ref().take(MOST).map(quoted).collect();
    match words.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
