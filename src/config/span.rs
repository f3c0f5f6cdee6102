//! Texts, and places in them.

use std::fmt;

/// A range of octets in one of the files of a configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The index of the file in [`Sources`].
    pub file: u32,
    /// The first octet.
    pub start: u32,
    /// The octet after the last.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(file: u32, start: usize, end: usize) -> Self {
        // Files are far below 4 GiB: `Limits` sees to it before anything is parsed.
        let octet = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        Self { file, start: octet(start), end: octet(end.max(start)) }
    }
}

/// The same places in order, where they overlap as one.
pub(crate) fn disjoint(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    spans.dedup_by(|next, last| {
        let joined = next.file == last.file && next.start <= last.end;
        if joined {
            last.end = last.end.max(next.end);
        }
        joined
    });
    spans
}

/// A place as people and editors name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The path as it was given on the command line.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The text of one file, without a byte order mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path, for people.
    pub path: String,
    /// The text.
    pub text: String,
    lines: Vec<usize>,
}

impl Source {
    /// Takes a text over; a byte order mark at its beginning is dropped.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        let breaks = text.bytes().enumerate().filter(|(_, octet)| *octet == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(breaks).collect();
        Self { path: path.into(), text, lines }
    }

    /// The line that holds an octet, from 0.
    pub(crate) fn line_of(&self, octet: usize) -> usize {
        self.lines.partition_point(|start| *start <= octet).saturating_sub(1)
    }

    /// Where a line begins, and where it ends without its line break.
    pub(crate) fn line_range(&self, line: usize) -> (usize, usize) {
        let start = self.lines.get(line).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line + 1).copied().unwrap_or(self.text.len());
        let text = self.text.get(start..end).unwrap_or_default();
        (start, start + text.trim_end_matches(['\n', '\r']).len())
    }

    /// The nearest octet at or before `octet` that begins a character.
    pub(crate) fn floor(&self, octet: usize) -> usize {
        let mut octet = octet.min(self.text.len());
        while !self.text.is_char_boundary(octet) {
            octet -= 1;
        }
        octet
    }
}

/// The files of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// The files in the order in which they are read.
    pub const fn new(files: Vec<Source>) -> Self {
        Self { files }
    }

    /// The files.
    pub fn files(&self) -> &[Source] {
        &self.files
    }

    /// The file that a span is in.
    pub fn file(&self, span: Span) -> Option<&Source> {
        self.files.get(span.file as usize)
    }

    /// Where a span begins.
    pub fn locate(&self, span: Span) -> Option<Location> {
        let file = self.file(span)?;
        let start = file.floor(span.start as usize);
        let line = file.line_of(start);
        let (line_start, _) = file.line_range(line);
        let column = file.text.get(line_start..start).map_or(0, |before| before.chars().count()) + 1;
        Some(Location { file: file.path.clone(), line: line + 1, column })
    }
}
