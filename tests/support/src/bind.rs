use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::process::Command;

use crate::dns::TsigKey;
use crate::dns::ZoneFile;
use crate::dns::serves;
use crate::dns::start_until_ready;
use crate::dns::txt;
use crate::process::Server;
use crate::process::free_port;
use crate::process::peer;

/// A BIND that serves zones on loopback and takes TSIG-signed updates of them.
#[derive(Debug)]
pub struct Bind {
    server: Server,
    port: u16,
    statistics: u16,
}

impl Bind {
    /// Starts `named`; `None` when it is missing and tests may skip it.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start(zones: &[ZoneFile], key: &TsigKey) -> Option<Self> {
        let named = peer("named")?;
        let (server, (port, statistics)) = start_until_ready(
            || {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let (port, statistics) = (free_port(), free_port());
                let path = folder.path().display();
                let mut config = format!(
                    r#"options {{
  directory "{path}"; pid-file "{path}/named.pid"; session-keyfile "{path}/session.key";
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 port {port} {{ ::1; }};
  recursion no; allow-query {{ any; }}; dnssec-validation no; notify no; tcp-clients 1000; tcp-listen-queue 1000; querylog no;
}};
controls {{ }};
statistics-channels {{ inet 127.0.0.1 port {statistics} allow {{ 127.0.0.1; }}; }};
key "{name}" {{ algorithm {algorithm}; secret "{secret}"; }};
"#,
                    name = key.name,
                    algorithm = key.algorithm,
                    secret = key.secret,
                );
                for zone in zones {
                    let file = folder.path().join(format!("{}.zone", zone.name));
                    fs::write(&file, zone.text()).expect("the folder is writable");
                    let policy = match zone.read_only {
                        true => String::new(),
                        false => format!("update-policy {{ grant {} zonesub TXT; }};", key.name),
                    };
                    let _ = writeln!(
                        config,
                        "zone \"{}\" {{ type primary; file \"{}\"; {policy} }};",
                        zone.name,
                        file.display(),
                    );
                }
                let file = folder.path().join("named.conf");
                fs::write(&file, config).expect("the folder is writable");
                // No `-u`: it needs privileges that a test has not, and the folder belongs to who starts it.
                let server =
                    Server::start(folder, Command::new(&named).args(["-g", "-n", "1", "-c"]).arg(&file));
                (server, (port, statistics))
            },
            |server, (port, _)| {
                server.log().contains("running") && zones.iter().all(|zone| serves(*port, &zone.name))
            },
        );
        Some(Self { server, port, statistics })
    }

    /// The port on 127.0.0.1, and on ::1 where there is one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The TXT values at a name, as the server gives them to anyone.
    pub fn txt(&self, name: &str) -> Vec<String> {
        txt(self.port, name)
    }

    /// How many UPDATE messages have arrived so far, from its statistics.
    ///
    /// # Panics
    /// When the statistics cannot be read.
    pub fn updates(&self) -> u64 {
        let mut stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.statistics)).expect("statistics are served");
        stream
            .write_all(b"GET /json/v1/server HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("statistics can be asked for");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("statistics are text");
        let Some((_, tail)) = answer.split_once("\"UPDATE\":") else { return 0 };
        tail.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number follows")
    }

    /// The process and its log.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
