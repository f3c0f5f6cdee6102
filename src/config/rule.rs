//! A JSON Schema compiled into what the walker asks of each node.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::Map;
use serde_json::Value;

use super::node::Scalar;

/// A type of JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    Integer,
    List,
    Map,
    Number,
    Text,
}

impl Kind {
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Boolean => "`true` or `false`",
            Self::Integer => "a whole number",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Number => "a number",
            Self::Text => "a text",
        }
    }
}

/// What is asked of one node.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    /// Any of these; empty means anything.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) properties: BTreeMap<String, Arc<Self>>,
    pub(crate) required: Vec<String>,
    /// What other keys hold; `None` when other keys are refused.
    pub(crate) others: Option<Arc<Self>>,
    /// What keys look like.
    pub(crate) key_pattern: Option<Regex>,
    /// Exactly one of these keys is to be there.
    pub(crate) one_of_keys: Vec<String>,
    pub(crate) items: Option<Arc<Self>>,
    pub(crate) min_items: usize,
    pub(crate) max_items: Option<usize>,
    /// The only values, when not empty.
    pub(crate) values: Vec<Value>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) min_length: usize,
    pub(crate) max_length: Option<usize>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    /// Alternatives, of which one has to fit.
    pub(crate) branches: Vec<Arc<Self>>,
    /// Rules that hold as well.
    pub(crate) all: Vec<Arc<Self>>,
    /// A reference to a secret is due: a map of `env` or `file`.
    pub(crate) secret: bool,
    /// Checked elsewhere, with more knowledge than the schema has.
    pub(crate) deferred: bool,
    /// An example, for help.
    pub(crate) example: Option<String>,
}

/// Compiles schemas; patterns and definitions are compiled once.
#[derive(Debug)]
pub(crate) struct Compiler<'a> {
    definitions: &'a Map<String, Value>,
    compiled: HashMap<String, Arc<Rule>>,
    deferred: &'static str,
}

impl<'a> Compiler<'a> {
    /// A compiler for schemas with these definitions, of which `deferred` is left for later.
    pub(crate) fn new(definitions: &'a Map<String, Value>, deferred: &'static str) -> Self {
        Self { definitions, compiled: HashMap::new(), deferred }
    }

    /// Compiles one schema. What it does not understand of it asks nothing.
    pub(crate) fn compile(&mut self, schema: &Value) -> Arc<Rule> {
        let Value::Object(map) = schema else { return Arc::default() };
        if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
            return self.definition(name);
        }
        let mut rule = Rule {
            kinds: kinds(map),
            required: texts(map, "required"),
            min_items: size(map, "minItems").unwrap_or(0),
            max_items: size(map, "maxItems"),
            min_length: size(map, "minLength").unwrap_or(0),
            max_length: size(map, "maxLength"),
            minimum: map.get("minimum").and_then(Value::as_f64),
            maximum: map.get("maximum").and_then(Value::as_f64),
            pattern: pattern(map),
            key_pattern: map.get("propertyNames").and_then(Value::as_object).and_then(pattern),
            example: example(map),
            ..Rule::default()
        };
        if let Some(Value::Array(values)) = map.get("enum") {
            rule.values.clone_from(values);
        }
        if let Some(value) = map.get("const") {
            rule.values = vec![value.clone()];
        }
        if let Some(Value::Object(properties)) = map.get("properties") {
            rule.properties =
                properties.iter().map(|(name, schema)| (name.clone(), self.compile(schema))).collect();
        }
        rule.others = match map.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            Some(schema) => Some(self.compile(schema)),
            None if rule.properties.is_empty() => Some(Arc::default()),
            None => None,
        };
        rule.items = map.get("items").map(|schema| self.compile(schema));
        rule.all = schemas(map, "allOf").iter().map(|schema| self.compile(schema)).collect();
        for key in ["oneOf", "anyOf"] {
            let branches = schemas(map, key);
            let keys: Option<Vec<String>> = branches.iter().map(only_required).collect();
            match keys {
                Some(keys) if !keys.is_empty() => rule.one_of_keys = keys,
                _ => rule.branches.extend(branches.iter().map(|schema| self.compile(schema))),
            }
        }
        rule.merge_enumerations();
        let mut keys: Vec<&str> =
            rule.branches.iter().flat_map(|branch| branch.required.iter().map(String::as_str)).collect();
        keys.sort_unstable();
        rule.secret = keys == ["env", "file"];
        Arc::new(rule)
    }

    fn definition(&mut self, name: &str) -> Arc<Rule> {
        if let Some(rule) = self.compiled.get(name) {
            return Arc::clone(rule);
        }
        if name == self.deferred {
            return Arc::new(Rule { deferred: true, kinds: vec![Kind::Map], ..Rule::default() });
        }
        // A definition that contains itself asks nothing the second time.
        self.compiled.insert(name.to_owned(), Arc::default());
        let rule = self.definitions.get(name).map_or_else(Arc::default, |schema| self.compile(schema));
        self.compiled.insert(name.to_owned(), Arc::clone(&rule));
        rule
    }
}

