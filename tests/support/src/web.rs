use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::process::Server;

/// A web server that serves a certificate over TLS.
pub trait WebServer {
    /// The loopback port.
    fn port(&self) -> u16;

    /// The command that tests its configuration, for a target's `test`.
    fn test_command(&self) -> Vec<String>;

    /// The command that makes it read its files again, for a target's `reload`.
    fn reload_command(&self) -> Vec<String>;

    /// The process.
    fn server(&mut self) -> &mut Server;

    /// The SHA-256 fingerprint of the leaf that it serves, as 64 hexadecimal digits; `None` when no handshake succeeds.
    fn serving(&self) -> Option<String> {
        served_fingerprint(self.port())
    }

    /// Waits until it serves a certificate, for a reload takes effect a little later.
    ///
    /// # Panics
    /// With its log, when twenty seconds pass.
    fn wait_for(&mut self, fingerprint: &str) {
        let start = Instant::now();
        loop {
            let serving = self.serving();
            if serving.as_deref() == Some(fingerprint) {
                return;
            }
            let log = self.server().log();
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "serves {serving:?}, not {fingerprint}:\n{log}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Ends a server and its workers, which outlive a master that is killed.
pub(crate) fn stop(server: &mut Server) {
    let _ = Command::new("kill").arg("-TERM").arg(server.id().to_string()).stderr(Stdio::null()).status();
    let start = Instant::now();
    while !server.has_ended() && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(10));
    }
}

/// The SHA-256 fingerprint of the leaf that a loopback port serves, as 64 hexadecimal digits, asked with OpenSSL's program.
///
/// # Panics
/// When `openssl` is not installed.
pub fn served_fingerprint(port: u16) -> Option<String> {
    let handshake = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "shop.example.org"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .expect("`openssl` is installed");
    let output = String::from_utf8_lossy(&handshake.stdout).into_owned();
    let begin = output.find("-----BEGIN CERTIFICATE-----")?;
    let end = output.find("-----END CERTIFICATE-----")? + "-----END CERTIFICATE-----".len();
    let mut digest = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`openssl` is installed");
    let mut input = digest.stdin.take().expect("its input is a pipe");
    std::io::Write::write_all(&mut input, &output.as_bytes()[begin..end]).expect("`openssl` reads its input");
    drop(input);
    let digest = digest.wait_with_output().expect("`openssl` ends");
    let line = String::from_utf8_lossy(&digest.stdout).into_owned();
    Some(line.trim().rsplit('=').next()?.replace(':', "").to_ascii_lowercase())
}
