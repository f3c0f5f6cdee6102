use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::watch;

use super::Clock;
use super::HttpFault;
use super::SandboxError;
use super::folder;
use super::lock;
use crate::model::Fingerprint;
use crate::model::NameSet;

/// What happened at the sandbox's servers, in the order in which it happened there.
///
/// An effect is entered in the same critical section that makes it visible, so what the ledger does not have did not
/// happen. Tests judge by it what a client really did.
#[derive(Debug, Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    inner: Mutex<Inner>,
    length: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    /// The sequence number before the first entry: not zero after a restart over the same file.
    base: u64,
    file: Option<File>,
}

impl Ledger {
    /// An empty ledger; with a file, entries are appended to it and numbered on from its last line.
    pub(super) fn new(clock: Clock, path: Option<&Path>) -> Result<Self, SandboxError> {
        let mut base = 0;
        let file = match path {
            Some(path) => {
                let (file, lines) = folder::open_to_append(path)?;
                base = lines;
                Some(file)
            }
            None => None,
        };
        let inner = Mutex::new(Inner { entries: Vec::new(), base, file });
        Ok(Self { shared: Arc::new(Shared { clock, inner, length: watch::Sender::new(base) }) })
    }

    /// Every entry since the sandbox started.
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.shared.inner).entries.clone()
    }

    /// The entries after a sequence number.
    pub fn after(&self, sequence: u64) -> Vec<Entry> {
        let inner = lock(&self.shared.inner);
        let start = usize::try_from(sequence.saturating_sub(inner.base)).unwrap_or(usize::MAX);
        inner.entries.get(start..).unwrap_or_default().to_vec()
    }

    /// The sequence number of the last entry; its receiver wakes when there are more.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.length.subscribe()
    }

    /// The certificates that were issued, in order.
    pub fn issued(&self) -> Vec<IssuedCertificate> {
        self.entries()
            .into_iter()
            .filter_map(|entry| match entry.event {
                Event::CertificateIssued(issued) => Some(issued),
                _ => None,
            })
            .collect()
    }

    pub(super) fn record(&self, event: Event) {
        let time = self.shared.clock.now();
        let mut inner = lock(&self.shared.inner);
        let sequence = inner.base + inner.entries.len() as u64 + 1;
        let entry = Entry { sequence, time, event };
        if let Some(file) = &mut inner.file {
            // One write for a line: a process that is killed leaves no half of one behind its other entries.
            let line = serde_json::to_string(&entry).map(|line| line + "\n");
            if let Err(error) =
                line.map_err(std::io::Error::from).and_then(|line| file.write_all(line.as_bytes()))
            {
                tracing::error!(%error, "the ledger's file cannot be written");
            }
        }
        inner.entries.push(entry);
        self.shared.length.send_replace(sequence);
    }
}

