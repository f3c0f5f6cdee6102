use std::ffi::OsString;
use std::fmt;
use std::fs;

use rustix::io::Errno;
use rustix::process::Pid;
use serde::Deserialize;
use serde::Serialize;
use url::Url;

/// Who holds a lease: enough to find the run, and to see that its process has died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Holder {
    /// The identifier of the run.
    pub run: String,
    /// The name of the host.
    pub host: String,
    /// What identifies the host's kernel and the set of processes that the number is of; `None` where neither is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The process.
    pub pid: u32,
    /// When the process started, in ticks since the boot: numbers are used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// The page of the CI run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl Holder {
    /// This process, as the holder of leases for a run; reads the environment and the system: the edge calls it.
    pub fn current(env: &dyn Fn(&str) -> Option<OsString>, run: &str) -> Self {
        let pid = std::process::id();
        Self {
            run: run.to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot: boot(),
            pid,
            started: process(pid).map(|process| process.started),
            url: ci_url(&|name| env(name)?.into_string().ok()),
        }
    }

    /// Whether the process is known to have died, judged by `observer`, the holder that this process would be.
    ///
    /// Only what runs under the same kernel and in the same set of processes can be judged; of anything else, and of
    /// what cannot be seen, the answer is `false`.
    pub(super) fn is_dead(&self, observer: &Self) -> bool {
        self.lives(observer) == Some(false)
    }

    /// Whether the process is known to be alive, judged as in [`is_dead`](Self::is_dead).
    pub(super) fn is_alive(&self, observer: &Self) -> bool {
        self.lives(observer) == Some(true)
    }

    fn lives(&self, observer: &Self) -> Option<bool> {
        if self.boot.is_none() || self.boot != observer.boot || self.host != observer.host {
            return None;
        }
        let pid = i32::try_from(self.pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)?;
        match rustix::process::test_kill_process(pid) {
            Err(Errno::SRCH) => Some(false),
            Err(_) => None,
            Ok(()) => {
                let (process, started) = (process(self.pid)?, self.started?);
                Some(!process.ended && process.started == started)
            }
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| text.chars().take(200).collect::<String>().escape_debug().to_string();
        write!(f, "run {} on {} (process {})", short(&self.run), short(&self.host), self.pid)?;
        match &self.url {
            Some(url) => write!(f, ", {}", short(url)),
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Process {
    started: u64,
    ended: bool,
}

/// What the system tells about a process, where it has `/proc`.
#[expect(clippy::disallowed_methods, reason = "only the system tells whether a holder is alive")]
fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, so the fields after it are counted.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // The start is the 22nd field; the state was the third.
    let started = fields.nth(18)?.parse().ok()?;
    Some(Process { started, ended: matches!(state, "Z" | "X") })
}

/// The identifier of the boot together with the namespace of process numbers: containers share the first only.
#[expect(clippy::disallowed_methods, reason = "only the system tells which boot this is")]
fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// The page of the CI run that the environment describes.
fn ci_url(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let github = || {
        let (server, repository) = (env("GITHUB_SERVER_URL")?, env("GITHUB_REPOSITORY")?);
        Some(format!("{server}/{repository}/actions/runs/{}", env("GITHUB_RUN_ID")?))
    };
    let others = ["CI_JOB_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL", "BUILD_URL"];
    let url = github().or_else(|| others.into_iter().find_map(env))?;
    let parsed = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    (url.len() <= 1_000).then(|| parsed.to_string())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::process::Stdio;

    use super::*;

    fn holder(variables: &[(&str, &str)]) -> Holder {
        let env = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        Holder::current(&env, "run-1")
    }

    #[test]
    fn a_process_that_was_killed_is_dead_even_before_it_is_reaped() {
        let observer = holder(&[]);
        let mut child = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
        let started = process(child.id()).map(|process| process.started);
        let other = Holder { pid: child.id(), started, ..observer.clone() };
        assert!(!other.is_dead(&observer) && other.is_alive(&observer));
        child.kill().unwrap();
        while !other.is_dead(&observer) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(other.is_dead(&observer));
    }

    #[test]
    fn a_process_with_a_used_number_is_not_the_holder() {
        let observer = holder(&[]);
        assert!(!observer.is_dead(&observer));
        let before = Holder { started: observer.started.map(|ticks| ticks - 1), ..observer.clone() };
        assert!(before.is_dead(&observer));
    }

    #[test]
    fn nothing_is_said_about_processes_of_another_boot_host_or_container() {
        let observer = holder(&[]);
        let dead = Holder { started: Some(1), ..observer.clone() };
        assert!(dead.is_dead(&observer));
        for other in [
            Holder { boot: Some("another".to_owned()), ..dead.clone() },
            Holder { boot: None, ..dead.clone() },
            Holder { host: "another".to_owned(), ..dead.clone() },
            Holder { pid: 0, ..dead.clone() },
            Holder { pid: u32::MAX, ..dead.clone() },
            Holder { started: None, ..dead },
        ] {
            assert!(!other.is_dead(&observer) && !other.is_alive(&observer), "{other:?}");
        }
    }

    #[test]
    fn the_page_of_the_ci_run_is_found() {
        let github = holder(&[
            ("GITHUB_SERVER_URL", "https://git.example"),
            ("GITHUB_REPOSITORY", "acme/certs"),
            ("GITHUB_RUN_ID", "7"),
        ]);
        assert_eq!(github.url.as_deref(), Some("https://git.example/acme/certs/actions/runs/7"));
        let gitlab = holder(&[("CI_JOB_URL", "https://gitlab.example/jobs/1")]);
        assert!(gitlab.to_string().ends_with("https://gitlab.example/jobs/1"), "{gitlab}");
        assert_eq!(holder(&[("CI_JOB_URL", "javascript:alert(1)")]).url, None);
    }

    #[test]
    fn a_forged_holder_cannot_control_a_terminal() {
        let forged =
            Holder { run: "\u{1b}[2J".to_owned(), url: Some("https://x\r\n".to_owned()), ..holder(&[]) };
        assert!(!forged.to_string().chars().any(char::is_control));
    }
}