impl Rule {
    /// Whether a scalar is one of the values that are allowed.
    pub(crate) fn allows(&self, scalar: &Scalar<'_>) -> bool {
        let equals = |value: &Value| match (value, scalar) {
            (Value::Bool(a), Scalar::Bool(b)) => a == b,
            (Value::Null, Scalar::Null) => true,
            (Value::Number(a), Scalar::Number(b)) => a == b,
            (Value::String(a), Scalar::Text(b)) => a == b,
            _ => false,
        };
        self.values.is_empty() || self.values.iter().any(equals)
    }

    /// schemars gives documented variants as alternatives of one value each: they are one list of values.
    fn merge_enumerations(&mut self) {
        let (plain, other): (Vec<_>, Vec<_>) = std::mem::take(&mut self.branches)
            .into_iter()
            .partition(|branch| !branch.values.is_empty() && branch.kinds == [Kind::Text]);
        self.branches = other;
        if plain.is_empty() {
            return;
        }
        let values = plain.iter().flat_map(|branch| branch.values.clone()).collect();
        let merged = Self { kinds: vec![Kind::Text], values, ..Self::default() };
        if self.branches.is_empty() && self.values.is_empty() {
            self.kinds = merged.kinds;
            self.values = merged.values;
        } else {
            self.branches.insert(0, Arc::new(merged));
        }
    }
}

fn schemas<'a>(map: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    map.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn only_required(schema: &Value) -> Option<String> {
    let map = schema.as_object()?;
    match (map.len(), schemas(map, "required")) {
        (1, [Value::String(key)]) => Some(key.clone()),
        _ => None,
    }
}

fn kinds(map: &Map<String, Value>) -> Vec<Kind> {
    let kind = |name: &Value| match name.as_str()? {
        "array" => Some(Kind::List),
        "boolean" => Some(Kind::Boolean),
        "integer" => Some(Kind::Integer),
        "number" => Some(Kind::Number),
        "object" => Some(Kind::Map),
        "string" => Some(Kind::Text),
        _ => None,
    };
    match map.get("type") {
        Some(Value::Array(names)) => names.iter().filter_map(kind).collect(),
        Some(name) => kind(name).into_iter().collect(),
        None => Vec::new(),
    }
}

fn texts(map: &Map<String, Value>, key: &str) -> Vec<String> {
    schemas(map, key).iter().filter_map(|text| text.as_str().map(ToOwned::to_owned)).collect()
}

fn size(map: &Map<String, Value>, key: &str) -> Option<usize> {
    map.get(key).and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok())
}

fn pattern(map: &Map<String, Value>) -> Option<Regex> {
    map.get("pattern").and_then(Value::as_str).and_then(|pattern| Regex::new(pattern).ok())
}

fn example(map: &Map<String, Value>) -> Option<String> {
    match map.get("examples").and_then(Value::as_array)?.first()? {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) | Value::Null => None,
        other => Some(other.to_string()),
    }
}
