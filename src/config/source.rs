//! Reads the files of a configuration: the one place of it that touches the file system.
//!
//! Only regular files are read, never through a symbolic link, and nothing that could block is opened for reading.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use super::LoadError;
use super::parser::LIMITS;
use super::span::Source;
use super::span::Sources;

/// The files of a configuration, and the folder that relative paths in them start from.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) sources: Sources,
    pub(crate) base: PathBuf,
}

/// Reads a file, or every `*.yaml` and `*.yml` that lies directly in a folder, in the order of their names.
pub(crate) fn read(path: &Path) -> Result<Files, LoadError> {
    let Some(paths) = list(path)? else {
        let sources = Sources::new(vec![read_file(path, LIMITS.total)?]);
        return Ok(Files { sources, base: folder_of(path) });
    };
    let mut files = Vec::with_capacity(paths.len());
    let mut left = LIMITS.total;
    for path in paths {
        let file = read_file(&path, left)?;
        left = left.saturating_sub(file.text.len());
        files.push(file);
    }
    Ok(Files { sources: Sources::new(files), base: path.to_owned() })
}

/// The folder that relative paths in a configuration start from: the configuration itself, or where its file lies.
pub fn base(path: &Path) -> PathBuf {
    if path.is_dir() { path.to_owned() } else { folder_of(path) }
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The files of a configuration that is a folder, in the order of their names; `None` when it is a file itself.
#[expect(clippy::disallowed_methods, reason = "the one place where a configuration is read")]
pub fn list(path: &Path) -> Result<Option<Vec<PathBuf>>, LoadError> {
    let metadata = std::fs::symlink_metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Missing { path: path.to_owned() },
        _ => LoadError::Unreadable { path: path.to_owned(), source: error },
    })?;
    if !metadata.is_dir() {
        return Ok(None);
    }
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let mut paths = Vec::new();
    let entries = std::fs::read_dir(path).map_err(unreadable)?;
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !hidden
            && Path::new(&name).extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            paths.push(path.join(name));
        }
        if paths.len() > LIMITS.files {
            return Err(LoadError::TooManyFiles { path: path.to_owned(), limit: LIMITS.files });
        }
    }
    if paths.is_empty() {
        return Err(LoadError::EmptyFolder { path: path.to_owned() });
    }
    paths.sort();
    Ok(Some(paths))
}

/// Reads the text of one file, for a command that edits it: with the rules of every other reader.
pub fn text(path: &Path) -> Result<String, LoadError> {
    Ok(read_file(path, LIMITS.total)?.text)
}

fn read_file(path: &Path, left: usize) -> Result<Source, LoadError> {
    let not_regular = || LoadError::NotRegular { path: path.to_owned() };
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    // Without NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Err(not_regular()),
        Err(error) => return Err(unreadable(error.into())),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(not_regular());
    }
    let limit = LIMITS.file.min(left);
    let mut octets = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut octets).map_err(unreadable)?;
    if octets.len() > limit {
        return Err(LoadError::TooLarge { path: path.to_owned(), limit });
    }
    let text = String::from_utf8(octets).map_err(|error| {
        let (before, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let before = String::from_utf8_lossy(before);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        LoadError::NotUtf8 {
            path: path.to_owned(),
            line,
            column,
            octet: rest.first().copied().unwrap_or_default(),
        }
    })?;
    Ok(Source::new(path.to_string_lossy(), text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real.yaml");
        std::fs::write(&real, "version: 1\n").unwrap();
        assert!(read(&real).is_ok());

        let link = folder.path().join("link.yaml");
        symlink(&real, &link).unwrap();
        assert!(matches!(read(&link), Err(LoadError::NotRegular { .. })));
        assert!(matches!(read(folder.path()), Err(LoadError::NotRegular { .. })));
        std::fs::remove_file(&link).unwrap();

        let fifo = folder.path().join("fifo.yaml");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(read(&fifo), Err(LoadError::NotRegular { .. })));
        assert!(matches!(read(folder.path()), Err(LoadError::NotRegular { .. })));
        assert!(matches!(read(Path::new("/dev/zero")), Err(LoadError::NotRegular { .. })));
    }

    #[test]
    fn a_folder_gives_its_yaml_files_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "c.yml", "a.yaml", ".hidden.yaml", ".hidden.yml", "notes.md"] {
            std::fs::write(folder.path().join(name), "# nothing\n").unwrap();
        }
        let files = read(folder.path()).unwrap();
        let names: Vec<&str> =
            files.sources.files().iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b.yaml", "c.yml"]);
        assert_eq!(files.base, folder.path());
    }

    #[test]
    fn what_is_missing_empty_too_large_or_no_text_has_its_own_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(LoadError::EmptyFolder { .. })));
        let path = folder.path().join("certplan.yaml");
        assert!(matches!(read(&path), Err(LoadError::Missing { .. })));
        std::fs::write(&path, b"version: 1\nproject: \xff\n").unwrap();
        assert!(matches!(read(&path), Err(LoadError::NotUtf8 { line: 2, column: 10, octet: 0xff, .. })));
        let large = File::create(&path).unwrap();
        large.set_len(500 << 20).unwrap();
        assert!(matches!(read(&path), Err(LoadError::TooLarge { .. })));
    }
}
