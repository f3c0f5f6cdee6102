//! A fake of the API of releases that Debian does not have yet, as strict as their source is (`pdns/ws-auth.cc`, function
//! `patchZone`): `EXTEND` and `PRUNE` take exactly one record with the time to live of the others, compare contents as
//! text, may name an RRset more than once, and drop its disabled records, which they do not see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// The server.
pub(crate) struct Fake {
    url: String,
    state: Arc<Mutex<State>>,
}

/// What it holds, for tests to set and to look at.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) version: &'static str,
    /// The TXT RRsets of `example.test`, by name: `{ ttl, records, comments }`.
    pub(crate) sets: BTreeMap<String, Value>,
    /// The bodies of all `PATCH` requests.
    pub(crate) patches: Vec<Value>,
    /// How many more changes somebody undoes at once.
    pub(crate) undo: usize,
    /// Whether it refuses single records.
    pub(crate) refuses_single_records: bool,
    /// The zones that it has beside `example.test`.
    pub(crate) zones: Vec<String>,
    /// The zones that were asked for, with an empty one for a list of all.
    pub(crate) questions: Vec<String>,
    /// How many questions for zones have to be open before the first is answered.
    pub(crate) gate: usize,
}

impl Fake {
    pub(crate) async fn start(version: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { version, ..State::default() }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { url, state }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// The change types of all `PATCH` requests, one list a request.
    pub(crate) fn change_types(&self) -> Vec<Vec<String>> {
        let types = |patch: &Value| {
            let sets = patch["rrsets"].as_array().unwrap().iter();
            sets.map(|set| set["changetype"].as_str().unwrap().to_owned()).collect()
        };
        self.with(|state| state.patches.iter().map(types).collect())
    }
}

/// A parameter of a URL; empty when it is not there.
fn query(path: &str, name: &str) -> String {
    let parameters = path.split_once('?').map_or("", |(_, parameters)| parameters).split('&');
    let values = parameters.filter_map(|parameter| parameter.strip_prefix(name)?.strip_prefix('='));
    values.map(str::to_owned).next().unwrap_or_default()
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        for line in head.lines() {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if path.contains("/zones?") {
            state.lock().unwrap().questions.push(query(path, "zone"));
            while {
                let state = state.lock().unwrap();
                state.questions.len() < state.gate
            } {
                tokio::task::yield_now().await;
            }
        }
        let (status, answer) = state.lock().unwrap().answer(method, path, &body);
        let answer = answer.to_string();
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl State {
    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let path = path.strip_prefix("/api/v1/servers/localhost").unwrap_or_default();
        match (method, path.split('?').next().unwrap_or_default()) {
            ("GET", "") => (200, json!({ "id": "localhost", "version": self.version })),
            ("GET", "/zones/example.test.") => (200, self.zone()),
            ("GET", "/zones") => {
                let asked = query(path, "zone");
                let all = self.zones.iter().map(String::as_str).chain(["example.test."]);
                let found = all.filter(|zone| asked.is_empty() || **zone == asked);
                (200, found.map(|zone| json!({ "id": zone, "name": zone, "kind": "Native" })).collect())
            }
            ("PATCH", "/zones/example.test.") => {
                let patch: Value = serde_json::from_slice(body).unwrap();
                self.patches.push(patch.clone());
                let before = self.sets.clone();
                let result = patch["rrsets"].as_array().unwrap().iter().try_for_each(|set| self.apply(set));
                if result.is_err() || self.undo > 0 {
                    self.undo = self.undo.saturating_sub(1);
                    self.sets = before;
                }
                match result {
                    Ok(()) => (204, Value::Null),
                    Err(error) => (422, json!({ "error": error })),
                }
            }
            _ => (404, Value::Null),
        }
    }

    fn zone(&self) -> Value {
        let sets = self.sets.iter().map(|(name, set)| {
            let mut set = set.clone();
            set["name"] = json!(name);
            set["type"] = json!("TXT");
            set
        });
        json!({ "id": "example.test.", "name": "example.test.", "kind": "Native", "rrsets": sets.collect::<Vec<_>>() })
    }

    fn apply(&mut self, edit: &Value) -> Result<(), String> {
        let name = edit["name"].as_str().unwrap().to_owned();
        let wanted = edit["records"].as_array().unwrap().clone();
        let mut set = self.sets.remove(&name).unwrap_or_else(|| json!({ "records": [], "comments": [] }));
        let change = edit["changetype"].as_str().unwrap();
        let granular = matches!(change, "EXTEND" | "PRUNE");
        if granular {
            if self.refuses_single_records {
                return Err(format!("Changetype '{change}' is not a valid value"));
            }
            let [record] = wanted.as_slice() else { return Err("Exactly one record".to_owned()) };
            let old = set["records"].as_array().unwrap().iter();
            let mut records: Vec<Value> = old.filter(|old| old["disabled"] != true).cloned().collect();
            if !records.is_empty() && set["ttl"] != edit["ttl"] {
                return Err("uneven TTL".to_owned());
            }
            let position = records.iter().position(|old| old["content"] == record["content"]);
            match (change, position) {
                ("EXTEND", None) => records.push(record.clone()),
                ("PRUNE", Some(position)) => drop(records.remove(position)),
                _ => records = set["records"].as_array().unwrap().clone(),
            }
            set["records"] = json!(records);
        } else {
            set["records"] = json!(wanted);
            if edit["comments"].is_array() {
                set["comments"] = edit["comments"].clone();
            }
        }
        set["ttl"] = edit["ttl"].clone();
        if set["records"] != json!([]) || edit["comments"].is_array() {
            self.sets.insert(name, set);
        }
        Ok(())
    }
}
