use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::process::Server;
use crate::process::free_port;
use crate::process::peer;
use crate::process::wait_for_port;
use crate::web::WebServer;
use crate::web::stop;

/// An HAProxy that serves every certificate of a folder, as `crt <folder>` does, or one combined file.
#[derive(Debug)]
pub struct Haproxy {
    server: Server,
    program: PathBuf,
    port: u16,
}

impl Haproxy {
    /// Starts HAProxy, as master and worker, on a folder or a file; `None` when it may be skipped.
    ///
    /// # Panics
    /// When HAProxy is missing or does not start.
    pub fn start(certificates: &Path) -> Option<Self> {
        let certificates = certificates.display();
        Self::with(|port| format!("frontend tls\n  bind 127.0.0.1:{port} ssl crt {certificates}\n"))
    }

    /// Starts HAProxy, as master and worker, with a frontend for a port; `None` when it may be skipped.
    ///
    /// # Panics
    /// When HAProxy is missing or does not start.
    pub fn with(frontend: impl FnOnce(u16) -> String) -> Option<Self> {
        let program = peer("haproxy")?;
        let folder = tempfile::tempdir().expect("a folder for HAProxy");
        let port = free_port();
        fs::write(folder.path().join("haproxy.cfg"), configuration(&frontend(port)))
            .expect("the folder is writable");
        let mut command = Command::new(&program);
        command
            .arg("-W")
            .arg("-S")
            .arg(folder.path().join("master"))
            .arg("-f")
            .arg(folder.path().join("haproxy.cfg"));
        let server = Server::start(folder, &mut command).wait_until("HAProxy", || wait_for_port(port));
        Some(Self { server, program, port })
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        stop(&mut self.server);
    }
}

impl WebServer for Haproxy {
    fn port(&self) -> u16 {
        self.port
    }

    fn test_command(&self) -> Vec<String> {
        let configuration = self.server.folder().join("haproxy.cfg").display().to_string();
        vec![self.program.display().to_string(), "-c".into(), "-f".into(), configuration]
    }

    fn reload_command(&self) -> Vec<String> {
        // What the unit of the Debian package does, too.
        vec!["kill".into(), "-USR2".into(), self.server.id().to_string()]
    }

    fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn configuration(frontend: &str) -> String {
    format!(
        "global\n  ssl-default-bind-options ssl-min-ver TLSv1.2\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
         {frontend}  http-request return status 204\n"
    )
}
