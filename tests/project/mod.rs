//! A folder with a configuration, and certplan run in it as a user would run it: with nothing of this machine's
//! environment but the path.

pub mod terminal;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use certplan::state::generate_identity;
use secrecy::ExposeSecret;
use tempfile::TempDir;

/// A folder to run certplan in.
#[derive(Debug)]
pub struct Project {
    folder: TempDir,
    environment: BTreeMap<String, String>,
    recipient: String,
}

/// What a run of certplan left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The exit code; `None` when it was killed.
    pub code: Option<i32>,
    /// What it printed as data.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

/// For snapshots: both streams and the code, with the parts that differ from run to run taken out by filters.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stdout)?;
        if !self.stderr.is_empty() {
            write!(f, "------- stderr -------\n{}", self.stderr)?;
        }
        write!(f, "[exit code: {}]", self.code.map_or_else(|| "none".to_owned(), |code| code.to_string()))
    }
}

impl Run {
    fn of(command: &mut Command) -> Self {
        let output = command.output().expect("it starts");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test, with everything that was printed, unless the exit code is the expected one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }
}

impl Project {
    /// A new folder with an age identity, which is the one that the environment names.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("certplan-test-").tempdir().expect("a temporary folder");
        let identity = generate_identity();
        let mut project = Self { folder, environment: BTreeMap::new(), recipient: identity.recipient };
        project.write("identity.txt", identity.text.expose_secret());
        fs::set_permissions(project.path().join("identity.txt"), fs::Permissions::from_mode(0o600))
            .expect("own file");
        let path = project.path().join("identity.txt").display().to_string();
        project.set("CERTPLAN_AGE_KEY_FILE", &path);
        project
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The recipient of the folder's identity.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    /// Sets a variable for every later run.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Takes a variable away from every later run.
    pub fn unset(&mut self, name: &str) {
        self.environment.remove(name);
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder is writable");
        fs::write(&path, text).expect("the folder is writable");
        path
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let path = self.path().join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The command, ready to run in the folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
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

    /// Runs certplan to its end.
    #[must_use]
    pub fn certplan(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Runs certplan with its clock moved, for example by `+2h` or `-1d`; `None` when `faketime` may be missing.
    #[track_caller]
    pub fn certplan_at(&self, offset: &str, arguments: &[&str]) -> Option<Run> {
        let faketime = certplan_test_support::peer("faketime")?;
        Some(self.certplan_under(Command::new(faketime).args(["-f", offset]), arguments))
    }

    /// Runs certplan through another program, which takes a command after its own arguments.
    #[must_use]
    pub fn certplan_under(&self, program: &mut Command, arguments: &[&str]) -> Run {
        let certplan = self.command(arguments);
        program.arg(certplan.get_program()).args(certplan.get_args());
        program.current_dir(self.path()).env_clear().stdin(Stdio::null());
        program.envs(certplan.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Run::of(program)
    }

    /// Starts `certplan apply --auto-approve --json` and returns it with its events, line by line.
    pub fn apply_events(&self, arguments: &[&str]) -> (Child, std::io::Lines<BufReader<ChildStdout>>) {
        let mut command = self.command(&["apply", "--auto-approve", "--json"]);
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("certplan starts");
        let stdout = child.stdout.take().expect("it is piped");
        (child, BufReader::new(stdout).lines())
    }

    /// A certificate's state object.
    #[track_caller]
    pub fn record(&self, project: &str, certificate: &str) -> serde_json::Value {
        let text = self.read(&format!(".certplan/state/projects/{project}/certificates/{certificate}.json"));
        serde_json::from_str(&text).expect("state is JSON")
    }
}
