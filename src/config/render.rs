//! Diagnostics as text with the source lines they are about.

use std::collections::HashMap;

use annotate_snippets::Annotation;
use annotate_snippets::AnnotationKind;
use annotate_snippets::Group;
use annotate_snippets::Level;
use annotate_snippets::Origin;
use annotate_snippets::Snippet;

use super::diagnostic::Diagnostic;
use super::diagnostic::Label;
use super::diagnostic::Severity;
use super::diagnostic::is_hidden;
use super::span::Source;
use super::span::Sources;
use super::span::Span;
use super::span::disjoint;

/// How many characters of a line are shown around a place.
const WINDOW: usize = 100;

/// Renders diagnostics of one configuration.
pub(crate) struct Renderer<'a> {
    sources: &'a Sources,
    /// In order, none inside another.
    masks: &'a [Span],
    colour: bool,
    /// What is hidden of a line, by its file and number: a line of megabytes can have a thousand problems.
    hidden: HashMap<(u32, usize), Vec<Span>>,
}

impl<'a> Renderer<'a> {
    pub(crate) fn new(sources: &'a Sources, masks: &'a [Span], colour: bool) -> Self {
        Self { sources, masks, colour, hidden: HashMap::new() }
    }

    /// Renders one diagnostic without a line break at its end.
    pub(crate) fn render(&mut self, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let excerpts: Vec<Excerpt<'_>> =
            diagnostic.labels.iter().filter_map(|label| Excerpt::new(label, self)).collect();
        let mut group =
            Group::with_title(level.primary_title(diagnostic.message.as_str()).id(diagnostic.code));
        for (index, excerpt) in excerpts.iter().enumerate() {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let mut annotation = kind.span(excerpt.start..excerpt.end);
            if !excerpt.message.is_empty() {
                annotation = annotation.label(excerpt.message);
            }
            group = group
                .element(Origin::path(excerpt.path.as_str()).line(excerpt.line).char_column(excerpt.column))
                .element(excerpt.snippet(annotation));
        }
        for help in &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let terminal = if self.colour {
            annotate_snippets::Renderer::styled()
        } else {
            annotate_snippets::Renderer::plain()
        };
        let text = terminal.term_width(WINDOW * 3).render(&[group]);
        // Lines that hold nothing end in blanks; after an origin comes a line for a source that is cut.
        text.lines().map(str::trim_end).filter(|line| visible(line) != ":::").collect::<Vec<_>>().join("\n")
    }

    /// What is hidden of a line, in order and without overlaps.
    fn hidden(&mut self, source: &Source, file: u32, line: usize) -> &[Span] {
        let masks = self.masks;
        self.hidden.entry((file, line)).or_insert_with(|| {
            let (start, end) = source.line_range(line);
            let line = Span::new(file, start, end);
            let first = masks.partition_point(|mask| (mask.file, mask.end) <= (file, line.start));
            let own = masks.iter().skip(first).take_while(|mask| (mask.file, mask.start) < (file, line.end));
            let text = source.text.get(start..end).unwrap_or_default();
            disjoint(own.copied().chain(secrets(text, line)).collect())
        })
    }
}

/// What a terminal shows of a line, without blanks around it.
fn visible(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('m').map_or("", |(_, text)| text));
    (first + &rest.collect::<String>()).trim().to_owned()
}

/// One line of a file around a place, safe to print.
struct Excerpt<'a> {
    path: String,
    line: usize,
    column: usize,
    text: String,
    start: usize,
    end: usize,
    message: &'a str,
}

