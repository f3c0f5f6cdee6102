//! certplan on a terminal, as somebody runs it who sits before it.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::Project;

/// How long anything on the screen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    child: Child,
}

impl Terminal {
    /// Starts certplan on a terminal of 120 columns.
    ///
    /// # Panics
    /// When the system has no terminals to give, or no `setsid` (util-linux), which makes one the controlling terminal.
    #[must_use]
    pub fn start(project: &Project, arguments: &[&str]) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        rustix::pty::grantpt(&master).expect("it is granted");
        rustix::pty::unlockpt(&master).expect("it is unlocked");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let own: OwnedFd = rustix::fs::open(name, flags, Mode::empty()).expect("its other side");
        let size = Winsize { ws_row: 50, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&own, size).expect("it has a size");
        let side = || Stdio::from(own.try_clone().expect("a descriptor"));

        let certplan = project.command(arguments);
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(certplan.get_program()).args(certplan.get_args());
        command.current_dir(project.path()).env_clear().env("TERM", "xterm-256color");
        command.envs(certplan.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child =
            command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("util-linux has setsid");

        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone().expect("a descriptor");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&screen);
        let reader = thread::spawn(move || {
            let mut octets = [0; 4096];
            // It ends with an error when the last program has gone.
            while let Ok(count @ 1..) = reader.read(&mut octets) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&octets[..count]);
            }
        });
        Self { keyboard, screen, reader: Some(reader), child }
    }

    /// Everything that was shown so far, as it was sent to the terminal.
    #[must_use]
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until something is shown.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.screen().contains(text) {
            assert!(Instant::now() < deadline, "`{text}` is not shown:\n{}", self.screen());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("somebody listens");
    }

    /// Waits for the end, and returns the exit code with everything that was shown.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("it is ours") {
                Some(status) => break status,
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                None => panic!("it does not end:\n{}", self.screen()),
            }
        };
        // It reads to the end, for nobody has the other side of the terminal any more.
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it only reads");
        }
        (status.code(), self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal goes with `keyboard`, which ends certplan; this ends who waits for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
