use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use hickory_proto::op::Message;
use hickory_proto::op::Query as Question;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name as WireName;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata;
use tokio::time::Instant;

use super::name;
use crate::dns01::client::Answer;
use crate::dns01::client::Exchange;
use crate::dns01::client::Query;
use crate::dns01::client::QueryError;
use crate::dns01::client::wire_name;
use crate::model::Fqdn;

/// What a DNS server has and how it misbehaves.
#[derive(Debug, Default)]
pub(in crate::dns01) struct Script {
    records: Vec<Entry>,
    pub(in crate::dns01) code: Option<ResponseCode>,
    pub(in crate::dns01) not_authoritative: bool,
    pub(in crate::dns01) silent: bool,
    pub(in crate::dns01) truncate: bool,
    pub(in crate::dns01) wrong_id: bool,
    pub(in crate::dns01) wrong_question: bool,
    pub(in crate::dns01) no_edns: bool,
    pub(in crate::dns01) minimum: Option<u32>,
    pub(in crate::dns01) delegated: Option<Fqdn>,
    /// What was asked.
    pub(in crate::dns01) log: Vec<(String, RecordType)>,
}

#[derive(Debug)]
struct Entry {
    owner: String,
    data: RData,
    from: Instant,
}

impl Script {
    pub(in crate::dns01) fn add(&mut self, owner: &str, kind: &str, value: &str) {
        self.add_at(Instant::now(), owner, kind, value);
    }

    /// Adds a record that is there from some time on.
    pub(in crate::dns01) fn add_at(&mut self, from: Instant, owner: &str, kind: &str, value: &str) {
        let target = || wire_name(&name(value)).unwrap();
        let data = match kind {
            "A" => RData::A(rdata::A(value.parse().unwrap())),
            "AAAA" => RData::AAAA(rdata::AAAA(value.parse().unwrap())),
            "CNAME" => RData::CNAME(rdata::CNAME(WireName::from_ascii(value).unwrap())),
            "NS" => RData::NS(rdata::NS(target())),
            "SOA" => RData::SOA(rdata::SOA::new(target(), target(), 1, 1, 1, 1, 1)),
            // In two character strings, as some servers send them.
            "TXT" => {
                let (head, tail) = value.split_at(value.len() / 2);
                RData::TXT(rdata::TXT::new(vec![head.to_owned(), tail.to_owned()]))
            }
            _ => panic!("{kind}"),
        };
        self.records.push(Entry { owner: owner.to_owned(), data, from });
    }

    pub(in crate::dns01) fn answer(&mut self, question: &Question) -> Message {
        let owner = question.name().to_ascii().trim_end_matches('.').to_lowercase();
        self.log.push((owner.clone(), question.query_type()));
        let mut message = Message::query().into_response();
        message.add_query(question.clone());
        message.metadata.authoritative = !self.not_authoritative;
        if let Some(code) = self.code {
            message.metadata.response_code = code;
            return message;
        }
        if let Some(child) = self.delegated.as_ref().filter(|child| name(&owner).is_within(child)) {
            message.metadata.authoritative = false;
            let host = rdata::NS(wire_name(&name("ns.elsewhere.test")).unwrap());
            message.add_authority(Record::from_rdata(wire_name(child).unwrap(), 60, RData::NS(host)));
            return message;
        }
        let now = Instant::now();
        let present: Vec<&Entry> = self.records.iter().filter(|entry| entry.from <= now).collect();
        let exists = |wanted: &str| {
            present.iter().any(|entry| entry.owner == wanted || entry.owner.ends_with(&format!(".{wanted}")))
        };
        // The closest wildcard answers for names that do not exist (RFC 4592).
        let mut source = owner.clone();
        if !exists(&owner) {
            let mut rest = owner.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                if exists(parent) {
                    source = format!("*.{parent}");
                    break;
                }
                rest = parent;
            }
        }
        for entry in present.iter().filter(|entry| entry.owner == source) {
            let kind = entry.data.record_type();
            if kind == question.query_type() || kind == RecordType::CNAME {
                message.add_answer(Record::from_rdata(question.name().clone(), 60, entry.data.clone()));
            }
        }
        if message.answers.is_empty() {
            if !exists(&source) {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            if let Some(minimum) = self.minimum {
                let apex = wire_name(&name("example.test")).unwrap();
                let soa = rdata::SOA::new(apex.clone(), apex.clone(), 1, 1, 1, 1, minimum);
                message.add_authority(Record::from_rdata(apex, 86_400, RData::SOA(soa)));
            }
        }
        message
    }

    pub(in crate::dns01) fn asked_for(&self, owner: &str) -> usize {
        self.log.iter().filter(|(asked, _)| asked == owner).count()
    }
}

/// DNS servers without a network, so that tests can run on paused time.
#[derive(Debug, Default, Clone)]
pub(in crate::dns01) struct FakeNet(pub(in crate::dns01) BTreeMap<SocketAddr, Arc<Mutex<Script>>>);

impl FakeNet {
    pub(in crate::dns01) fn server(&mut self, address: &str) -> Arc<Mutex<Script>> {
        Arc::clone(self.0.entry(address.parse().unwrap()).or_default())
    }
}

#[async_trait]
impl Exchange for FakeNet {
    async fn ask(&self, server: SocketAddr, query: &Query) -> Result<Answer, QueryError> {
        // A round trip.
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let Some(script) = self.0.get(&server) else {
            return Err(QueryError::Unreachable { server, reason: "network is unreachable".to_owned() });
        };
        let silent = script.lock().unwrap().silent;
        if silent {
            let waited = std::time::Duration::from_secs(6);
            tokio::time::sleep(waited).await;
            return Err(QueryError::Silent { server, waited });
        }
        let question = Question::query(wire_name(&query.name).unwrap(), query.record_type);
        Ok(Answer::new(script.lock().unwrap().answer(&question)))
    }
}
