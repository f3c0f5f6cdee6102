use std::path::Path;

use certplan_provider::ProviderError;
use rustix::io::Errno;
use rustix::process::geteuid;

/// Turns what the system said about a path into an error of the contract.
///
/// A full disk is [`ProviderError::Transient`]: the same call succeeds once there is room, and nothing that served was
/// touched. A missing right is [`ProviderError::Auth`]. A read-only or odd file system is [`ProviderError::Invalid`].
pub(crate) fn failed(action: &str, path: &Path, errno: Errno) -> ProviderError {
    let path = shown(path);
    match errno {
        Errno::ACCESS | Errno::PERM => ProviderError::auth(format!(
            "cannot {action} `{path}`: permission denied for the user with the number {}; run certplan as a user who may, or give this one access",
            geteuid().as_raw()
        )),
        Errno::NOSPC | Errno::DQUOT => ProviderError::transient(format!(
            "cannot {action} `{path}`: the disk or the quota is full; make room and run again"
        )),
        Errno::ROFS => {
            ProviderError::invalid(format!("cannot {action} `{path}`: the file system is read-only"))
        }
        Errno::LOOP => ProviderError::invalid(format!(
            "cannot {action} `{path}`: a symbolic link is where certplan follows none"
        )),
        Errno::NOTDIR | Errno::NAMETOOLONG | Errno::ISDIR | Errno::INVAL | Errno::OPNOTSUPP => {
            ProviderError::invalid(format!("cannot {action} `{path}`")).with_source(errno)
        }
        _ => ProviderError::transient(format!("cannot {action} `{path}`")).with_source(errno),
    }
}

/// A path for people, without control characters.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().flat_map(|c| escaped(c, false)).collect()
}

/// A character that cannot act on a terminal. Line breaks stay when the text may have several lines.
pub(crate) fn escaped(character: char, multiline: bool) -> impl Iterator<Item = char> {
    let keep = (multiline && character == '\n') || !is_unsafe(character);
    let kept = keep.then_some(character);
    let replaced = (!keep).then(|| character.escape_default());
    kept.into_iter().chain(replaced.into_iter().flatten())
}

/// Control characters, and those that turn the direction of text around.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
