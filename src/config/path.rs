//! Paths that a configuration names.

use super::diagnostic::is_key_material;
use super::diagnostic::quoted;

/// What is wrong with a path, and what to write instead: it is empty, or leads out of the configuration's folder.
pub(crate) fn bad_path(path: &str) -> Option<(String, &'static str)> {
    const HELP: &str = "write a path below the configuration's folder, or an absolute one";
    if path.trim().is_empty() {
        return Some(("the path is empty".to_owned(), HELP));
    }
    path.split('/').any(|part| part == "..").then(|| {
        let message = format!("{} leads out of the configuration's folder", quoted(path));
        (message, "`..` is not allowed; use a path below the folder, or an absolute one")
    })
}

/// Whether a text can be the path of a file with a secret, rather than the secret itself. No file system takes a longer path.
pub(crate) fn could_be_path(text: &str) -> bool {
    text.len() <= 4_096
        && !text.contains(char::is_control)
        && !text.contains("-----BEGIN")
        && !is_key_material(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_refused_that_are_empty_or_lead_out() {
        for bad in ["", " ", "..", "../a", "a/../b", "/a/.."] {
            assert!(bad_path(bad).is_some(), "{bad}");
        }
        for good in ["a", "./a", "/a", "..a", "a..", "a/.b"] {
            assert!(bad_path(good).is_none(), "{good}");
        }
    }

    #[test]
    fn what_holds_a_secret_itself_is_no_path_of_one() {
        let long = "a".repeat(4_097);
        for secret in
            ["a\nb", "a\0", "-----BEGIN EC PRIVATE KEY-----", "-----BEGIN X", "age-secret-key-1abc", &long]
        {
            assert!(!could_be_path(secret), "{secret}");
        }
        for path in ["key.pem", "/run/secrets/BEGIN", "./a b/key", &long[1..]] {
            assert!(could_be_path(path), "{path}");
        }
    }
}
