use std::time::Duration;

use certplan_provider::Complaint;
use jiff::SignedDuration;
use rustix::fs::RawMode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// How long `test` and `reload` may each take unless the block says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Files on this machine, in the layout that web servers read.
///
/// All files of a certificate are in one folder of their own, and a single symbolic link is swapped to it, so that
/// certificate and key change together. Relative paths start from the folder of the configuration.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilesBlock {
    /// The folder that the certificates are in; it is made when it is missing.
    #[schemars(length(min = 1))]
    pub(crate) directory: String,
    /// What the folder looks like.
    #[serde(default)]
    pub(crate) layout: Layout,
    /// Who owns the files: a user's name or number. Default: the user that certplan runs as.
    pub(crate) owner: Option<String>,
    /// The group of the files: a name or a number. Default: as the system gives it to new files.
    pub(crate) group: Option<String>,
    /// The mode of the files that hold the private key, in octal: `"0640"`. Default: `"0600"`, with `group` `"0640"`. The public files are always `0644`.
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    pub(crate) mode: Option<String>,
    /// Which files are written. Default: `[pem]`; only for the layout `certbot`.
    #[schemars(length(min = 1))]
    pub(crate) formats: Option<Vec<Format>>,
    /// A command that tests the configuration of the server, as program and arguments: `[nginx, -t]`. It runs when the new files are in place; when it fails, the old ones are put back.
    #[schemars(length(min = 1))]
    pub(crate) test: Option<Vec<String>>,
    /// A command that makes the server read the files, as program and arguments: `[systemctl, reload-or-restart, nginx]`. When it fails, the old files are put back and it runs again.
    #[schemars(length(min = 1))]
    pub(crate) reload: Option<Vec<String>>,
    /// How long each of the two commands may take: `90s`, `2m`. Default: `60s`.
    pub(crate) timeout: Option<String>,
}

/// What an entry of `deploy` may say beside the target.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilesParameters {
    /// The name in the target's folder. Default: the name of the certificate.
    pub(crate) name: Option<String>,
    /// Overrides the target's `owner`.
    pub(crate) owner: Option<String>,
    /// Overrides the target's `group`.
    pub(crate) group: Option<String>,
    /// Overrides the target's `mode`.
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    pub(crate) mode: Option<String>,
    /// Overrides the target's `formats`.
    #[schemars(length(min = 1))]
    pub(crate) formats: Option<Vec<Format>>,
}

/// What the target's folder looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    /// `<directory>/<name>/` with `fullchain.pem`, `chain.pem`, `cert.pem` and `privkey.pem`, named as in certbot's `live` folder: for nginx, Apache and most others.
    #[default]
    Certbot,
    /// `<directory>/<name>.pem` with chain and key in one file: for HAProxy's `crt <directory>`.
    Haproxy,
}

/// Which files of a certificate are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// `combined.pem`: chain and key in one file.
    Combined,
    /// `fullchain.pem`, `chain.pem`, `cert.pem` and `privkey.pem`.
    Pem,
}

impl FilesBlock {
    /// Reads a block that its schema accepted, and checks what a schema cannot say.
    pub(crate) fn read(block: &serde_json::Value) -> Result<Self, Vec<Complaint>> {
        let block: Self = Complaint::read(block)?;
        let mut complaints = Vec::new();
        if let Err(complaint) = checked_directory(&block.directory) {
            complaints.push(complaint);
        }
        check_account("/owner", block.owner.as_deref(), &mut complaints);
        check_account("/group", block.group.as_deref(), &mut complaints);
        if let Some(mode) = &block.mode
            && let Err(complaint) = parse_mode(mode)
        {
            complaints.push(complaint);
        }
        check_formats(block.layout, block.formats.as_deref(), &mut complaints);
        check_command("/test", block.test.as_deref(), &mut complaints);
        check_command("/reload", block.reload.as_deref(), &mut complaints);
        if let Err(complaint) = block.timeout() {
            complaints.push(complaint);
        }
        if complaints.is_empty() { Ok(block) } else { Err(complaints) }
    }

    /// How long a command may take.
    pub(crate) fn timeout(&self) -> Result<Duration, Complaint> {
        let Some(text) = &self.timeout else { return Ok(TIMEOUT) };
        text.parse::<SignedDuration>()
            .ok()
            .and_then(|timeout| Duration::try_from(timeout).ok())
            .filter(|timeout| (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(timeout))
            .ok_or_else(|| {
                Complaint::new("/timeout", format!("`{}` is not a time from 1s to 1h", text.escape_debug()))
                    .with_help("write it as `90s` or `2m`")
            })
    }
}

/// Checks a directory as it is written: relative or absolute, but never climbing.
pub(crate) fn checked_directory(directory: &str) -> Result<(), Complaint> {
    let shown = directory.escape_debug();
    if directory.is_empty() {
        return Err(Complaint::new("/directory", "the directory is empty"));
    }
    if directory.chars().any(char::is_control) {
        return Err(Complaint::new("/directory", format!("`{shown}` has control characters in it")));
    }
    if directory.split('/').any(|part| part == "..") {
        return Err(Complaint::new("/directory", format!("`{shown}` climbs with `..`"))
            .with_help("write the path that it leads to"));
    }
    if directory.starts_with('~') {
        return Err(Complaint::new(
            "/directory",
            format!("`{shown}` starts with `~`, which only a shell expands"),
        )
        .with_help("write the home folder itself"));
    }
    Ok(())
}

/// Checks a name in the target's folder: one path component that cannot climb or hide.
pub(crate) fn checked_name(name: &str) -> Result<(), Complaint> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if starts && name.len() <= 200 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Complaint::new("/name", format!("`{}` cannot be a name in the target's folder", name.escape_debug()))
        .with_help("use 1 to 200 letters, digits, `-`, `_` and `.`, and start with a letter, a digit or `_`"))
}

