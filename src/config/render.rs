//! Diagnostics as text with the source lines they are about.

use annotate_snippets::Annotation;
use annotate_snippets::AnnotationKind;
use annotate_snippets::Group;
use annotate_snippets::Level;
use annotate_snippets::Origin;
use annotate_snippets::Renderer;
use annotate_snippets::Snippet;

use super::diagnostic::Diagnostic;
use super::diagnostic::Label;
use super::diagnostic::Severity;
use super::diagnostic::is_hidden;
use super::span::Source;
use super::span::Sources;
use super::span::Span;

/// How many characters of a line are shown around a place.
const WINDOW: usize = 100;

/// Renders one diagnostic without a line break at its end.
pub(crate) fn render(diagnostic: &Diagnostic, sources: &Sources, masks: &[Span], colour: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let excerpts: Vec<Excerpt<'_>> =
        diagnostic.labels.iter().filter_map(|label| Excerpt::new(label, sources, masks)).collect();
    let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()).id(diagnostic.code));
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
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let text = renderer.term_width(WINDOW * 3).render(&[group]);
    // Lines that hold nothing end in blanks; after an origin comes a line for a source that is cut.
    text.lines().map(str::trim_end).filter(|line| visible(line) != ":::").collect::<Vec<_>>().join("\n")
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
    fn new(label: &'a Label, sources: &Sources, masks: &[Span]) -> Option<Self> {
        let source = sources.file(label.span)?;
        let location = sources.locate(label.span)?;
        let line = location.line - 1;
        let (line_start, line_end) = source.line_range(line);
        let from = source.floor(label.span.start as usize).min(line_end);
        let to = source.floor(label.span.end as usize).clamp(from, line_end);
        let hidden = hidden_ranges(source, label.span.file, masks, line_start, line_end);
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
            if hidden.iter().any(|(start, end)| (*start..*end).contains(&at)) {
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

/// What must not be printed of a line: what is known to be a secret, and what follows a key that names one.
fn hidden_ranges(
    source: &Source,
    file: u32,
    masks: &[Span],
    start: usize,
    end: usize,
) -> Vec<(usize, usize)> {
    let mut hidden: Vec<(usize, usize)> = masks
        .iter()
        .filter(|mask| mask.file == file)
        .map(|mask| (mask.start as usize, mask.end as usize))
        .filter(|(from, to)| *from < end && *to > start)
        .collect();
    let line = source.text.get(start..end).unwrap_or_default();
    let upper = line.to_ascii_uppercase();
    for prefix in ["AGE-SECRET-KEY-", "AGE-PLUGIN-"] {
        for (offset, _) in upper.match_indices(prefix) {
            let length = upper.get(offset..).map_or(0, |rest| {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len())
            });
            hidden.push((start + offset, start + offset + length));
        }
    }
    for (offset, _) in line.match_indices(':') {
        let (before, after) =
            (line.get(..offset).unwrap_or_default(), line.get(offset + 1..).unwrap_or_default());
        let key =
            before.rsplit([' ', '{', ',', '\t', '"', '\'']).find(|word| !word.is_empty()).unwrap_or_default();
        let value = after.trim_start();
        let refers = value.is_empty() || value.starts_with(['{', '&', '*', '#']);
        if names_a_secret(key) && !refers && after.starts_with([' ', '\t']) {
            let from = start + offset + 1 + (after.len() - value.len());
            // A list or a map in braces goes on after the value.
            let length = if value.starts_with(['"', '\'']) {
                value.len()
            } else {
                value.find([',', '}']).unwrap_or(value.len())
            };
            let length = value.get(..length).map_or(length, |value| value.trim_end().len());
            hidden.push((from, from + length));
        }
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
