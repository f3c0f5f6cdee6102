use std::fmt;

use certplan_http::printable;
use serde_json::Value;

/// The prefix of the error types of [RFC 8555, section 6.7](https://www.rfc-editor.org/rfc/rfc8555#section-6.7).
const NAMESPACE: &str = "urn:ietf:params:acme:error:";

/// The longest text that is taken over from a server.
const LONGEST: usize = 1000;

/// How many subproblems are told. State keeps the text of a problem, and logs have it in one line.
const SHOWN: usize = 5;

/// A problem document ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), safe to print: its texts hold no control
/// characters and are bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The type without ACME's namespace: `rateLimited`, `dns`, ...; empty when the server gave none.
    pub kind: String,
    /// What the server says.
    pub detail: String,
    /// The HTTP status in the document, where there is one.
    pub status: Option<u16>,
    /// A page about this occurrence.
    pub instance: Option<String>,
    /// What is wrong with single identifiers.
    pub subproblems: Vec<Subproblem>,
}

/// What is wrong with one identifier ([RFC 8555, section 6.7.1](https://www.rfc-editor.org/rfc/rfc8555#section-6.7.1)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subproblem {
    /// The identifier's value, where the server names one.
    pub identifier: Option<String>,
    /// The type without ACME's namespace.
    pub kind: String,
    /// What the server says.
    pub detail: String,
}

impl Problem {
    /// Reads a document; `None` when the body is none. Members of a wrong type are left out, not refused.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        Self::from_value(&serde_json::from_slice(body).ok()?)
    }

    /// Reads the document inside an order, an authorization or a challenge.
    pub fn from_value(value: &Value) -> Option<Self> {
        let map = value.as_object()?;
        let problem = Self {
            kind: kind(value),
            detail: text(value, "detail").or_else(|| text(value, "title")).unwrap_or_default(),
            status: map.get("status").and_then(Value::as_u64).and_then(|status| status.try_into().ok()),
            instance: text(value, "instance"),
            subproblems: map
                .get("subproblems")
                .and_then(Value::as_array)
                .map(|items| {
                    let found = items.iter().map(Subproblem::from_value);
                    found.filter(|subproblem| *subproblem != Subproblem::default()).collect()
                })
                .unwrap_or_default(),
        };
        (!problem.kind.is_empty() || !problem.detail.is_empty()).then_some(problem)
    }

    /// The URL in the text that the user is sent to, as for unpausing an account.
    pub fn url(&self) -> Option<&str> {
        let in_detail = self.detail.find("https://").map(|start| {
            let rest = &self.detail[start..];
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            rest[..end].trim_end_matches(['.', ',', ';', ')', '"', '\''])
        });
        in_detail.or_else(|| self.instance.as_deref().filter(|url| url.starts_with("https://")))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_problem(f, &self.kind, &self.detail)?;
        for subproblem in self.subproblems.iter().take(SHOWN) {
            write!(f, "; {subproblem}")?;
        }
        match self.subproblems.len() {
            0..=SHOWN => Ok(()),
            all => write!(f, "; and {} more", all - SHOWN),
        }
    }
}

impl Subproblem {
    fn from_value(value: &Value) -> Self {
        Self {
            identifier: value.get("identifier").and_then(|identifier| text(identifier, "value")),
            kind: kind(value),
            detail: text(value, "detail").unwrap_or_default(),
        }
    }
}

impl fmt::Display for Subproblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(identifier) = &self.identifier {
            write!(f, "`{identifier}`: ")?;
        }
        write_problem(f, &self.kind, &self.detail)
    }
}

fn write_problem(f: &mut fmt::Formatter<'_>, kind: &str, detail: &str) -> fmt::Result {
    match (kind, detail) {
        ("", detail) => f.write_str(detail),
        (kind, "") => f.write_str(kind),
        (kind, detail) => write!(f, "{detail} ({kind})"),
    }
}

fn kind(value: &Value) -> String {
    let kind = text(value, "type").unwrap_or_default();
    match kind.strip_prefix(NAMESPACE) {
        Some(kind) => kind.to_owned(),
        // The default type of RFC 9457 says nothing.
        None if kind == "about:blank" => String::new(),
        None => kind,
    }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value
        .get(key)
        .and_then(Value::as_str)
        .map(|text| printable(text, LONGEST))
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_problem_names_each_identifier() {
        let body = br#"{"type":"urn:ietf:params:acme:error:malformed","detail":"Some identifiers\nrejected","status":400,
            "subproblems":[{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"blocked",
            "identifier":{"type":"dns","value":"a.example"}},{"detail":7}]}"#;
        let problem = Problem::from_json(body).unwrap();
        assert_eq!(problem.kind, "malformed");
        assert_eq!(
            problem.to_string(),
            "Some identifiers rejected (malformed); `a.example`: blocked (rejectedIdentifier)"
        );
    }

    #[test]
    fn of_many_subproblems_a_few_are_told() {
        let subproblems: Vec<Value> = (0..1_000)
            .map(|number| {
                let identifier = serde_json::json!({ "type": "dns", "value": format!("n{number}.example") });
                serde_json::json!({ "detail": "blocked", "identifier": identifier })
            })
            .collect();
        let body = serde_json::json!({ "detail": "rejected", "subproblems": subproblems });
        let said = Problem::from_value(&body).unwrap().to_string();
        assert!(said.starts_with("rejected; `n0.example`: blocked; `n1.example`"), "{said}");
        assert!(said.ends_with("`n4.example`: blocked; and 995 more"), "{said}");
    }

    #[test]
    fn the_page_to_visit_is_found_in_the_text() {
        let body = br#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"Your account is prevented. Please visit: https://portal.example/unpause?jwt=a.b."}"#;
        assert_eq!(Problem::from_json(body).unwrap().url(), Some("https://portal.example/unpause?jwt=a.b"));
        let body = br#"{"detail":"see","instance":"https://ca.example/terms"}"#;
        assert_eq!(Problem::from_json(body).unwrap().url(), Some("https://ca.example/terms"));
    }

    #[test]
    fn what_is_no_problem_document_is_none() {
        for body in ["", "<html>", "[]", "{}", "null", "7", r#"{"type":"about:blank"}"#] {
            assert_eq!(Problem::from_json(body.as_bytes()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn hostile_problems_print_without_controls(kind in any::<String>(), detail in any::<String>()) {
            let body = serde_json::json!({ "type": kind, "detail": detail, "subproblems": [{ "detail": detail }] });
            if let Some(problem) = Problem::from_value(&body) {
                prop_assert!(!problem.to_string().chars().any(char::is_control));
                let _ = problem.url();
            }
        }
    }
}
