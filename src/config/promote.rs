//! From a CA's staging directory to its production, as an edit of the text that one can review.

use std::collections::BTreeSet;

use super::convert::ca::Ca;
use super::diagnostic::Report;
use super::diagnostic::closest;
use super::diagnostic::list;
use super::diagnostic::quoted;
use super::init::STAGING_REMARK;
use super::node::Node;
use super::parser;
use super::parser::LIMITS;
use super::span::Source;
use super::span::Span;

/// Rewrites the text so that `issuer` uses its CA's production directory; everything else stays as it is, octet for octet.
///
/// An issuer whose *name* gives the staging directory (`letsencrypt-staging`) is renamed, with every reference to it.
pub fn edit(text: &str, issuer: &str) -> Result<String, PromoteError> {
    let source = Source::new("", text);
    let mut report = Report::default();
    let root = parser::parse(&source, 0, &LIMITS, &mut 0, &mut report).ok_or(PromoteError::NotYaml)?;
    let unknown = || PromoteError::UnknownIssuer {
        issuer: issuer.to_owned(),
        known: root
            .get("issuers")
            .map_or(&[][..], Node::entries)
            .iter()
            .map(|entry| entry.key.clone())
            .collect(),
    };
    let issuers = root.get("issuers").ok_or_else(unknown)?;
    let entry = issuers.entry(issuer).ok_or_else(unknown)?;
    let directory = entry.value.get("acme").and_then(|acme| acme.get("directory"));
    let current = directory.map_or_else(|| Some(issuer), Node::text).and_then(|text| {
        Ca::by_name(text).or_else(|| url::Url::parse(text).ok().and_then(|url| Ca::by_directory(&url)))
    });
    let Some(current) = current else {
        return Err(PromoteError::UnknownDirectory { issuer: issuer.to_owned() });
    };
    let production = current.name.strip_suffix("-staging").and_then(Ca::by_name);
    let Some(production) = production else {
        return Err(PromoteError::AlreadyProduction { issuer: issuer.to_owned() });
    };
    let mut places = BTreeSet::new();
    let replacement = match directory {
        Some(directory) => {
            places.insert(directory.span);
            let written_as_url = directory.text().is_some_and(|text| text.contains("://"));
            if written_as_url { production.directory } else { production.name }
        }
        None => {
            if issuers.get(production.name).is_some() {
                return Err(PromoteError::NameTaken {
                    issuer: issuer.to_owned(),
                    production: production.name.to_owned(),
                });
            }
            places.insert(entry.span);
            let certificates = root.get("certificates").map_or(&[][..], Node::entries);
            let users = certificates.iter().map(|entry| &entry.value).chain(root.get("defaults"));
            for value in users.filter_map(|user| user.get("issuer")) {
                if value.text() == Some(issuer) {
                    places.insert(value.span);
                }
            }
            production.name
        }
    };
    Ok(replace(text, text.len() - source.text.len(), &places, replacement))
}

/// Replaces scalars; quotes around them stay.
fn replace(text: &str, offset: usize, places: &BTreeSet<Span>, replacement: &str) -> String {
    let mut edited = String::with_capacity(text.len());
    let mut at = 0;
    for place in places {
        let (start, end) = (place.start as usize + offset, place.end as usize + offset);
        let old = text.get(start..end).unwrap_or_default();
        // Of several, an alias stands for the scalar that is replaced at its own place.
        if old.starts_with('*') && places.len() > 1 {
            continue;
        }
        let quote = old
            .chars()
            .next()
            .filter(|c| matches!(c, '"' | '\''))
            .map_or("", |c| if c == '"' { "\"" } else { "'" });
        edited.push_str(text.get(at..start).unwrap_or_default());
        edited.push_str(quote);
        edited.push_str(replacement);
        edited.push_str(quote);
        at = end + staging_remark(text.get(end..).unwrap_or_default());
    }
    edited.push_str(text.get(at..).unwrap_or_default());
    edited
}

/// How long the comment of [`init`](super::init()) is that follows a value, which is wrong beside production.
fn staging_remark(rest: &str) -> usize {
    let line = rest.lines().next().unwrap_or_default();
    let is_remark = line.trim().strip_prefix("# ") == Some(STAGING_REMARK);
    if is_remark { line.len() } else { 0 }
}

