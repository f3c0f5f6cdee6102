//! TXT contents in PowerDNS: character strings in the notation of master files
//! ([RFC 1035, section 5.1](https://www.rfc-editor.org/rfc/rfc1035#section-5.1)).

/// Writes a value of at most 255 octets as one quoted string, everything that is not printable ASCII as `\DDD`.
pub(crate) fn encode(value: &str) -> String {
    let mut content = String::with_capacity(value.len() + 2);
    content.push('"');
    for octet in value.bytes() {
        match octet {
            b'"' | b'\\' => {
                content.push('\\');
                content.push(char::from(octet));
            }
            b' '..=b'~' => content.push(char::from(octet)),
            _ => content.push_str(&format!("\\{octet:03}")),
        }
    }
    content.push('"');
    content
}

/// Reads all strings of a content and joins them. Strings may be without quotes, as in hand-written zones, and an escape
/// that means nothing stands for itself.
pub(crate) fn decode(content: &str) -> Vec<u8> {
    let octets = content.as_bytes();
    let (mut value, mut at, mut quoted) = (Vec::new(), 0, false);
    while let Some(&octet) = octets.get(at) {
        at += 1;
        match octet {
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => {}
            b'\\' => {
                let number = octets.get(at..at + 3).and_then(decimal);
                match (number, octets.get(at)) {
                    (Some(number), _) => {
                        value.push(number);
                        at += 3;
                    }
                    (None, Some(&next)) => {
                        value.push(next);
                        at += 1;
                    }
                    (None, None) => value.push(octet),
                }
            }
            _ => value.push(octet),
        }
    }
    value
}

/// Three decimal digits that make an octet.
fn decimal(digits: &[u8]) -> Option<u8> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn contents_are_read_in_every_notation() {
        for (content, value) in [
            (r#""plain""#, "plain"),
            (r#""two " "strings""#, "two strings"),
            (r#""two""strings""#, "twostrings"),
            ("without quotes", "withoutquotes"),
            (r#"bare "and quoted""#, "bareand quoted"),
            (r#""a \"quote\" and \\""#, r#"a "quote" and \"#),
            (r#""\195\188""#, "ü"),
            (r#""ü""#, "ü"),
            (r#""\065\0651""#, "AA1"),
            (r#""\x""#, "x"),
            (r#""\999""#, "999"),
            (r#""""#, ""),
            ("", ""),
            (r#""open"#, "open"),
        ] {
            assert_eq!(decode(content), value.as_bytes(), "{content}");
        }
        assert_eq!(decode(r"\"), b"\\");
        assert_eq!(decode(r#""\255""#), [255]);
    }

    #[test]
    fn values_are_written_as_the_server_would() {
        assert_eq!(encode(r#"a "b" \ ü;"#), r#""a \"b\" \\ \195\188;""#);
        assert_eq!(encode("tab\t"), r#""tab\009""#);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in any::<String>()) {
            prop_assert_eq!(decode(&encode(&value)), value.as_bytes());
        }

        #[test]
        fn nothing_that_a_server_sends_panics(content in any::<String>()) {
            decode(&content);
        }
    }
}
