//! The one place where certplan reads the clock, the environment and credential files.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use certplan_provider::Secret;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::Unresolved;
use jiff::Timestamp;
use rustix::fs::OFlags;
use rustix::process::Resource;
use rustix::process::getrlimit;

use crate::dns01;

use super::error::CliError;

/// How many files a process must be allowed to have open: with fewer, not even the runtime's own come about, which then
/// panics.
const OPEN_FILES: u64 = 32;

/// Fails when the process may have too few files open.
pub(crate) fn check_open_files() -> Result<(), CliError> {
    match getrlimit(Resource::Nofile).current {
        Some(most) if most < OPEN_FILES => Err(CliError::new(format!(
            "cannot start: only {most} files may be open at once, and certplan needs {OPEN_FILES} at least"
        ))
        .with_help("allow more, for example with `ulimit -n 1024`")),
        _ => Ok(()),
    }
}

/// Whether this process was told to go on when its terminal goes away, as by `nohup`; so it is taken where nobody says.
pub(crate) fn ignores_hang_up() -> bool {
    #[expect(clippy::disallowed_methods, reason = "only the system tells which signals are ignored")]
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // SIGHUP is the first of all signals.
    ignored.is_none_or(|mask| mask & 1 != 0)
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the edge is where the clock is read")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A variable of the environment; an empty one counts as unset.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    as_it_is(name).filter(|value| !value.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the edge is where the environment is read")]
fn as_it_is(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// Where the configuration is when the command line does not say.
pub(crate) fn configuration() -> PathBuf {
    variable("CERTPLAN_CONFIG").map_or_else(|| PathBuf::from("certplan.yaml"), PathBuf::from)
}

/// 128 random bits in hexadecimal.
///
/// # Panics
/// When the operating system has no randomness: nothing safe can be done then.
pub(crate) fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    // Not from aws-lc, whose generator collects the jitter of the clock for 30 ms before its first octet: a plan needs no key.
    #[expect(clippy::expect_used, reason = "without randomness no key can be made either")]
    getrandom::fill(&mut bytes).expect("the operating system gives random octets");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts aws-lc's random generator on a thread of its own: it collects the jitter of the clock for 30 ms before its first
/// octet, which keys and handshakes would wait for later.
pub(crate) fn start_random_generator() {
    std::thread::spawn(|| {
        // Whoever needs randomness asks again, and sees the error.
        let _ = aws_lc_rs::rand::fill(&mut [0; 1]);
    });
}

/// The addresses of the system's resolvers.
pub(crate) fn resolvers() -> Vec<SocketAddr> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge is where files outside the configuration are read"
    )]
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    dns01::name_servers(&text)
}

/// The home folder.
pub(crate) fn home() -> Option<PathBuf> {
    variable("HOME").map(PathBuf::from)
}

/// Resolves the configuration's secrets from the environment and from files beside it.
#[derive(Debug)]
pub(crate) struct EdgeSecrets {
    base: PathBuf,
}

impl EdgeSecrets {
    /// Secrets of a configuration in the folder `base`.
    pub(crate) fn new(base: PathBuf) -> Arc<Self> {
        Arc::new(Self { base })
    }
}

impl SecretResolver for EdgeSecrets {
    fn resolve(&self, reference: &SecretRef) -> Result<Secret, Unresolved> {
        let unresolved = |reason: String| Unresolved { reference: reference.clone(), reason };
        let text = match reference {
            SecretRef::Env(name) => as_it_is(name)
                .ok_or_else(|| unresolved("is not set".to_owned()))?
                .into_string()
                .map_err(|_| unresolved("is not valid UTF-8".to_owned()))?,
            SecretRef::File(path) => {
                let text = read_secret(&self.base.join(path))
                    .map_err(|error| unresolved(format!("cannot be read: {error}")))?;
                text.trim_end_matches(['\n', '\r']).to_owned()
            }
        };
        if text.is_empty() {
            return Err(unresolved("is empty".to_owned()));
        }
        Ok(Secret::new(text))
    }
}

/// The most that a file with a credential holds, in octets: the largest RSA keys in PEM are far smaller.
const LARGEST_SECRET: u64 = 64 << 10;

fn read_secret(path: &Path) -> io::Result<String> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() || metadata.len() > LARGEST_SECRET {
        return Err(io::Error::other("it is no small regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST_SECRET).read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a file to read it. Without NONBLOCK, opening a FIFO would wait for a writer.
fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(nonblocking()).open(path)
}

fn nonblocking() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default()
}

/// The most that is read of a file which the command line or the configuration names, in octets.
const LARGEST: u64 = 64 << 20;

/// Reads a regular file that the command line or the configuration names; at most 64 MiB of it.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |error: io::Error| CliError::new(format!("cannot read `{}`: {error}", path.display()));
    let file = open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(CliError::new(format!("`{}` is not a regular file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(CliError::new(format!("`{}` is larger than 64 MiB", path.display())));
    }
    Ok(bytes)
}

/// Writes a file that the command line names; nobody but its owner may change it, whatever the umask.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::new(format!("cannot write `{}`: {error}", path.display()));
    let mut options = fs::OpenOptions::new();
    // Without NONBLOCK, opening a FIFO would wait for a reader; with it, one without a reader is ENXIO.
    options.write(true).create(true).truncate(true).mode(0o644).custom_flags(nonblocking());
    let mut file = match options.open(path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Err(failed(io::Error::other("it is not a regular file")));
        }
        opened => opened.map_err(failed)?,
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    file.write_all(bytes).map_err(failed)
}

/// Writes a file that must not be there yet.
pub(crate) fn create_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::new(format!("cannot write `{}`: {error}", path.display()));
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// Replaces a file as a whole, its mode kept: a reader sees the old text or the new.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::new(format!("cannot write `{}`: {error}", path.display()));
    let permissions = fs::metadata(path).map_err(failed)?.permissions();
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().set_permissions(permissions)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Writes a new file that only its owner can read.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::new(format!("cannot write `{}`: {error}", path.display()));
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}
