//! What could be written in the place of what is missing or wrong.

use serde_json::Value;
use serde_json::json;

use super::node::not_a_text;
use super::node::written;
use super::rule::Kind;
use super::rule::Rule;

/// A value of the kind that is asked for. No more than its form is right.
pub(crate) fn example(rule: &Rule) -> Value {
    if rule.secret {
        return json!({ "env": "NAME" });
    }
    if let Some(value) = rule.values.first() {
        return value.clone();
    }
    if let Some(part) = rule.branches.iter().chain(&rule.all).next() {
        return example(part);
    }
    match rule.kinds.first() {
        Some(Kind::Boolean) => Value::Bool(false),
        Some(Kind::Integer | Kind::Number) => json!(rule.minimum.unwrap_or(1.0).ceil() as i64),
        Some(Kind::List) => rule.items.iter().map(|item| example(item)).collect(),
        Some(Kind::Map) => rule
            .required
            .iter()
            .filter_map(|key| Some((key.clone(), example(rule.properties.get(key)?))))
            .collect(),
        Some(Kind::Text) | None => rule.example.clone().unwrap_or_else(|| "example".to_owned()).into(),
    }
}

/// What to add for a missing key.
pub(crate) fn sketch(key: &str, rule: &Rule) -> String {
    let value = match (rule.values.first(), rule.kinds.first(), &rule.example) {
        (Some(Value::String(text)), ..) => text.clone(),
        (Some(value), ..) => value.to_string(),
        (None, Some(Kind::Text), Some(example)) => written(example),
        (None, _, Some(example)) => example.clone(),
        (None, Some(Kind::Boolean), None) => "true".to_owned(),
        (None, Some(Kind::List), None) => "[...]".to_owned(),
        (None, Some(Kind::Map), None) => "{ ... }".to_owned(),
        (None, ..) if rule.secret => "{ env: NAME }".to_owned(),
        (None, ..) => "...".to_owned(),
    };
    format!("{key}: {value}")
}

/// The items of a list that somebody has written as one text; `None` where they cannot be told.
pub(crate) fn as_list(text: &str, plain: bool, rule: &Rule) -> Option<String> {
    let of_texts =
        rule.items.as_ref().is_some_and(|item| item.kinds.is_empty() || item.kinds.contains(&Kind::Text));
    // What only a shell takes apart, and what is no text to begin with.
    let unclear = text.contains(['"', '\'', '\\', '`', '|', '&', ';', '<', '>', '$'])
        || (plain && not_a_text(text).is_some());
    if !of_texts || unclear {
        return None;
    }
    let words: Vec<&str> = match text.contains(char::is_whitespace) {
        true => text.split_whitespace().map(|word| word.trim_matches(',')).collect(),
        false => text.split(',').collect(),
    };
    let items: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).map(written).collect();
    (!items.is_empty()).then(|| items.join(", "))
}
