use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use certplan_provider::ProviderError;
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::failure::failed;
use crate::failure::shown;

/// Refuses a folder whose path other users of the machine control.
///
/// Every part of the path that exists is looked at: a folder that everyone may write to without a sticky bit, something
/// of another user in a folder with one, and a symbolic link of another user would let that user decide where
/// the key goes. Folders that belong to another user or that a group may write to are accepted: whoever configured the
/// path chose them, and containers mount such folders.
pub(crate) fn check_path(directory: &Path) -> Result<(), ProviderError> {
    let mut prefixes: Vec<&Path> = directory.ancestors().collect();
    prefixes.reverse();
    for prefix in prefixes {
        match fs::symlink_metadata(prefix) {
            Ok(metadata) if metadata.is_symlink() && !is_trusted(metadata.uid()) => {
                return Err(ProviderError::invalid(format!(
                    "`{}` is a symbolic link of another user (number {}), who decides where it leads",
                    shown(prefix),
                    metadata.uid()
                )));
            }
            Ok(_) => {}
            Err(error) if is_missing(&error) => break,
            Err(error) => return Err(io_failed("look at", prefix, &error)),
        }
    }
    let existing = directory.ancestors().find(|prefix| prefix.exists()).unwrap_or_else(|| Path::new("/"));
    let real = fs::canonicalize(existing).map_err(|error| io_failed("resolve", existing, &error))?;
    let mut parts: Vec<&Path> = real.ancestors().collect();
    parts.reverse();
    let mut shared_parent = false;
    for part in parts {
        let metadata = fs::metadata(part).map_err(|error| io_failed("look at", part, &error))?;
        if shared_parent && !is_trusted(metadata.uid()) {
            return Err(ProviderError::invalid(format!(
                "`{}` belongs to another user (number {}) in a folder that everyone may write to",
                shown(part),
                metadata.uid()
            )));
        }
        let everyone = metadata.mode() & 0o002 != 0;
        if everyone && metadata.mode() & 0o1000 == 0 {
            return Err(ProviderError::invalid(format!(
                "everyone may write to `{}`, and so put another key in its place; take that away with `chmod o-w`",
                shown(part)
            )));
        }
        shared_parent = everyone;
    }
    Ok(())
}

/// Whether an error says that there is nothing.
pub(crate) fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// As [`failed`], for what the standard library reports.
pub(crate) fn io_failed(action: &str, path: &Path, error: &std::io::Error) -> ProviderError {
    failed(action, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::chown;
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(path: &Path, mode: u32) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_that_everyone_may_write_to_is_refused_unless_sticky() {
        let root = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        folder(&root.path().join("open"), 0o777);
        folder(&root.path().join("sticky"), 0o1777);
        folder(&root.path().join("group"), 0o775);
        let refused = check_path(&root.path().join("open/new/deep")).unwrap_err();
        assert!(refused.to_string().contains("everyone may write"), "{refused}");
        check_path(&root.path().join("sticky/new")).unwrap();
        check_path(&root.path().join("group")).unwrap();
    }

    #[test]
    fn links_and_folders_of_other_users_are_refused() {
        if !geteuid().is_root() {
            // Only root can make things of other users.
            return;
        }
        let root = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        folder(&root.path().join("real"), 0o755);
        let link = root.path().join("link");
        symlink("real", &link).unwrap();
        check_path(&link.join("new")).unwrap();
        std::os::unix::fs::lchown(&link, Some(4242), None).unwrap();
        assert!(
            check_path(&link.join("new")).unwrap_err().to_string().contains("symbolic link of another user")
        );
        folder(&root.path().join("sticky"), 0o1777);
        let theirs = root.path().join("sticky/theirs");
        folder(&theirs, 0o755);
        chown(&theirs, Some(4242), None).unwrap();
        assert!(check_path(&theirs).unwrap_err().to_string().contains("belongs to another user"));
    }
}