impl<'a> Excerpt<'a> {
    fn new(label: &'a Label, renderer: &mut Renderer<'_>) -> Option<Self> {
        let sources = renderer.sources;
        let source = sources.file(label.span)?;
        let location = sources.locate(label.span)?;
        let line = location.line - 1;
        let (line_start, line_end) = source.line_range(line);
        let from = source.floor(label.span.start as usize).min(line_end);
        let to = source.floor(label.span.end as usize).clamp(from, line_end);
        let hidden = renderer.hidden(source, label.span.file, line);
        let is_masked = |at: usize| {
            let next = hidden.partition_point(|mask| mask.start as usize <= at);
            next.checked_sub(1).and_then(|last| hidden.get(last)).is_some_and(|mask| at < mask.end as usize)
        };
        let first = back(&source.text, line_start, from, WINDOW);
        let mut excerpt = Self {
            path: printable(&location.file),
            line: location.line,
            column: location.column,
            text: if first > line_start { "...".to_owned() } else { String::new() },
            start: 0,
            end: 0,
            message: &label.message,
        };
        let mut masked = false;
        for (offset, character) in source.text.get(first..line_end)?.char_indices() {
            let at = first + offset;
            if at == from {
                excerpt.start = excerpt.text.len();
            }
            if at == to {
                excerpt.end = excerpt.text.len();
            }
            if offset > WINDOW * 4 {
                excerpt.text.push_str("...");
                break;
            }
            if is_masked(at) {
                if !masked {
                    excerpt.text.push_str("******");
                }
                masked = true;
                continue;
            }
            masked = false;
            if character == '\t' {
                excerpt.text.push(' ');
            } else if is_hidden(character) {
                excerpt.text.extend(character.escape_default());
            } else {
                excerpt.text.push(character);
            }
        }
        if from >= line_end {
            excerpt.start = excerpt.text.len();
        }
        if to >= line_end || excerpt.end < excerpt.start {
            excerpt.end = excerpt.text.len();
        }
        if excerpt.start == excerpt.end && excerpt.end < excerpt.text.len() {
            let width = excerpt.text.get(excerpt.start..).and_then(|rest| rest.chars().next());
            excerpt.end += width.map_or(0, char::len_utf8);
        }
        Some(excerpt)
    }

    fn snippet<'b>(&'b self, annotation: Annotation<'b>) -> Snippet<'b, Annotation<'b>> {
        Snippet::source(self.text.as_str()).line_start(self.line).annotation(annotation)
    }
}

/// What must not be printed of a line whoever asks: identities, and what follows a key that names a secret.
fn secrets(text: &str, line: Span) -> Vec<Span> {
    let span =
        |from: usize, to: usize| Span::new(line.file, line.start as usize + from, line.start as usize + to);
    let mut hidden = Vec::new();
    let upper = text.to_ascii_uppercase();
    for prefix in ["AGE-SECRET-KEY-", "AGE-PLUGIN-"] {
        let mut last = 0;
        for (offset, _) in upper.match_indices(prefix) {
            // The next one may be a part of this one, to whose end it goes as well.
            if offset < last {
                continue;
            }
            let length = upper.get(offset..).map_or(0, |rest| {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len())
            });
            last = offset + length;
            hidden.push(span(offset, last));
        }
    }
    let mut last = 0;
    for (offset, _) in text.match_indices(':') {
        let (before, after) =
            (text.get(..offset).unwrap_or_default(), text.get(offset + 1..).unwrap_or_default());
        // Asked first, so that no key is looked at twice.
        if !after.starts_with([' ', '\t']) {
            continue;
        }
        let key =
            before.rsplit([' ', '{', ',', '\t', '"', '\'']).find(|word| !word.is_empty()).unwrap_or_default();
        let value = after.trim_start();
        let refers = value.is_empty() || value.starts_with(['{', '&', '*', '#']);
        if !names_a_secret(key) || refers {
            continue;
        }
        let from = offset + 1 + (after.len() - value.len());
        if value.starts_with(['"', '\'']) {
            hidden.push(span(from, from + value.trim_end().len()));
            break;
        }
        // Inside the value before it, which ends where this one does.
        if from < last {
            continue;
        }
        // A list or a map in braces goes on after the value.
        last = from + value.find([',', '}']).unwrap_or(value.len());
        hidden.push(span(from, from + text.get(from..last).unwrap_or_default().trim_end().len()));
    }
    hidden
}

/// Whether a key is named like one that holds a secret.
pub(crate) fn names_a_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["secret", "token", "passw", "hmac", "api_key", "apikey", "private_key", "account_key", "credential"]
        .iter()
        .any(|word| key.contains(word))
}

fn back(text: &str, start: usize, from: usize, characters: usize) -> usize {
    text.get(start..from)
        .and_then(|before| before.char_indices().rev().nth(characters).map(|(offset, _)| start + offset))
        .unwrap_or(start)
}

fn printable(path: &str) -> String {
    path.chars().flat_map(|c| if is_hidden(c) { c.escape_default().collect() } else { vec![c] }).collect()
}