/// Reads the mode of files that hold a key.
pub(crate) fn parse_mode(text: &str) -> Result<RawMode, Complaint> {
    let shown = text.escape_debug();
    let digits = text.len() == 3 || (text.len() == 4 && text.starts_with('0'));
    let mode = RawMode::from_str_radix(text, 8)
        .ok()
        .filter(|_| digits && text.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| {
            Complaint::new("/mode", format!("`{shown}` is not a file mode"))
                .with_help("write it in octal and in quotes: `\"0640\"`")
        })?;
    if mode & 0o007 != 0 {
        return Err(Complaint::new("/mode", format!("`{shown}` opens the private key to every user"))
            .with_help("let a group read it: `group: ssl-cert` with `mode: \"0640\"`"));
    }
    if mode & 0o110 != 0 || mode & 0o400 == 0 {
        return Err(Complaint::new("/mode", format!("`{shown}` does not suit a file with a private key"))
            .with_help("use `\"0400\"`, `\"0600\"`, `\"0440\"`, `\"0640\"` or `\"0660\"`"));
    }
    Ok(mode)
}

/// Checks the text of a user or group; whether it exists is known on the machine only.
pub(crate) fn check_account(pointer: &str, account: Option<&str>, complaints: &mut Vec<Complaint>) {
    let Some(account) = account else { return };
    let allowed = |c: char| !c.is_control() && !c.is_whitespace() && c != ':' && c != '/';
    if account.is_empty() || account.starts_with('-') || account.len() > 256 || !account.chars().all(allowed)
    {
        let message = format!("`{}` is not the name or number of an account", account.escape_debug());
        complaints.push(Complaint::new(pointer, message));
    }
}

/// Checks formats against the layout.
pub(crate) fn check_formats(layout: Layout, formats: Option<&[Format]>, complaints: &mut Vec<Complaint>) {
    let Some(formats) = formats else { return };
    if layout == Layout::Haproxy {
        complaints.push(
            Complaint::new("/formats", "the layout `haproxy` has one format")
                .with_help("leave `formats` out, or use `layout: certbot`"),
        );
    } else if formats.is_empty() {
        complaints.push(Complaint::new("/formats", "without a format nothing is written"));
    }
}

fn check_command(pointer: &str, command: Option<&[String]>, complaints: &mut Vec<Complaint>) {
    let Some(command) = command else { return };
    match command.first() {
        None => complaints.push(Complaint::new(pointer, "the command is empty")),
        Some(program) if program.trim().is_empty() => {
            complaints.push(Complaint::new(format!("{pointer}/0"), "the program is empty"));
        }
        Some(program) if command.len() == 1 && program.contains(char::is_whitespace) => complaints.push(
            Complaint::new(format!("{pointer}/0"), format!("`{}` is one word", program.escape_debug()))
                .with_help("no shell runs it: write program and arguments as separate items"),
        ),
        Some(_) => {}
    }
    for (index, word) in command.iter().enumerate() {
        if word.contains('\0') {
            complaints.push(Complaint::new(format!("{pointer}/{index}"), "a NUL character is in it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_of_a_block_is_reported_at_its_place() {
        let faults = FilesBlock::read(&json!({
            "directory": "/etc/../ssl", "mode": "0644", "owner": "a b", "group": "", "timeout": "soon",
            "layout": "haproxy", "formats": ["pem"], "test": [], "reload": ["systemctl reload nginx"],
        }))
        .unwrap_err();
        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/directory", "/owner", "/group", "/mode", "/formats", "/test", "/reload/0", "/timeout"]
        );
    }

    #[test]
    fn modes_never_open_a_key_to_everyone() {
        for good in ["0600", "600", "0640", "0400", "0440", "0660"] {
            assert!(parse_mode(good).is_ok(), "{good}");
        }
        for bad in ["0644", "0604", "0601", "0700", "0040", "4600", "06400", "rw", "", "+600", "0800", "١٢٣"]
        {
            assert!(parse_mode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_cannot_climb_or_hide() {
        for good in ["shop", "shop.example.com", "_wildcard.example.com", "a..b"] {
            assert!(checked_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".certplan", "a/b", "/a", "a\0", "a\n", "-a", "é", &"a".repeat(201)] {
            assert!(checked_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn directories_do_not_climb() {
        for good in ["/etc/ssl", "out", "./out", "a/./b", "..a"] {
            assert!(checked_directory(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "a/../b", "/..", "~/x", "a\u{1b}[0m"] {
            assert!(checked_directory(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn timeouts_are_times() {
        let read = |timeout: &str| FilesBlock::read(&json!({ "directory": "x", "timeout": timeout }));
        assert_eq!(read("90s").unwrap().timeout().unwrap(), Duration::from_secs(90));
        assert_eq!(read("2m").unwrap().timeout().unwrap(), Duration::from_secs(120));
        for bad in ["0s", "-1s", "2h", "10", ""] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
