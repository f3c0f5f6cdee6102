//! What the DNS servers share: zones, keys, and a query that looks at them from outside.

use std::fmt::Write as _;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::process::Server;
use crate::process::peer;

/// A zone that a server starts with.
#[derive(Debug, Clone)]
pub struct ZoneFile {
    /// The apex, without a trailing dot.
    pub name: String,
    /// Further records as lines of a master file, relative to the apex.
    pub records: Vec<String>,
    /// Whether the server takes no updates of it.
    pub read_only: bool,
}

impl ZoneFile {
    /// A zone with an SOA, a name server and its address, and nothing else.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), records: Vec::new(), read_only: false }
    }

    /// The same zone with one more record, for example `_acme-challenge 60 IN TXT "foreign"`.
    pub fn with(mut self, record: &str) -> Self {
        self.records.push(record.to_owned());
        self
    }

    /// The same zone, of which the server takes no updates.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The zone as a master file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "$ORIGIN {}.\n$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 60\n@ IN NS ns\nns IN A 127.0.0.1\n",
            self.name
        );
        for record in &self.records {
            let _ = writeln!(text, "{record}");
        }
        text
    }
}

/// A TSIG key that a server starts with.
#[derive(Debug, Clone)]
pub struct TsigKey {
    /// The key's name, without a trailing dot.
    pub name: String,
    /// `hmac-sha256`, `hmac-sha384` or `hmac-sha512`.
    pub algorithm: String,
    /// The secret in base64.
    pub secret: String,
}

impl TsigKey {
    /// A key called `certplan-key` with a secret that only tests know.
    pub fn new(algorithm: &str) -> Self {
        Self {
            name: "certplan-key".to_owned(),
            algorithm: algorithm.to_owned(),
            // Base64 of 64 ASCII octets: long enough for every algorithm.
            secret: "dGhpcy1pcy1hLXRlc3Qta2V5LXRoYXQtb25seS10ZXN0cy1rbm93LWFuZC1ub2JvZHktZWxzZS1ldmVyISE="
                .to_owned(),
        }
    }
}

/// Starts a server, again on other ports when the first were taken in between, and waits until it is ready.
///
/// # Panics
/// With the server's log, when it never becomes ready.
pub(crate) fn start_until_ready<T>(
    mut start: impl FnMut() -> (Server, T),
    ready: impl Fn(&Server, &T) -> bool,
) -> (Server, T) {
    let mut log = String::new();
    for _ in 0..5 {
        let (mut server, ports) = start();
        let began = Instant::now();
        while !server.has_ended() && began.elapsed() < Duration::from_secs(20) {
            if ready(&server, &ports) {
                return (server, ports);
            }
            thread::sleep(Duration::from_millis(10));
        }
        log = server.log();
    }
    panic!("the server does not become ready:\n{log}");
}

/// Asks a loopback server over TCP for the TXT values at a name: sorted, character strings joined, and octets that are not
/// UTF-8 replaced. A name without TXT records, or behind a CNAME, has none.
///
/// # Panics
/// When the server does not answer within five seconds.
pub fn txt(port: u16, name: &str) -> Vec<String> {
    let answer = query(port, name, 16)
        .unwrap_or_else(|error| panic!("the server on port {port} does not answer for {name}: {error}"));
    let mut values: Vec<String> = answer
        .into_iter()
        .filter(|record| record.kind == 16 && record.name.eq_ignore_ascii_case(name.trim_end_matches('.')))
        .map(|record| {
            let mut value = Vec::new();
            let mut rest = record.data.as_slice();
            while let Some((&length, tail)) = rest.split_first() {
                let (string, tail) = tail.split_at(usize::from(length).min(tail.len()));
                value.extend_from_slice(string);
                rest = tail;
            }
            String::from_utf8_lossy(&value).into_owned()
        })
        .collect();
    values.sort();
    values
}

/// Adds a TXT value to a zone of a loopback server with `nsupdate`, as somebody else would.
///
/// # Panics
/// When `nsupdate` is missing or the server refuses.
pub fn add_txt(port: u16, key: &TsigKey, zone: &str, name: &str, value: &str) {
    let program = peer("nsupdate").expect("nsupdate comes with BIND's utilities");
    let mut child = Command::new(program)
        .args(["-v", "-y", &format!("{}:{}:{}", key.algorithm, key.name, key.secret)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsupdate runs");
    let commands =
        format!("server 127.0.0.1 {port}\nzone {zone}.\nupdate add {name}. 60 TXT \"{value}\"\nsend\n");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(commands.as_bytes()).expect("nsupdate reads its commands");
    drop(stdin);
    let output = child.wait_with_output().expect("nsupdate ends");
    assert!(output.status.success(), "nsupdate: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a loopback server answers for a zone.
pub(crate) fn serves(port: u16, zone: &str) -> bool {
    query(port, zone, 6).is_ok_and(|answer| answer.iter().any(|record| record.kind == 6))
}

/// A record of an answer section.
struct Answer {
    name: String,
    kind: u16,
    data: Vec<u8>,
}

fn query(port: u16, name: &str, kind: u16) -> std::io::Result<Vec<Answer>> {
    let mut message = vec![0x2a, 0x17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&1u16.to_be_bytes());

    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), limit)?;
    stream.set_read_timeout(Some(limit))?;
    let length = u16::try_from(message.len()).expect("a query is short");
    stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut response)?;
    read_answer(&response).ok_or_else(|| std::io::Error::other("the response cannot be read"))
}

fn read_answer(message: &[u8]) -> Option<Vec<Answer>> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = read_name(message, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        let (name, end) = read_name(message, at)?;
        let length = usize::from(number(end + 8)?);
        let data = message.get(end + 10..end + 10 + length)?.to_vec();
        records.push(Answer { name, kind: number(end)?, data });
        at = end + 10 + length;
    }
    Some(records)
}

fn read_name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut labels) = (start, None, Vec::new());
    // A name has at most 127 labels, so that a loop of pointers ends too.
    for _ in 0..256 {
        let length = *message.get(at)?;
        if length == 0 {
            return Some((labels.join("."), end.unwrap_or(at + 1)));
        }
        if length & 0xc0 == 0xc0 {
            end = end.or(Some(at + 2));
            at = usize::from(u16::from_be_bytes([length & 0x3f, *message.get(at + 1)?]));
        } else {
            let label = message.get(at + 1..at + 1 + usize::from(length))?;
            labels.push(String::from_utf8_lossy(label).into_owned());
            at += 1 + usize::from(length);
        }
    }
    None
}
