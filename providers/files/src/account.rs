use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use certplan_provider::ProviderError;
use rustix::fs::Gid;
use rustix::fs::Uid;

use crate::place::Place;

/// The accounts that files belong to, as numbers; `None` where the system decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    pub(crate) user: Option<Uid>,
    pub(crate) group: Option<Gid>,
}

impl Owners {
    /// Looks the accounts of a place up.
    pub(crate) fn of(place: &Place) -> Result<Self, ProviderError> {
        Ok(Self {
            user: place
                .owner
                .as_deref()
                .map(|name| number("passwd", "user", name))
                .transpose()?
                .map(Uid::from_raw),
            group: place
                .group
                .as_deref()
                .map(|name| number("group", "group", name))
                .transpose()?
                .map(Gid::from_raw),
        })
    }
}

/// Finds an account's number: in the file in `/etc`, else through `getent`, which knows LDAP and other sources.
fn number(database: &str, what: &str, name: &str) -> Result<u32, ProviderError> {
    if name.bytes().all(|b| b.is_ascii_digit()) {
        // The largest number means "leave it" to chown.
        return name
            .parse()
            .ok()
            .filter(|number| *number != u32::MAX)
            .ok_or_else(|| ProviderError::invalid(format!("`{name}` is not the number of a {what}")));
    }
    let file = fs::read_to_string(Path::new("/etc").join(database)).unwrap_or_default();
    if let Some(number) = find(&file, name) {
        return Ok(number);
    }
    let answer = Command::new("getent")
        .args(["--", database, name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    find(&answer, name).ok_or_else(|| {
        ProviderError::invalid(format!("there is no {what} `{}` on this machine", name.escape_debug()))
    })
}

/// Finds an account's number in the lines of `passwd` or `group`: name, password, number.
fn find(lines: &str, name: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let number = fields.nth(1)?;
        if found { number.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let lines = "root:x:0:0:root:/root:/bin/bash\n\nbroken\nweb:x:33:33::/:/bin/false\n";
        assert_eq!(find(lines, "web"), Some(33));
        assert_eq!(find(lines, "broken"), None);
        assert_eq!(find(lines, "we"), None);
        assert_eq!(number("passwd", "user", "root").unwrap(), 0);
        assert_eq!(number("group", "group", "1234").unwrap(), 1234);
    }

    #[test]
    fn an_unknown_account_is_named() {
        let error = number("passwd", "user", "certplan-nobody-knows").unwrap_err();
        assert!(matches!(error, ProviderError::Invalid { .. }));
        assert_eq!(error.to_string(), "there is no user `certplan-nobody-knows` on this machine");
        assert!(number("group", "group", "4294967295").is_err());
    }
}