/// One line of the [`Ledger`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// One more than the entry before.
    pub sequence: u64,
    /// When it happened, by the sandbox's clock.
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened. Accounts, orders and authorizations are named by their URLs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// An account was registered.
    AccountCreated {
        /// Its URL.
        account: String,
        /// Its contact URLs.
        contact: Vec<String>,
        /// The external account key that it used up.
        eab_key_id: Option<String>,
        /// The thumbprint of its key.
        thumbprint: String,
    },
    /// An account was deactivated by its holder.
    AccountDeactivated {
        /// Its URL.
        account: String,
    },
    /// An account has another key.
    AccountKeyChanged {
        /// Its URL.
        account: String,
        /// The thumbprint of the new key.
        thumbprint: String,
    },
    /// An account has other contacts.
    AccountUpdated {
        /// Its URL.
        account: String,
        /// Its contact URLs.
        contact: Vec<String>,
    },
    /// An authorization was given up by its holder.
    AuthorizationDeactivated {
        /// Its URL.
        authorization: String,
        /// The name, with `*.` when it is for a wildcard.
        name: String,
    },
    /// A certificate was issued.
    CertificateIssued(IssuedCertificate),
    /// A certificate was revoked.
    CertificateRevoked {
        /// Its serial number in hexadecimal.
        serial: String,
        /// The reason code.
        reason: u8,
    },
    /// A client asked for a validation that had not been asked for.
    ChallengeAnswered {
        /// The account's URL.
        account: String,
        /// The authorization's URL.
        authorization: String,
        /// The name, with `*.` when it is for a wildcard.
        name: String,
        /// The challenge's type.
        kind: String,
    },
    /// A DNS update came in, whether it was carried out or not.
    DnsUpdate(DnsUpdate),
    /// An order was finalized: its request for a certificate was accepted.
    Finalized {
        /// The account's URL.
        account: String,
        /// The order's URL.
        order: String,
        /// The public key that is to be certified.
        spki: Fingerprint,
    },
    /// An order was created.
    OrderCreated {
        /// The account's URL.
        account: String,
        /// The order's URL.
        order: String,
        /// The names.
        names: NameSet,
        /// The profile.
        profile: String,
        /// The ARI identifier of the certificate that it is to replace.
        replaces: Option<String>,
    },
    /// An order was asked for and an open one given.
    OrderReused {
        /// The account's URL.
        account: String,
        /// The order's URL.
        order: String,
    },
    /// A request to the CA was answered, or its answer deliberately lost.
    Request {
        /// The HTTP method.
        method: String,
        /// The path.
        path: String,
        /// The URL of the account that signed it, once the signature was found good.
        account: Option<String>,
        /// The status, or none when the connection was closed instead.
        status: Option<u16>,
        /// The type of the problem, without its prefix.
        problem: Option<String>,
        /// The fault that was injected.
        fault: Option<HttpFault>,
    },
    /// A validation ended.
    Validated {
        /// The authorization's URL.
        authorization: String,
        /// The name, with `*.` when it is for a wildcard.
        name: String,
        /// The challenge's type.
        kind: String,
        /// What is wrong, when it failed.
        problem: Option<String>,
    },
}

/// A certificate as the CA's ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// The account's URL.
    pub account: String,
    /// The order's URL.
    pub order: String,
    /// The names.
    pub names: NameSet,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its public key.
    pub spki: Fingerprint,
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
}

/// A DNS update as the DNS server's ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsUpdate {
    /// The zone that it names.
    pub zone: String,
    /// The key that signed it, once the signature was found good.
    pub key: Option<String>,
    /// The response code that it was answered with, such as `NOERROR` or `NOTAUTH`.
    pub rcode: String,
    /// The TSIG error, such as `BADSIG`.
    pub tsig_error: Option<String>,
    /// What was added that had not been there.
    pub added: Vec<DnsValue>,
    /// What was removed that had been there.
    pub removed: Vec<DnsValue>,
    /// The zone's serial number after it.
    pub serial: Option<u32>,
    /// Whether its answer was deliberately lost.
    pub dropped: bool,
}

/// A value in a [`DnsUpdate`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DnsValue {
    /// The owner, lower case, without a trailing dot.
    pub name: String,
    /// The type, such as `TXT`.
    #[serde(rename = "type")]
    pub record_type: String,
    /// The value; of a TXT record, its strings joined.
    pub value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_on_disk_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let event = || Event::AccountDeactivated { account: "a".to_owned() };
        let first = Ledger::new(Clock::default(), Some(&path)).unwrap();
        first.record(event());
        first.record(event());
        drop(first);
        let second = Ledger::new(Clock::default(), Some(&path)).unwrap();
        second.record(event());
        assert_eq!(second.entries()[0].sequence, 3);
        assert_eq!(second.after(2), second.entries());
        assert_eq!(second.after(3), []);
        let lines = std::fs::read_to_string(&path).unwrap();
        let sequences: Vec<u64> =
            lines.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap().sequence).collect();
        assert_eq!(sequences, [1, 2, 3]);
    }
}
