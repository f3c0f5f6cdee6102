//! The real program in a folder of its own, with nothing of this machine's environment but the path.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use certplan::state::generate_identity;
use secrecy::ExposeSecret;
use tempfile::TempDir;

/// The folders of all runs. They stay until the end, for ext4 without a journal creates files many times slower in the
/// minutes after many were removed (`recently_deleted` in fs/ext4/ialloc.c), and the next run would pay for the last.
static FOLDERS: Mutex<Vec<TempDir>> = Mutex::new(Vec::new());

/// Removes the folders of all runs.
pub(crate) fn remove_folders() {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// A folder with a configuration.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    environment: BTreeMap<String, String>,
    pub(crate) recipient: String,
}

/// A run that came to its end.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// A run did not end in its time and was killed.
#[derive(Debug)]
pub(crate) struct TimedOut {
    /// What it had printed by then.
    pub(crate) stdout: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("certplan-bench-").tempdir().expect("a temporary folder");
        let identity = generate_identity();
        let path = folder.path().to_owned();
        FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
        let this = Self { path, environment: BTreeMap::new(), recipient: identity.recipient };
        this.write("identity.txt", identity.text.expose_secret());
        let path = this.path().join("identity.txt");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is our own");
        this.with("CERTPLAN_AGE_KEY_FILE", &path.display().to_string())
    }

    /// The same folder, with a variable for every run.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("the folder is writable");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certplan"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path().join("home"))
            .envs(&self.environment)
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end and measures that, its start included.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let begun = Instant::now();
        let output = self.command(arguments).output().expect("the program starts");
        let took = begun.elapsed();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took,
        }
    }

    /// Runs the program and returns its peak resident set in MiB: the high-water mark, read until it ends.
    pub(crate) fn peak(&self, arguments: &[&str]) -> f64 {
        let mut child = self
            .command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        while child.try_wait().expect("it is our child").is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kibibytes =
                mark.and_then(|mark| mark.trim().strip_suffix(" kB")).and_then(|n| n.parse().ok());
            peak = peak.max(kibibytes.unwrap_or(0));
            thread::sleep(Duration::from_millis(1));
        }
        f64::from(peak) / 1024.0
    }

    /// Runs the program to its end or for `patience`, and gives each line of its output to `line` as it comes.
    pub(crate) fn follow(
        &self,
        arguments: &[&str],
        patience: Duration,
        mut line: impl FnMut(&str),
    ) -> Result<Run, TimedOut> {
        let begun = Instant::now();
        let mut command = self.command(arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, receiver) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut stdout = String::new();
        loop {
            match receiver.recv_timeout(patience.saturating_sub(begun.elapsed())) {
                Ok(text) => {
                    line(&text);
                    stdout.push_str(&text);
                    stdout.push('\n');
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    child.kill().expect("it is our child");
                    child.wait().expect("it is our child");
                    return Err(TimedOut { stdout });
                }
            }
        }
        let code = child.wait().expect("it is our child").code();
        let took = begun.elapsed();
        reader.join().expect("the reader does not panic");
        Ok(Run { code, stdout, stderr: String::new(), took })
    }
}

impl Run {
    /// Ends the benchmark, with everything that was printed, unless the exit code is the expected one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }
}
