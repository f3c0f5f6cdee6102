use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use crate::dns::TsigKey;
use crate::dns::ZoneFile;
use crate::dns::serves;
use crate::dns::start_until_ready;
use crate::dns::txt;
use crate::process::Server;
use crate::process::free_port;
use crate::process::peer;
use crate::process::wait_for_port;
use crate::proxy::CountingProxy;

const API_KEY: &str = "an-api-key-that-only-tests-know";

/// A PowerDNS that serves zones on loopback, with its HTTP API and with TSIG-signed updates.
#[derive(Debug)]
pub struct PowerDns {
    server: Server,
    port: u16,
    api: CountingProxy,
}

impl PowerDns {
    /// Starts `pdns_server` on an SQLite file of its own; `None` when it is missing and tests may skip it.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start(zones: &[ZoneFile], key: &TsigKey) -> Option<Self> {
        let (program, tool) = (peer("pdns_server")?, peer("pdnsutil")?);
        let (server, (port, api)) = start_until_ready(
            || {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let (port, api) = (free_port(), free_port());
                let path = folder.path().display().to_string();
                let config = format!(
                    "launch=gsqlite3\ngsqlite3-database={path}/pdns.sqlite3\ngsqlite3-pragma-synchronous=0\n\
                     local-address=127.0.0.1\nlocal-port={port}\nsocket-dir={path}\ndaemon=no\nguardian=no\n\
                     cache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nzone-cache-refresh-interval=0\n\
                     dnsupdate=yes\nallow-dnsupdate-from=127.0.0.0/8\n\
                     api=yes\napi-key={API_KEY}\nwebserver=yes\nwebserver-address=127.0.0.1\n\
                     webserver-port={api}\nwebserver-allow-from=127.0.0.1\n\
                     loglevel=6\nlog-timestamp=no\nmax-tcp-connections=1000\nmax-tcp-connections-per-client=0\n",
                );
                fs::write(folder.path().join("pdns.conf"), config).expect("the folder is writable");
                create_database(folder.path());
                let pdnsutil = |arguments: &[&str]| {
                    let output = Command::new(&tool)
                        .arg(format!("--config-dir={path}"))
                        .args(arguments)
                        .output()
                        .expect("pdnsutil runs");
                    assert!(
                        output.status.success(),
                        "pdnsutil {arguments:?}: {}",
                        String::from_utf8_lossy(&output.stderr)
                    );
                };
                pdnsutil(&["import-tsig-key", &key.name, &key.algorithm, &key.secret]);
                for zone in zones {
                    let file = folder.path().join(format!("{}.zone", zone.name));
                    fs::write(&file, zone.text()).expect("the folder is writable");
                    pdnsutil(&["load-zone", &zone.name, &file.display().to_string()]);
                    pdnsutil(&["set-kind", &zone.name, "native"]);
                    // Without any key in this place, updates would need none.
                    let allowed = if zone.read_only { "nobodys-key" } else { key.name.as_str() };
                    pdnsutil(&["set-meta", &zone.name, "TSIG-ALLOW-DNSUPDATE", allowed]);
                }
                let server =
                    Server::start(folder, Command::new(&program).arg(format!("--config-dir={path}")));
                (server, (port, api))
            },
            |_, (port, api)| wait_for_port(*api) && zones.iter().all(|zone| serves(*port, &zone.name)),
        );
        Some(Self { server, port, api: CountingProxy::start(api, "PATCH ") })
    }

    /// The DNS port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The root of the HTTP API's server, for example `http://127.0.0.1:8081`.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api.port())
    }

    /// The API key.
    pub fn api_key(&self) -> &'static str {
        API_KEY
    }

    /// The TXT values at a name, as the server gives them to anyone.
    pub fn txt(&self, name: &str) -> Vec<String> {
        txt(self.port, name)
    }

    /// How many PATCH requests its API has got so far through [`api_url`](Self::api_url).
    pub fn patches(&self) -> u64 {
        self.api.count()
    }

    /// How many UPDATE messages have arrived so far, from its log.
    pub fn updates(&self) -> u64 {
        self.server.log().lines().filter(|line| line.contains("Processing started")).count() as u64
    }

    /// The process and its log.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

/// Creates the database that the package's schema describes.
fn create_database(folder: &Path) {
    const SCHEMAS: [&str; 2] = [
        "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql",
        "/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql",
    ];
    let schema = SCHEMAS
        .iter()
        .find_map(|path| fs::File::open(path).ok())
        .expect("pdns-backend-sqlite3 brings its schema: run tests/run, which installs it");
    let sqlite = peer("sqlite3").expect("sqlite3 makes the database: run tests/run, which installs it");
    let status = Command::new(sqlite)
        .arg(folder.join("pdns.sqlite3"))
        .stdin(schema)
        .stdout(Stdio::null())
        .status()
        .expect("sqlite3 runs");
    assert!(status.success(), "sqlite3 cannot create the database");
}
