//! From text to [`Node`]s.
//!
//! YAML 1.2 without tags and with one document. Aliases and merge keys (`<<`) are expanded while the tree is built,
//! within bounds: the size of what an alias stands for is known before it is copied, so that a bomb costs nothing.

use std::collections::HashMap;
use std::collections::HashSet;

use serde_saphyr::granit_parser::Event;
use serde_saphyr::granit_parser::Options;
use serde_saphyr::granit_parser::Parser;
use serde_saphyr::granit_parser::ScalarStyle;
use serde_saphyr::granit_parser::ScanError;
use serde_saphyr::granit_parser::Span as ParserSpan;

use super::diagnostic::Diagnostic;
use super::diagnostic::Report;
use super::diagnostic::is_hidden;
use super::diagnostic::quoted;
use super::node::Content;
use super::node::Entry;
use super::node::Node;
use super::node::POISONED;
use super::span::Source;
use super::span::Span;

/// Bounds of what is read, so that no text can make certplan slow or large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Octets in a file.
    pub(crate) file: usize,
    /// Octets in all files.
    pub(crate) total: usize,
    /// Files in a folder.
    pub(crate) files: usize,
    /// Nodes in a file.
    pub(crate) nodes: usize,
    /// Nodes that aliases add.
    pub(crate) alias_nodes: usize,
    /// Collections inside each other.
    pub(crate) depth: usize,
    /// Octets in one text.
    pub(crate) scalar: usize,
}

/// Ten thousand certificates in one file are about 3 MiB and 300,000 nodes.
pub(crate) const LIMITS: Limits = Limits {
    file: 16 << 20,
    total: 64 << 20,
    files: 4_096,
    nodes: 1_000_000,
    alias_nodes: 100_000,
    depth: 32,
    scalar: 64 << 10,
};

/// Parses one file. What is wrong goes to the report; `None` when the rest of the file cannot be trusted.
pub(crate) fn parse(
    source: &Source,
    file: u32,
    limits: &Limits,
    next_id: &mut u32,
    report: &mut Report,
) -> Option<Node> {
    if source.text.len() > limits.file {
        let message = format!("the file is larger than {} MiB", limits.file >> 20);
        report.push(Diagnostic::error("too-large", Span::new(file, 0, 0), message));
        return None;
    }
    let errors = report.errors();
    refuse_hidden_characters(source, file, report);
    if report.errors() > errors {
        return None;
    }
    let mut builder = Builder {
        source,
        file,
        limits,
        next_id,
        report,
        frames: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        nodes: 0,
        alias_nodes: 0,
        documents: 0,
    };
    builder.run().then_some(())?;
    builder.root
}

/// Control characters can hide text from a reviewer or drive a terminal; a configuration needs none.
fn refuse_hidden_characters(source: &Source, file: u32, report: &mut Report) {
    let mut characters = source.text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let bad = match character {
            '\t' | '\n' => false,
            '\r' => !matches!(characters.peek(), Some((_, '\n'))),
            other => is_hidden(other),
        };
        if bad {
            let span = Span::new(file, at, at + character.len_utf8());
            let message = format!("the character `{}` is not allowed", character.escape_default());
            report.push(Diagnostic::error("control-character", span, message).help(
                "control characters and invisible characters can hide text from a reviewer; remove it",
            ));
        }
    }
}

/// A node, how many nodes it stands for and how deep it is.
struct Measured {
    node: Node,
    nodes: usize,
    height: usize,
}

struct Frame {
    start: Span,
    anchor: usize,
    nodes: usize,
    height: usize,
    kind: FrameKind,
}

enum FrameKind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Span, bool)> },
}

struct Builder<'a> {
    source: &'a Source,
    file: u32,
    limits: &'a Limits,
    next_id: &'a mut u32,
    report: &'a mut Report,
    frames: Vec<Frame>,
    /// `None` while the anchored collection is still open.
    anchors: HashMap<usize, Option<Measured>>,
    root: Option<Node>,
    nodes: usize,
    alias_nodes: usize,
    documents: usize,
}

