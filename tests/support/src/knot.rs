use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::dns::TsigKey;
use crate::dns::ZoneFile;
use crate::dns::serves;
use crate::dns::start_until_ready;
use crate::dns::txt;
use crate::process::Server;
use crate::process::free_port;
use crate::process::peer;

/// A Knot DNS that serves zones on loopback and takes TSIG-signed updates of them.
#[derive(Debug)]
pub struct Knot {
    server: Server,
    port: u16,
}

impl Knot {
    /// Starts `knotd`; `None` when it is missing and tests may skip it.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start(zones: &[ZoneFile], key: &TsigKey) -> Option<Self> {
        let knotd = peer("knotd")?;
        let (server, port) = start_until_ready(
            || {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let port = free_port();
                let path = folder.path().display();
                // Small maps: the default reserves gigabytes of address space per database.
                let mut config = format!(
                    r#"server:
  rundir: "{path}"
  listen: 127.0.0.1@{port}
  tcp-workers: 2
  udp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: info
database:
  storage: "{path}"
  journal-db-max-size: 100M
  kasp-db-max-size: 10M
  timer-db-max-size: 10M
  catalog-db-max-size: 10M
mod-stats:
  - id: counted
    server-operation: on
key:
  - id: {name}
    algorithm: {algorithm}
    secret: {secret}
acl:
  - id: update
    key: {name}
    action: update
    update-type: [TXT]
  - id: query
    key: {name}
    action: query
template:
  - id: default
    storage: "{path}"
    global-module: mod-stats/counted
zone:
"#,
                    name = key.name,
                    algorithm = key.algorithm,
                    secret = key.secret,
                );
                for zone in zones {
                    let file = folder.path().join(format!("{}.zone", zone.name));
                    fs::write(&file, zone.text()).expect("the folder is writable");
                    let acl = if zone.read_only { "query" } else { "update, query" };
                    let _ = writeln!(
                        config,
                        "  - domain: {}\n    file: \"{}\"\n    acl: [{acl}]\n    zonefile-sync: -1\n    journal-content: changes",
                        zone.name,
                        file.display()
                    );
                }
                let file = folder.path().join("knot.conf");
                fs::write(&file, config).expect("the folder is writable");
                let server = Server::start(folder, Command::new(&knotd).arg("-c").arg(&file));
                (server, port)
            },
            |server, port| {
                server.log().contains("server started") && zones.iter().all(|zone| serves(*port, &zone.name))
            },
        );
        Some(Self { server, port })
    }

    /// The port on 127.0.0.1.
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
        let control = peer("knotc").expect("knotc comes with knotd");
        let output = Command::new(control)
            .arg("-s")
            .arg(self.server.folder().join("knot.sock"))
            .arg("stats")
            .output()
            .expect("knotc runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines()
            .find_map(|line| line.strip_prefix("mod-stats.server-operation[update] = "))
            .map_or(0, |count| count.trim().parse().expect("a number follows"))
    }

    /// The process and its log.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
