//! Paths that a configuration names.

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
}
