//! Where a reference to a secret is due, and nothing of what stands there is to be shown.

use std::sync::Arc;

use super::Checker;
use super::Fit;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::quoted;
use crate::config::node::Content;
use crate::config::node::Entry;
use crate::config::node::Node;
use crate::config::path::bad_path;
use crate::config::path::could_be_path;
use crate::config::rule::Kind;
use crate::config::rule::Rule;
use crate::model::IDENTITY;
use crate::model::IDENTITY_FILE;

impl Checker<'_> {
    pub(super) fn secret(&mut self, node: &Node, rule: &Rule, key: &str) -> Fit {
        let reference = |name: &str| format!("{key}: {{ env: {name} }}");
        if let Content::Scalar { text, plain } = &node.content {
            if *plain && text.is_empty() {
                self.wrong_kind(node, &[Kind::Map], key, rule);
                return Fit::Not;
            }
            let variable = text
                .strip_prefix('$')
                .map(|name| name.trim_start_matches('{').trim_end_matches('}'))
                .filter(|name| is_variable(name));
            let diagnostic = Diagnostic::error(
                "literal-secret",
                node.span,
                format!("{} holds a secret itself", quoted(key)),
            );
            match variable {
                Some(name) => self.report.push(
                    Diagnostic { message: format!("{} is not expanded", quoted(text)), ..diagnostic }
                        .help(format!("write {}", quoted(&reference(name)))),
                ),
                None => {
                    self.report.mask(node.span);
                    self.report.push(
                        diagnostic
                            .label("a secret is not shown")
                            .help(format!("say where it is found: {}", quoted(&reference("NAME"))))
                            .help("whoever can read the file or its history knows the secret: replace it"),
                    );
                }
            }
            return Fit::Not;
        }
        if !node.items().is_empty() {
            self.report.mask(node.span);
        }
        let is_reference = |entry: &Entry| {
            (entry.key == "env" || entry.key == "file")
                && matches!(entry.value.content, Content::Scalar { .. })
        };
        for entry in node.entries().iter().filter(|entry| !is_reference(entry)) {
            self.report.mask(entry.value.span);
        }
        // A key without a value may be the secret, and nothing beside it is looked at.
        let is_lone = |entry: &&Entry| entry.value.is_nothing() && entry.key != "env" && entry.key != "file";
        if let Some(lone) = node.entries().iter().find(is_lone) {
            for entry in node.entries() {
                self.report.mask(entry.value.span);
            }
            for entry in node.entries().iter().filter(is_lone) {
                self.report.mask(entry.span);
            }
            self.report.push(
                Diagnostic::error("literal-secret", lone.span, "this is no reference to a secret")
                    .label("not shown: it may be a secret")
                    .help(format!("say where it is found: {}", quoted(&reference("NAME")))),
            );
            return Fit::Not;
        }
        let variable = format!("write the variable's name: {}", quoted(&reference("NAME")));
        let path = format!("write the path of a file: {}", quoted(&format!("{key}: {{ file: PATH }}")));
        let literals = [
            ("env", is_variable as fn(&str) -> bool, "the name of an environment variable", variable),
            ("file", could_be_path, "the path of a file", path),
        ]
        .into_iter()
        .filter_map(|(key, is_reference, what, help)| {
            let value = node.get(key).filter(|value| value.text().is_some_and(|text| !is_reference(text)))?;
            Some((key, value.span, what, help))
        });
        let mut fit = Fit::Whole;
        let mut said = Vec::new();
        for (key, span, what, help) in literals {
            fit = Fit::Not;
            said.push(key);
            self.report.mask(span);
            self.report.push(
                Diagnostic::error("literal-secret", span, format!("this is not {what}"))
                    .label("not shown: it may be a secret")
                    .help(help),
            );
        }
        if let Some(value) = node.get("env")
            && let Some(name) = value.text()
            && [IDENTITY, IDENTITY_FILE].contains(&name)
        {
            let message = format!("{} is certplan's own: it leads to what opens all keys", quoted(name));
            let help = "write the name of the variable that holds this secret";
            self.report.push(Diagnostic::error("own-variable", value.span, message).help(help));
            fit = Fit::Not;
        }
        if let Some(value) = node.get("file")
            && let Some(path) = value.text()
            && let Some((message, help)) = bad_path(path)
        {
            self.report.push(Diagnostic::error("path", value.span, message).help(help));
            fit = Fit::Not;
        }
        let mut union = Rule { kinds: vec![Kind::Map], ..Rule::default() };
        for branch in &rule.branches {
            union.properties.extend(branch.properties.clone());
            union.one_of_keys.extend(branch.required.clone());
        }
        for key in said {
            // No more is said of what may be a secret: a message would show it.
            union.properties.insert(key.to_owned(), Arc::default());
        }
        fit.and(self.judge(node, &union, key));
        fit
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        // A token in lower and upper case letters and digits without an underscore is rather a secret.
        && !(name.len() > 20 && !name.contains('_') && name.contains(|c: char| c.is_ascii_lowercase()))
}
