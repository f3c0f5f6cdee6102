use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use certplan_provider::ProviderError;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::failure::escaped;

/// How much of a command's output is kept: its end, where the reason is.
const KEPT: usize = 2048;

/// How long output may still come after a command has ended: what it left running may hold its output open for ever.
const LATE_OUTPUT: Duration = Duration::from_millis(500);

/// A program with its arguments, run without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandLine {
    program: PathBuf,
    words: Vec<String>,
    folder: PathBuf,
}

impl CommandLine {
    /// Takes a command of the configuration, which runs in `folder`; a program with a slash in it is relative to that.
    pub(crate) fn new(words: &[String], folder: &Path) -> Option<Self> {
        let program = words.first()?;
        let program = if program.contains('/') { folder.join(program) } else { PathBuf::from(program) };
        Some(Self { program, words: words.to_vec(), folder: folder.to_owned() })
    }

    /// Runs it to its end, or kills it with everything that it started when `limit` passes.
    ///
    /// It gets nothing on its standard input, and certplan's environment without the key that opens the state.
    pub(crate) async fn run(&self, limit: Duration) -> Result<(), ProviderError> {
        let mut child = Command::new(&self.program)
            .args(&self.words[1..])
            .current_dir(&self.folder)
            .env_remove("CERTPLAN_AGE_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.not_started(error))?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let output = Tail::of(child.stdout.take());
        let errors = Tail::of(child.stderr.take());
        let ended = timeout(limit, child.wait()).await;
        if ended.is_err() {
            drop(group);
        } else {
            group.disarm();
        }
        let said = said(&output.finish().await, &errors.finish().await);
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(ProviderError::invalid(format!("{self} {}{said}", how(status)))),
            Ok(Err(error)) => {
                Err(ProviderError::transient(format!("cannot wait for {self}")).with_source(error))
            }
            Err(_) => Err(ProviderError::transient(format!(
                "{self} did not end within {} s and was killed{said}",
                limit.as_secs_f32()
            ))),
        }
    }

    fn not_started(&self, error: std::io::Error) -> ProviderError {
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                ProviderError::invalid(format!("{self} cannot be started: there is no such program"))
                    .with_source(error)
            }
            std::io::ErrorKind::PermissionDenied => {
                ProviderError::auth(format!("{self} cannot be started: permission denied")).with_source(error)
            }
            _ => ProviderError::transient(format!("{self} cannot be started")).with_source(error),
        }
    }
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = self.words.join(" ");
        write!(f, "`{}`", line.chars().flat_map(|c| escaped(c, false)).collect::<String>())
    }
}

/// The process group of a command, killed when dropped before the command has ended.
struct Group(Option<Pid>);

impl Group {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads a stream to its end in the background and keeps the last of it.
struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Tail {
    fn of(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..read]);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
        });
        Self { kept, task }
    }

    async fn finish(mut self) -> Vec<u8> {
        if timeout(LATE_OUTPUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn said(output: &[u8], errors: &[u8]) -> String {
    let text = [errors, output].map(|octets| String::from_utf8_lossy(octets).trim().to_owned());
    let text = text.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        return ", and said nothing".to_owned();
    }
    format!(", and said: {}", text.chars().flat_map(|c| escaped(c, true)).collect::<String>())
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    fn shell(script: &str, folder: &Path) -> CommandLine {
        CommandLine::new(&["/bin/sh", "-c", script].map(ToOwned::to_owned), folder).unwrap()
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_failure_tells_what_the_command_said_without_control_characters() {
        let folder = tempfile::tempdir().unwrap();
        shell("exit 0", folder.path()).run(LONG).await.unwrap();
        let error = shell("printf 'bad\\033[2J\\nline'; echo why >&2; exit 3", folder.path())
            .run(LONG)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("failed with exit status 3, and said: why\nbad\\u{1b}[2J\nline"), "{error}");
    }

    #[tokio::test]
    async fn only_the_end_of_long_output_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let error = shell("head -c 300000 /dev/zero | tr '\\0' x; echo END; exit 1", folder.path())
            .run(LONG)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("xEND") && error.len() < 3000, "{}", error.len());
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let error = shell("sh -c 'echo $$ > inner; exec sleep 600' & wait", folder.path())
            .run(Duration::from_secs(1))
            .await
            .unwrap_err();
        assert!(matches!(error, ProviderError::Transient { .. }), "{error}");
        let inner = fs::read_to_string(folder.path().join("inner")).unwrap();
        let process = format!("/proc/{}/stat", inner.trim());
        let start = Instant::now();
        // A zombie that nobody has reaped yet counts as ended.
        while fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(start.elapsed() < LONG, "the inner process still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_daemon_that_holds_the_output_open_does_not_hold_us() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        shell("sleep 30 & echo $! > daemon; exit 0", folder.path()).run(LONG).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(15));
        let daemon = fs::read_to_string(folder.path().join("daemon")).unwrap();
        let daemon = Pid::from_raw(daemon.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(daemon, Signal::KILL).expect("it was left running");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let command = CommandLine::new(&["./no-such-program".to_owned()], folder.path()).unwrap();
        let error = command.run(LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "`./no-such-program` cannot be started: there is no such program");
    }

    #[tokio::test]
    async fn a_relative_program_is_relative_to_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hook"), "#!/bin/sh\npwd > where\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path().join("hook"), mode).unwrap();
        let command = CommandLine::new(&["./hook".to_owned()], folder.path()).unwrap();
        command.run(LONG).await.unwrap();
        assert!(folder.path().join("where").exists());
    }
}
