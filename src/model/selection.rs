use std::collections::BTreeMap;

use super::address::Address;

/// Which addresses a command works on: the same flags on every command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Globs of addresses to work on; empty means all. `*` stands for any characters but `/`, `**` for any.
    pub addresses: Vec<String>,
    /// Globs of addresses to leave out.
    pub exclude: Vec<String>,
    /// Labels that the certificate must carry.
    pub labels: BTreeMap<String, String>,
}

impl Selection {
    /// Whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.addresses.is_empty() && self.exclude.is_empty() && self.labels.is_empty()
    }

    /// Whether the address of a certificate with these labels is selected.
    ///
    /// A glob that matches `certificate/<name>` selects the certificate's deployments as well.
    pub fn matches(&self, address: &Address, labels: &BTreeMap<String, String>) -> bool {
        let hit = |globs: &[String]| globs.iter().any(|pattern| hits(pattern, address));
        (self.addresses.is_empty() || hit(&self.addresses))
            && !hit(&self.exclude)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// The globs of `exclude` that match none of these addresses.
    pub fn idle_excludes(&self, addresses: impl IntoIterator<Item = Address>) -> Vec<&str> {
        let mut idle: Vec<&str> = self.exclude.iter().map(String::as_str).collect();
        for address in addresses {
            if idle.is_empty() {
                break;
            }
            idle.retain(|pattern| !hits(pattern, &address));
        }
        idle
    }
}

/// Whether a glob matches an address, or the certificate of a deployment.
fn hits(pattern: &str, address: &Address) -> bool {
    glob(pattern.as_bytes(), address.to_string().as_bytes())
        || address.certificate().is_some_and(|name| {
            glob(pattern.as_bytes(), Address::Certificate(name.clone()).to_string().as_bytes())
        })
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|i| glob(rest, &text[i..])),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=end).any(|i| glob(rest, &text[i..]))
        }
        [b'?', rest @ ..] => text.first().is_some_and(|b| *b != b'/') && glob(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_stop_at_slashes() {
        for (pattern, text, expected) in [
            ("certificate/*", "certificate/shop", true),
            ("certificate/s*p", "certificate/shop", true),
            ("*", "certificate/shop", false),
            ("**", "certificate/shop", true),
            ("deployment/*/edge", "deployment/shop/edge", true),
            ("certificate/sho?", "certificate/shop", true),
            ("certificate/sho", "certificate/shop", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_certificate_selects_its_deployments() {
        let selection = Selection { addresses: vec!["certificate/shop".to_owned()], ..Selection::default() };
        assert!(selection.matches(&"deployment/shop/edge".parse().unwrap(), &BTreeMap::new()));
        assert!(!selection.matches(&"deployment/blog/edge".parse().unwrap(), &BTreeMap::new()));
    }
}
