use std::env;
use std::fmt;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

/// A running server with its folder; both go when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    folder: TempDir,
}

impl Server {
    /// Starts a program whose output goes to `log` in the folder.
    ///
    /// # Panics
    /// When the program cannot be started: a test can do nothing without its peer.
    pub fn start(folder: TempDir, command: &mut Command) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).expect("the folder is writable");
        let errors = log.try_clone().expect("a file can be cloned");
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        Self { child, folder }
    }

    /// The server's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the server has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The process identifier, to send signals to.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits until `ready` holds.
    ///
    /// # Panics
    /// With the server's log, when it ends or twenty seconds pass.
    pub fn wait_until(mut self, what: &str, mut ready: impl FnMut() -> bool) -> Self {
        let start = Instant::now();
        while !ready() {
            assert!(!self.has_ended(), "the server ended before {what}:\n{}", self.log());
            assert!(start.elapsed() < Duration::from_secs(20), "no {what} after 20 s:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
        self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a loopback port that is free for TCP and UDP.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free for both TCP and UDP");
}

/// Whether something accepts connections on a loopback port.
pub fn wait_for_port(port: u16) -> bool {
    TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), Duration::from_millis(200)).is_ok()
}

/// A peer that is not installed.
#[derive(Debug, Clone)]
pub struct Missing {
    program: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not installed: run tests/run, which installs it", self.program)
    }
}

/// Finds a peer's program: in `CERTPLAN_PEERS` (the cache of `tests/run`), on the path, or among the system's daemons.
///
/// Returns `None` only when `CERTPLAN_TEST_SKIP_PEERS=1` is set, and prints what is skipped.
///
/// # Panics
/// When the peer is missing and nothing says that it may be.
#[expect(clippy::print_stderr, reason = "a peer that is skipped has to be seen in the output of the run")]
pub fn peer(program: &str) -> Option<PathBuf> {
    let cache = env::var_os("CERTPLAN_PEERS").map(PathBuf::from).unwrap_or_else(|| {
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"));
        cache.join("certplan-peers")
    });
    let folders = [cache.join("bin")]
        .into_iter()
        .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>())
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    for folder in folders {
        let path = folder.join(program);
        if path.is_file() {
            return Some(path);
        }
    }
    let missing = Missing { program: program.to_owned() };
    assert!(env::var("CERTPLAN_TEST_SKIP_PEERS").is_ok_and(|value| value == "1"), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}