/// Why an issuer cannot be moved to production.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromoteError {
    /// It is there already.
    #[error("the issuer {} does not use a staging directory", quoted(issuer))]
    AlreadyProduction {
        /// The issuer.
        issuer: String,
    },
    /// The issuer's name gives its directory, and the name of production belongs to another issuer.
    #[error(
        "the issuer {} cannot become {}, which is there already: let certificates refer to that one",
        quoted(issuer),
        quoted(production)
    )]
    NameTaken {
        /// The issuer.
        issuer: String,
        /// The name that it would have.
        production: String,
    },
    /// The text is not YAML.
    #[error("the configuration is not valid YAML")]
    NotYaml,
    /// The directory is no well-known one, so its production is not known.
    #[error(
        "the directory of the issuer {} is none of those whose production directory is known",
        quoted(issuer)
    )]
    UnknownDirectory {
        /// The issuer.
        issuer: String,
    },
    /// The text defines no such issuer.
    #[error("there is no issuer {} in this file", quoted(issuer))]
    UnknownIssuer {
        /// The issuer.
        issuer: String,
        /// Those that it defines.
        known: Vec<String>,
    },
}

impl PromoteError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotYaml => Some("`certplan validate` shows why".to_owned()),
            Self::UnknownDirectory { .. } => {
                Some("write the production's `directory` into the issuer's block yourself".to_owned())
            }
            Self::UnknownIssuer { issuer, known } => {
                let known = || known.iter().map(String::as_str);
                Some(match closest(issuer, known()) {
                    Some(close) => format!("did you mean {}?", quoted(close)),
                    None if known().next().is_none() => "it defines no issuers".to_owned(),
                    None => format!("the issuers here are {}", list(known())),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directory_changes() {
        let text = "\u{feff}issuers:\r\n  le: # staging\r\n    acme: { directory: \"letsencrypt-staging\", agree_tos: true } # here\r\n";
        let edited = edit(text, "le").unwrap();
        assert_eq!(edited, text.replace("letsencrypt-staging", "letsencrypt"));
        assert_eq!(edit(&edited, "le"), Err(PromoteError::AlreadyProduction { issuer: "le".to_owned() }));
        let url = "issuers: { le: { acme: { directory: https://acme-staging-v02.api.letsencrypt.org/directory } } }";
        assert_eq!(
            edit(url, "le").unwrap(),
            "issuers: { le: { acme: { directory: https://acme-v02.api.letsencrypt.org/directory } } }"
        );
    }

    #[test]
    fn an_alias_gives_way_to_the_directory() {
        let text = "issuers:\n  a: { acme: { directory: &staging letsencrypt-staging } }\n  b: { acme: { directory: *staging } }\n";
        assert_eq!(edit(text, "b").unwrap(), text.replace("*staging", "letsencrypt"));
        assert_eq!(edit(text, "a").unwrap(), text.replace("letsencrypt-staging", "letsencrypt"));
    }

    #[test]
    fn the_comment_that_init_writes_beside_staging_goes_and_no_other() {
        let with = |comment: &str| {
            format!(
                "issuers:\r\n  le:\r\n    acme:\r\n      directory: 'letsencrypt-staging'{comment}\r\n      agree_tos: true # yes\r\n"
            )
        };
        let production = |comment: &str| with(comment).replacen("letsencrypt-staging", "letsencrypt", 1);
        assert_eq!(edit(&with(&format!(" # {STAGING_REMARK}")), "le").unwrap(), production(""));
        for comment in [" # letsencrypt-staging rehearses".to_owned(), format!(" # {STAGING_REMARK}!")] {
            assert_eq!(edit(&with(&comment), "le").unwrap(), production(&comment));
        }
    }

    #[test]
    fn an_issuer_that_is_named_after_staging_is_renamed_with_its_references() {
        let text = "issuers:\n  letsencrypt-staging: { acme: { agree_tos: true } }\ndefaults: { issuer: letsencrypt-staging }\n\
                    certificates:\n  letsencrypt-staging: { names: [letsencrypt-staging], issuer: 'letsencrypt-staging' }\n";
        let expected = "issuers:\n  letsencrypt: { acme: { agree_tos: true } }\ndefaults: { issuer: letsencrypt }\n\
                    certificates:\n  letsencrypt-staging: { names: [letsencrypt-staging], issuer: 'letsencrypt' }\n";
        assert_eq!(edit(text, "letsencrypt-staging").unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_promoted_is_said() {
        let text = "issuers: { a: { acme: { directory: https://ca.example/dir } }, letsencrypt: {}, letsencrypt-staging: {} }";
        assert!(matches!(edit(text, "a"), Err(PromoteError::UnknownDirectory { .. })));
        assert!(matches!(edit(text, "b"), Err(PromoteError::UnknownIssuer { .. })));
        assert!(matches!(edit(text, "letsencrypt-staging"), Err(PromoteError::NameTaken { .. })));
        assert_eq!(edit("a: [", "a"), Err(PromoteError::NotYaml));
    }
}
