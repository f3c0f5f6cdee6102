//! A YAML text as a tree in which everything knows its place.
//!
//! The tree is what schemas are checked against and what the configuration is read from.

use serde_json::Number;
use serde_json::Value;

use super::span::Span;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Where it stands; where it is empty, the key before it.
    pub(crate) span: Span,
    /// Unique among the nodes of a configuration, except that copies through aliases share it.
    pub(crate) id: u32,
    /// What it is.
    pub(crate) content: Content,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A map, in the order of the text, each key once.
    Map(Vec<Entry>),
    /// A text, number, boolean or nothing: which one depends on what is expected.
    Scalar {
        /// The text without quotes and escapes.
        text: String,
        /// Whether it was written without quotes, and so may be a number, a boolean or nothing.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
}

/// The identifier of a node that stands for something wrong, which has been said.
pub(crate) const POISONED: u32 = 0;

/// A key of a map and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// The key's place.
    pub(crate) span: Span,
    /// The value.
    pub(crate) value: Node,
}

/// What YAML takes a scalar for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    Null,
    Number(Number),
    Text(&'a str),
}

impl Node {
    /// A map without a place, for what a configuration does not say.
    pub(crate) const fn empty_map(span: Span) -> Self {
        Self { span, id: u32::MAX, content: Content::Map(Vec::new()) }
    }

    /// The entries, when it is a map.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            Content::List(_) | Content::Scalar { .. } => &[],
        }
    }

    /// The items, when it is a list.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.content {
            Content::List(items) => items,
            Content::Map(_) | Content::Scalar { .. } => &[],
        }
    }

    /// The items of a list, or the node itself as the only one.
    pub(crate) fn one_or_many(&self) -> &[Self] {
        match &self.content {
            Content::List(items) => items,
            Content::Map(_) | Content::Scalar { .. } => std::slice::from_ref(self),
        }
    }

    /// The entry of a key.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Whether nothing is written there.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if text.is_empty())
    }

    /// The text, when it is a scalar that is not empty.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, plain } if !(*plain && is_null(text)) => Some(text),
            _ => None,
        }
    }

    /// The text of a key's value.
    pub(crate) fn text_of(&self, key: &str) -> Option<(&str, Span)> {
        let value = self.get(key)?;
        Some((value.text()?, value.span))
    }

    /// What YAML 1.2's core schema takes it for, when it is a scalar.
    pub(crate) fn scalar(&self) -> Option<Scalar<'_>> {
        let Content::Scalar { text, plain } = &self.content else { return None };
        if !plain {
            return Some(Scalar::Text(text));
        }
        Some(match text.as_str() {
            text if is_null(text) => Scalar::Null,
            "true" | "True" | "TRUE" => Scalar::Bool(true),
            "false" | "False" | "FALSE" => Scalar::Bool(false),
            text => number(text).map_or(Scalar::Text(text), Scalar::Number),
        })
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.content {
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
            Content::Scalar { .. } => match self.scalar() {
                Some(Scalar::Bool(_)) => "a boolean",
                Some(Scalar::Null) | None => "nothing",
                Some(Scalar::Number(_)) => "a number",
                Some(Scalar::Text(_)) => "a text",
            },
        }
    }

    /// The node as JSON, without the keys that `leave_out` names at the top.
    pub(crate) fn to_json(&self, leave_out: &[&str]) -> Value {
        match &self.content {
            Content::List(items) => items.iter().map(|item| item.to_json(&[])).collect(),
            Content::Map(entries) => entries
                .iter()
                .filter(|entry| !leave_out.contains(&entry.key.as_str()))
                .map(|entry| (entry.key.clone(), entry.value.to_json(&[])))
                .collect(),
            Content::Scalar { .. } => match self.scalar() {
                Some(Scalar::Bool(value)) => Value::Bool(value),
                Some(Scalar::Null) | None => Value::Null,
                Some(Scalar::Number(number)) => Value::Number(number),
                Some(Scalar::Text(text)) => Value::String(text.to_owned()),
            },
        }
    }

    /// The place that a JSON pointer names ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)), as far as it leads.
    pub(crate) fn pointer(&self, pointer: &str) -> Span {
        let mut node = self;
        for token in pointer.split('/').skip(1) {
            let Some(next) = node.child(token) else { break };
            node = next;
        }
        node.span
    }

    /// What a JSON pointer leads to.
    pub(crate) fn at(&self, pointer: &str) -> Option<&Self> {
        pointer.split('/').skip(1).try_fold(self, |node, token| node.child(token))
    }

    /// What one token of a JSON pointer leads to.
    fn child(&self, token: &str) -> Option<&Self> {
        let token = token.replace("~1", "/").replace("~0", "~");
        match &self.content {
            Content::List(items) => items.get(token.parse::<usize>().ok()?),
            Content::Map(_) | Content::Scalar { .. } => self.get(&token),
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || digits.len() > 40 {
        return None;
    }
    // A leading zero is an octal number in YAML 1.1 and a decimal one in 1.2: neither is meant.
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Some(integer.into());
    }
    if let Ok(integer) = text.parse::<u64>() {
        return Some(integer.into());
    }
    let float = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !float || !digits.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().and_then(Number::from_f64)
}

/// A text as it is to be written, even in a list in brackets: in quotes where it needs them.
pub(crate) fn written(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+'));
    let plain = begins
        && text != "-"
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+' | '=' | '@' | ':' | '%'))
        && !text.ends_with(':')
        && not_a_text(text).is_none();
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// Why a plain scalar is not safe as a text: YAML 1.1 or 1.2 takes it for something else.
pub(crate) fn not_a_text(text: &str) -> Option<&'static str> {
    if is_null(text) {
        return Some("nothing");
    }
    let lower = text.to_ascii_lowercase();
    if text.len() <= 5 && matches!(lower.as_str(), "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n")
    {
        return Some("a boolean");
    }
    let digits = lower.strip_prefix(['-', '+']).unwrap_or(&lower);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let all = |allowed: fn(u8) -> bool| digits.bytes().all(allowed);
    let sexagesimal = digits.contains(':')
        && all(|b| b.is_ascii_digit() || b == b':')
        && digits.split(':').skip(1).all(|part| matches!(part.parse(), Ok(0..=59_u32)) && part.len() <= 2);
    let based = ["0x", "0o", "0b"].iter().any(|prefix| {
        digits
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let decimal = all(|b| b.is_ascii_digit() || b == b'_') || number(text).is_some();
    (sexagesimal || based || decimal || matches!(digits, ".inf" | ".nan")).then_some("a number")
}
