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

/// An nginx that serves one certificate from a folder in certbot's layout.
#[derive(Debug)]
pub struct Nginx {
    server: Server,
    program: PathBuf,
    port: u16,
}

impl Nginx {
    /// Starts nginx on `fullchain.pem` and `privkey.pem` of a folder; `None` when it may be skipped.
    ///
    /// # Panics
    /// When nginx is missing or does not start.
    pub fn start(certificate: &Path) -> Option<Self> {
        let certificate = certificate.display();
        Self::with(|port| {
            format!(
                "server {{\n\
                   listen 127.0.0.1:{port} ssl;\n\
                   server_name localhost;\n\
                   ssl_certificate {certificate}/fullchain.pem;\n\
                   ssl_certificate_key {certificate}/privkey.pem;\n\
                   return 204;\n\
                 }}\n"
            )
        })
    }

    /// Starts nginx with a `server` block for a port; `None` when it may be skipped.
    ///
    /// # Panics
    /// When nginx is missing or does not start.
    pub fn with(block: impl FnOnce(u16) -> String) -> Option<Self> {
        let program = peer("nginx")?;
        let folder = tempfile::tempdir().expect("a folder for nginx");
        let port = free_port();
        fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), &block(port)))
            .expect("the folder is writable");
        let mut command = Command::new(&program);
        command.args(arguments(folder.path()));
        let server = Server::start(folder, &mut command).wait_until("nginx", || wait_for_port(port));
        Some(Self { server, program, port })
    }

    fn command(&self, words: &[&str]) -> Vec<String> {
        let program = self.program.display().to_string();
        let words = words.iter().map(|word| (*word).to_owned());
        [program].into_iter().chain(arguments(self.server.folder())).chain(words).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        stop(&mut self.server);
    }
}

impl WebServer for Nginx {
    fn port(&self) -> u16 {
        self.port
    }

    fn test_command(&self) -> Vec<String> {
        self.command(&["-t"])
    }

    fn reload_command(&self) -> Vec<String> {
        self.command(&["-s", "reload"])
    }

    fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn arguments(folder: &Path) -> Vec<String> {
    let folder = folder.display();
    vec![
        "-p".into(),
        format!("{folder}/"),
        "-c".into(),
        format!("{folder}/nginx.conf"),
        "-e".into(),
        "stderr".into(),
    ]
}

fn configuration(folder: &Path, block: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\n\
         master_process on;\n\
         worker_processes 1;\n\
         pid {folder}/pid;\n\
         error_log stderr notice;\n\
         events {{ worker_connections 32; }}\n\
         http {{\n\
           access_log off;\n\
           client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;\n\
           uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;\n\
           {block}\n\
         }}\n"
    )
}
