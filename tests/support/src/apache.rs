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

/// An Apache httpd that serves one certificate from a folder in certbot's layout.
#[derive(Debug)]
pub struct Apache {
    server: Server,
    program: PathBuf,
    port: u16,
}

impl Apache {
    /// Starts Apache on `fullchain.pem` and `privkey.pem` of a folder; `None` when it may be skipped.
    ///
    /// # Panics
    /// When Apache is missing or does not start.
    pub fn start(certificate: &Path) -> Option<Self> {
        let certificate = certificate.display();
        Self::with(|port| {
            format!(
                "<VirtualHost 127.0.0.1:{port}>\n\
                   SSLEngine on\n\
                   SSLCertificateFile {certificate}/fullchain.pem\n\
                   SSLCertificateKeyFile {certificate}/privkey.pem\n\
                 </VirtualHost>\n"
            )
        })
    }

    /// Starts Apache with a virtual host for a port; `None` when it may be skipped.
    ///
    /// # Panics
    /// When Apache is missing or does not start.
    pub fn with(host: impl FnOnce(u16) -> String) -> Option<Self> {
        let program = peer("apache2")?;
        let folder = tempfile::tempdir().expect("a folder for Apache");
        let port = free_port();
        fs::write(folder.path().join("httpd.conf"), configuration(folder.path(), port, &host(port)))
            .expect("the folder is writable");
        let mut command = Command::new(&program);
        command.args(arguments(folder.path())).arg("-DFOREGROUND");
        let server = Server::start(folder, &mut command).wait_until("Apache", || wait_for_port(port));
        Some(Self { server, program, port })
    }

    fn command(&self, words: &[&str]) -> Vec<String> {
        let program = self.program.display().to_string();
        let words = words.iter().map(|word| (*word).to_owned());
        [program].into_iter().chain(arguments(self.server.folder())).chain(words).collect()
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        stop(&mut self.server);
    }
}

impl WebServer for Apache {
    fn port(&self) -> u16 {
        self.port
    }

    fn test_command(&self) -> Vec<String> {
        self.command(&["-t"])
    }

    fn reload_command(&self) -> Vec<String> {
        self.command(&["-k", "graceful"])
    }

    fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn arguments(folder: &Path) -> Vec<String> {
    let folder = folder.display();
    vec!["-d".into(), folder.to_string(), "-f".into(), format!("{folder}/httpd.conf")]
}

fn configuration(folder: &Path, port: u16, host: &str) -> String {
    // Where Debian's package puts the modules.
    const MODULES: &str = "/usr/lib/apache2/modules";
    let folder = folder.display();
    // As root, Apache changes to another user, who has to exist.
    let user = if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        "User daemon\nGroup daemon\n"
    } else {
        ""
    };
    format!(
        "ServerName localhost\n\
         Listen 127.0.0.1:{port}\n\
         PidFile {folder}/pid\n\
         DefaultRuntimeDir {folder}\n\
         Mutex file:{folder} default\n\
         ErrorLog {folder}/log\n\
         LogLevel warn\n\
         {user}\
         LoadModule mpm_event_module {MODULES}/mod_mpm_event.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule socache_shmcb_module {MODULES}/mod_socache_shmcb.so\n\
         LoadModule ssl_module {MODULES}/mod_ssl.so\n\
         StartServers 1\n\
         SSLSessionCache none\n\
         {host}"
    )
}