impl Builder<'_> {
    /// Whether the whole text was read.
    fn run(&mut self) -> bool {
        let mut options = Options::default();
        options.set_emit_comments(false);
        options.emit_unresolved_aliases = true;
        // One more than ours, so that ours is the one that speaks.
        options.flow_nesting_limit = self.limits.depth * 2;
        options.block_nesting_limit = self.limits.depth * 2;
        let source = self.source;
        for event in Parser::new_from_str_with_options(&source.text, options) {
            let done = match event {
                Ok((event, span)) => self.event(event, &span),
                Err(error) => {
                    let diagnostic = self.syntax(&error);
                    self.fatal(diagnostic)
                }
            };
            if done.is_none() {
                return false;
            }
        }
        true
    }

    /// `None` ends the reading.
    fn event(&mut self, event: Event<'_>, at: &ParserSpan) -> Option<()> {
        let span = self.span(at);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.fatal(
                        Diagnostic::error("several-documents", span, "a second YAML document starts here")
                            .help(
                                "a configuration is one document: remove the `---`, or use a folder of files",
                            ),
                    );
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some() {
                    self.refuse_tag(span);
                }
                if text.len() > self.limits.scalar {
                    let message = format!("the text is longer than {} KiB", self.limits.scalar >> 10);
                    return self.fatal(Diagnostic::error("too-large", span, message));
                }
                if let Some(character) =
                    text.chars().find(|c| is_hidden(*c) && !matches!(c, '\n' | '\r' | '\t'))
                {
                    let kind = if character.is_control() { "control" } else { "invisible" };
                    let message = format!(
                        "the escaped {kind} character `{}` is not allowed",
                        character.escape_default()
                    );
                    self.report.push(Diagnostic::error("control-character", span, message));
                }
                let plain = style == ScalarStyle::Plain;
                let span = if plain { span } else { self.trimmed(span) };
                // The parser says `~` where nothing is written.
                let empty = plain && span.start == span.end;
                let text = if empty { String::new() } else { text.into_owned() };
                self.scalar(text, plain, span, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                if tag.is_some() {
                    self.refuse_tag(span);
                }
                self.open(FrameKind::List(Vec::new()), span, anchor)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                if tag.is_some() {
                    self.refuse_tag(span);
                }
                self.open(FrameKind::Map { entries: Vec::new(), key: None }, span, anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            Event::Alias(anchor) => self.alias(anchor, span)?,
            Event::UnresolvedAlias(name) => {
                let message = format!("there is no anchor {} before this", quoted(&format!("&{name}")));
                self.report.push(
                    Diagnostic::error("unknown-anchor", span, message)
                        .help("a text that begins with `*` needs quotes: `\"*.example.com\"`"),
                );
                self.count(span)?;
                if self.awaits_key() {
                    return self.complex_key(span);
                }
                let content = Content::Scalar { text: String::new(), plain: true };
                self.add(Measured { node: Node { span, id: POISONED, content }, nodes: 1, height: 0 });
            }
            _ => {}
        }
        Some(())
    }

    fn span(&self, span: &ParserSpan) -> Span {
        let (start, end) = span.byte_range().map_or((0, 0), |range| (range.start, range.end));
        Span::new(self.file, start, end)
    }

    /// Block scalars end where the next token begins: cut the blanks.
    fn trimmed(&self, span: Span) -> Span {
        let text = self.source.text.get(span.start as usize..span.end as usize).unwrap_or_default();
        Span::new(self.file, span.start as usize, span.start as usize + text.trim_end().len())
    }

    fn fatal(&mut self, diagnostic: Diagnostic) -> Option<()> {
        self.report.push(diagnostic);
        None
    }

    fn refuse_tag(&mut self, span: Span) {
        self.report.push(
            Diagnostic::error("tag", span, "YAML tags (`!name`) are not supported")
                .help("remove it; a text that looks like a number needs quotes"),
        );
    }

    fn id(&mut self) -> u32 {
        *self.next_id = self.next_id.wrapping_add(1).max(POISONED + 1);
        *self.next_id
    }

    fn count(&mut self, span: Span) -> Option<()> {
        self.nodes += 1;
        if self.nodes <= self.limits.nodes {
            return Some(());
        }
        let message = format!("the file has more than {} values", self.limits.nodes);
        self.fatal(Diagnostic::error("too-large", span, message).help("split it: `--config` takes a folder"))
    }

    fn open(&mut self, kind: FrameKind, start: Span, anchor: usize) -> Option<()> {
        self.count(start)?;
        if self.awaits_key() {
            return self.complex_key(start);
        }
        if self.frames.len() >= self.limits.depth {
            let message = format!("more than {} lists and maps inside each other", self.limits.depth);
            return self.fatal(Diagnostic::error("too-deep", start, message));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, None);
        }
        self.frames.push(Frame { start, anchor, nodes: 1, height: 1, kind });
        Some(())
    }

    fn awaits_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame { kind: FrameKind::Map { key: None, .. }, .. }))
    }

    fn complex_key(&mut self, span: Span) -> Option<()> {
        self.fatal(
            Diagnostic::error("syntax", span, "a key of a map must be a text")
                .help("a text that begins with `{`, `[` or `*` needs quotes"),
        )
    }

    fn scalar(&mut self, text: String, plain: bool, span: Span, anchor: usize) -> Option<()> {
        self.count(span)?;
        if self.awaits_key() {
            if let Some(Frame { kind: FrameKind::Map { key, .. }, .. }) = self.frames.last_mut() {
                *key = Some((text, span, plain));
            }
            return Some(());
        }
        let mut span = span;
        if plain && text.is_empty() && span.start == span.end {
            span = self.empty_place(span);
        }
        let node = Node { span, id: self.id(), content: Content::Scalar { text, plain } };
        if anchor > 0 {
            let copy = Measured { node: node.clone(), nodes: 1, height: 0 };
            self.anchors.insert(anchor, Some(copy));
        }
        self.add(Measured { node, nodes: 1, height: 0 });
        Some(())
    }

    /// What an empty value is shown at: the key before it.
    fn empty_place(&self, span: Span) -> Span {
        match self.frames.last() {
            Some(Frame { kind: FrameKind::Map { key: Some((_, key, _)), .. }, .. }) => *key,
            _ => span,
        }
    }

    fn add(&mut self, value: Measured) {
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(value.node);
            return;
        };
        frame.nodes += value.nodes;
        frame.height = frame.height.max(value.height + 1);
        match &mut frame.kind {
            FrameKind::List(items) => items.push(value.node),
            FrameKind::Map { entries, key } => {
                // Callers have made sure that there is a key.
                if let Some((key, span, plain)) = key.take() {
                    let key = if plain && key == "<<" { MERGE.to_owned() } else { key };
                    entries.push(Entry { key, span, value: value.node });
                }
            }
        }
    }

    fn close(&mut self, end: Span) -> Option<()> {
        let Some(mut frame) = self.frames.pop() else { return Some(()) };
        // The tree of a large configuration is mostly short lists, and room for more in each would double it.
        let content = match frame.kind {
            FrameKind::List(mut items) => {
                items.shrink_to_fit();
                Content::List(items)
            }
            FrameKind::Map { entries, .. } => {
                let entries = self.without_duplicates(entries);
                let mut entries = self.merge(entries, &mut frame.nodes);
                entries.shrink_to_fit();
                Content::Map(entries)
            }
        };
        let stop = (end.end as usize).min(self.source.text.len());
        let inside = self.source.text.get(frame.start.start as usize..stop).unwrap_or_default();
        // A block collection ends where the next token begins: cut blanks, and comments with them when they are last.
        let span = Span::new(
            self.file,
            frame.start.start as usize,
            frame.start.start as usize + inside.trim_end().len(),
        );
        let node = Node { span, id: self.id(), content };
        if frame.anchor > 0 {
            self.copy(frame.nodes, span)?;
            let copy = Measured { node: node.clone(), nodes: frame.nodes, height: frame.height };
            self.anchors.insert(frame.anchor, Some(copy));
        }
        self.add(Measured { node, nodes: frame.nodes, height: frame.height });
        Some(())
    }

    fn without_duplicates(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        // Most maps are small.
        let small = entries.len() <= 8;
        if small
            && (1..entries.len()).all(|at| entries[..at].iter().all(|other| other.key != entries[at].key))
        {
            return entries;
        }
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
        let mut repeated = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some(first) = seen.get(entry.key.as_str()) {
                repeated.push((index, *first));
            } else {
                seen.insert(&entry.key, index);
            }
        }
        if repeated.is_empty() {
            return entries;
        }
        for (index, first) in &repeated {
            let (again, first) = (&entries[*index], &entries[*first]);
            let name = if again.key == MERGE { "<<" } else { &again.key };
            let message = format!("the key {} is there twice", quoted(name));
            self.report.push(
                Diagnostic::error("duplicate-key", again.span, message)
                    .label("again here")
                    .related(first.span, "first here"),
            );
        }
        let again: HashSet<usize> = repeated.into_iter().map(|(again, _)| again).collect();
        let kept = entries.into_iter().enumerate().filter(|(index, _)| !again.contains(index));
        kept.map(|(_, entry)| entry).collect()
    }

    /// Replaces `<<: *anchor` and `<<: [*one, *two]` by what they stand for; keys of the map itself win.
    fn merge(&mut self, mut entries: Vec<Entry>, nodes: &mut usize) -> Vec<Entry> {
        let Some(at) = entries.iter().position(|entry| entry.key == MERGE) else { return entries };
        let merge = entries.remove(at);
        let mut own: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        for part in merge.value.one_or_many().iter().filter(|part| part.id != POISONED) {
            let Content::Map(more) = &part.content else {
                self.report.push(
                    Diagnostic::error("wrong-type", part.span, "`<<` takes a map or a list of maps")
                        .help("write an alias of a map: `<<: *defaults`"),
                );
                continue;
            };
            for entry in more {
                if own.insert(entry.key.clone()) {
                    *nodes += 1;
                    entries.push(entry.clone());
                }
            }
        }
        entries
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Option<()> {
        self.count(span)?;
        if self.awaits_key() {
            return self.complex_key(span);
        }
        let Some(Some(target)) = self.anchors.get(&anchor) else {
            return self.fatal(Diagnostic::error(
                "alias-cycle",
                span,
                "the alias stands for something that contains it",
            ));
        };
        let (nodes, height) = (target.nodes, target.height);
        self.copy(nodes, span)?;
        if self.frames.len() + height > self.limits.depth {
            let message = format!("more than {} lists and maps inside each other", self.limits.depth);
            return self.fatal(Diagnostic::error("too-deep", span, message));
        }
        let Some(Some(target)) = self.anchors.get(&anchor) else { return Some(()) };
        let mut node = target.node.clone();
        // A scalar is wrong where it is used; what is inside a collection is wrong where it is written.
        node.span = span;
        self.add(Measured { node, nodes, height });
        Some(())
    }

    /// Counts what anchors and aliases copy.
    fn copy(&mut self, nodes: usize, span: Span) -> Option<()> {
        self.alias_nodes = self.alias_nodes.saturating_add(nodes);
        if self.alias_nodes <= self.limits.alias_nodes {
            return Some(());
        }
        let message = format!("anchors and aliases stand for more than {} values", self.limits.alias_nodes);
        self.fatal(Diagnostic::error("alias-bomb", span, message))
    }

    fn syntax(&self, error: &ScanError) -> Diagnostic {
        let marker = error.marker();
        let text = &self.source.text;
        let at = marker.byte_offset().unwrap_or_else(|| {
            text.char_indices().nth(marker.index()).map_or(text.len(), |(octet, _)| octet)
        });
        let at = self.source.floor(at);
        let line = self.source.line_of(at);
        // The parser speaks of the scalar before the tab, which is of no use.
        for line in [line, line + 1] {
            let (start, end) = self.source.line_range(line);
            let content = text.get(start..end).unwrap_or_default();
            let blanks = content.len() - content.trim_start_matches([' ', '\t']).len();
            if let Some(tab) = content.get(..blanks).and_then(|blanks| blanks.find('\t')) {
                let span = Span::new(self.file, start + tab, start + tab + 1);
                return Diagnostic::error("tab", span, "a tab indents this line")
                    .help("YAML is indented with blanks only");
            }
        }
        let info = error.info();
        if info.contains("recursion limit") || info.contains("nesting") {
            let message = format!("more than {} lists and maps inside each other", self.limits.depth);
            return Diagnostic::error("too-deep", Span::new(self.file, at, at), message);
        }
        Diagnostic::error("syntax", Span::new(self.file, at, at), format!("not YAML: {info}"))
            .help_for_syntax(text, at)
    }
}

impl Diagnostic {
    fn help_for_syntax(self, text: &str, at: usize) -> Self {
        let line = text.get(..at).and_then(|before| before.rsplit('\n').next()).unwrap_or_default();
        if line.contains(": ") && text.get(at..).is_some_and(|rest| rest.starts_with(':')) {
            return self.help(
                "a text that contains `: ` needs quotes; a key needs the indentation of its neighbours",
            );
        }
        if text.get(at..).is_some_and(|rest| rest.starts_with(['@', '`', '%', '*', '&'])) {
            return self.help("a text that begins with this character needs quotes");
        }
        if line.contains(['[', '{']) || self.message.ends_with("placement of ':' indicator") {
            return self.help("a `[`, `{` or quote before this may not be closed");
        }
        self
    }
}

/// No key of a text can be this: control characters are refused.
const MERGE: &str = "\u{1}<<";
