use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::Edns;
use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::Query as Question;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name as WireName;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;
use tokio::time;

use crate::model::Fqdn;

/// One question to one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The name that is asked about.
    pub name: Fqdn,
    /// The type of its records.
    pub record_type: RecordType,
    /// Whether the server is to ask others; not set for authoritative servers.
    pub recursion_desired: bool,
    /// How the question travels.
    pub transport: Transport,
}

impl Query {
    /// A question to an authoritative server.
    pub fn authoritative(name: &Fqdn, record_type: RecordType) -> Self {
        Self { name: name.clone(), record_type, recursion_desired: false, transport: Transport::default() }
    }

    /// A question to a resolver.
    pub fn recursive(name: &Fqdn, record_type: RecordType) -> Self {
        Self { recursion_desired: true, ..Self::authoritative(name, record_type) }
    }
}

/// How a question travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over TCP only.
    Tcp,
    /// Over UDP, and again over TCP when the answer is truncated.
    #[default]
    UdpThenTcp,
}

/// Asks a question: the seam between what decides and what talks to the network.
#[async_trait]
pub trait Exchange: Send + Sync + fmt::Debug {
    /// Sends the question to the server and returns its answer, whatever its response code is.
    async fn ask(&self, server: SocketAddr, query: &Query) -> Result<Answer, QueryError>;
}

/// A DNS client without a cache: every question reaches the server that it is meant for.
///
/// Each question has its own random identifier and, over UDP, its own connected socket and thus a random port. What
/// does not answer the question (another identifier, another name) is ignored.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// How long one attempt waits for its answer.
    pub timeout: Duration,
    /// How often a question is sent over UDP before the server counts as silent.
    pub attempts: u32,
}

impl Default for Client {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(2), attempts: 3 }
    }
}

impl Client {
    async fn over_udp(&self, server: SocketAddr, query: &Query) -> Result<Answer, QueryError> {
        let local = match server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let unreachable = |source: io::Error| QueryError::unreachable(server, &source);
        let mut edns = true;
        let mut rejected = None;
        let mut attempt = 0;
        while attempt < self.attempts.max(1) {
            attempt += 1;
            let socket = UdpSocket::bind(local).await.map_err(unreachable)?;
            socket.connect(server).await.map_err(unreachable)?;
            let request = request(query, edns)?;
            socket.send(&encode(&request)?).await.map_err(unreachable)?;
            let answered = time::timeout(self.timeout, async {
                // Large enough for what a server sends that ignores the size we offer.
                let mut buffer = vec![0; usize::from(u16::MAX)];
                loop {
                    let length = socket.recv(&mut buffer).await.map_err(unreachable)?;
                    match decode(&request, &buffer[..length]) {
                        Ok(message) => return Ok(message),
                        Err(reason) => rejected = Some(reason),
                    }
                }
            })
            .await;
            match answered {
                Ok(Ok(message)) if edns && refuses_edns(&message) => {
                    edns = false;
                    attempt -= 1;
                }
                Ok(Ok(message)) if message.metadata.truncation => return self.over_tcp(server, query).await,
                Ok(Ok(message)) => return Ok(Answer(message)),
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Err(match rejected {
            Some(reason) => QueryError::Malformed { server, reason },
            None => QueryError::Silent { server, waited: self.timeout * self.attempts.max(1) },
        })
    }

    async fn over_tcp(&self, server: SocketAddr, query: &Query) -> Result<Answer, QueryError> {
        let exchange = async {
            let answer = self.once_over_tcp(server, query, true).await?;
            if refuses_edns(&answer.0) {
                return self.once_over_tcp(server, query, false).await;
            }
            Ok(answer)
        };
        let waited = self.timeout * self.attempts.max(1);
        time::timeout(waited, exchange).await.unwrap_or(Err(QueryError::Silent { server, waited }))
    }

    async fn once_over_tcp(
        &self,
        server: SocketAddr,
        query: &Query,
        edns: bool,
    ) -> Result<Answer, QueryError> {
        let unreachable = |source: io::Error| QueryError::unreachable(server, &source);
        let mut stream = TcpStream::connect(server).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let request = request(query, edns)?;
        let octets = encode(&request)?;
        let length =
            u16::try_from(octets.len()).map_err(|_| QueryError::Encode { reason: "too long".into() })?;
        stream.write_all(&[&length.to_be_bytes(), octets.as_slice()].concat()).await.map_err(unreachable)?;
        let length = stream.read_u16().await.map_err(unreachable)?;
        let mut octets = vec![0; usize::from(length)];
        stream.read_exact(&mut octets).await.map_err(unreachable)?;
        decode(&request, &octets).map(Answer).map_err(|reason| QueryError::Malformed { server, reason })
    }
}

#[async_trait]
impl Exchange for Client {
    async fn ask(&self, server: SocketAddr, query: &Query) -> Result<Answer, QueryError> {
        match query.transport {
            Transport::Tcp => self.over_tcp(server, query).await,
            Transport::UdpThenTcp => self.over_udp(server, query).await,
        }
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer(Message);

impl Answer {
    /// Takes a message over.
    pub const fn new(message: Message) -> Self {
        Self(message)
    }

    /// The response code.
    pub const fn code(&self) -> ResponseCode {
        self.0.metadata.response_code
    }

    /// Whether the server speaks for the zone itself (the AA bit).
    pub const fn is_authoritative(&self) -> bool {
        self.0.metadata.authoritative
    }

    /// Whether the name, or the record at it, is known not to be there (NXDOMAIN, or no data).
    pub fn is_negative(&self) -> bool {
        match self.code() {
            ResponseCode::NXDomain => true,
            ResponseCode::NoError => self.0.answers.is_empty(),
            _ => false,
        }
    }

    /// The TXT values of the name, its character strings joined; what is not UTF-8 is no value of ours.
    pub fn txt(&self, name: &Fqdn) -> Vec<String> {
        self.records_at(name)
            .filter_map(|data| match data {
                RData::TXT(txt) => String::from_utf8(txt.txt_data.concat()).ok(),
                _ => None,
            })
            .collect()
    }

    /// The TXT values anywhere in the answer: a resolver follows CNAMEs, and the values then stand at another name.
    pub fn any_txt(&self) -> Vec<String> {
        self.0
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(txt) => String::from_utf8(txt.txt_data.concat()).ok(),
                _ => None,
            })
            .collect()
    }

    /// The target of the name's CNAME, as the server wrote it.
    pub fn cname(&self, name: &Fqdn) -> Option<String> {
        self.records_at(name).find_map(|data| match data {
            RData::CNAME(target) => Some(target.0.to_ascii()),
            _ => None,
        })
    }

    /// The zone's name servers, as far as their names are DNS host names.
    pub fn ns(&self, zone: &Fqdn) -> Vec<Fqdn> {
        self.records_at(zone)
            .filter_map(|data| match data {
                RData::NS(host) => Fqdn::new(&host.0.to_ascii()).ok(),
                _ => None,
            })
            .collect()
    }

    /// The addresses in the answer; behind a CNAME too.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.0
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            })
            .collect()
    }

    /// How long resolvers keep a negative answer
    /// ([RFC 2308, section 5](https://www.rfc-editor.org/rfc/rfc2308#section-5)): the lesser of the SOA's own time to
    /// live and its minimum.
    pub fn negative_ttl(&self) -> Option<Duration> {
        self.0.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(Duration::from_secs(u64::from(soa.minimum.min(record.ttl)))),
            _ => None,
        })
    }

    /// The zone that the server refers to instead of answering: its NS records stand where an answer's SOA would.
    pub fn referral(&self) -> Option<Fqdn> {
        if !self.0.answers.is_empty() {
            return None;
        }
        self.0.authorities.iter().find_map(|record| match &record.data {
            RData::NS(_) => Fqdn::new(&record.name.to_ascii()).ok(),
            _ => None,
        })
    }

    fn records_at(&self, name: &Fqdn) -> impl Iterator<Item = &RData> {
        let name = wire_name(name).ok();
        self.0
            .answers
            .iter()
            .filter(move |record: &&Record| name.as_ref() == Some(&record.name))
            .map(|record| &record.data)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The question cannot be written as a DNS message.
    #[error("the question cannot be encoded: {reason}")]
    Encode {
        /// Why.
        reason: String,
    },
    /// Something answered, but not the question.
    #[error("{server} answered with {reason}")]
    Malformed {
        /// The server.
        server: SocketAddr,
        /// What was wrong with it.
        reason: String,
    },
    /// Nothing answered.
    #[error("{server} did not answer within {waited:?}")]
    Silent {
        /// The server.
        server: SocketAddr,
        /// How long it had.
        waited: Duration,
    },
    /// The network does not lead there, or nobody listens.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// What the operating system said.
        reason: String,
    },
}

impl QueryError {
    fn unreachable(server: SocketAddr, source: &io::Error) -> Self {
        Self::Unreachable { server, reason: source.to_string() }
    }
}

/// The most that a UDP answer should hold: what passes everywhere without fragments
/// (the value that DNS Flag Day 2020 agreed on).
const UDP_PAYLOAD: u16 = 1232;

pub(super) fn wire_name(name: &Fqdn) -> Result<WireName, QueryError> {
    let mut wire = WireName::from_ascii(name.as_str())
        .map_err(|error| QueryError::Encode { reason: error.to_string() })?;
    wire.set_fqdn(true);
    Ok(wire)
}

fn request(query: &Query, edns: bool) -> Result<Message, QueryError> {
    // `Message::query` draws a random identifier.
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Query;
    message.metadata.recursion_desired = query.recursion_desired;
    message.add_query(Question::query(wire_name(&query.name)?, query.record_type));
    if edns {
        let mut extension = Edns::new();
        extension.set_max_payload(UDP_PAYLOAD);
        message.set_edns(extension);
    }
    Ok(message)
}

fn encode(message: &Message) -> Result<Vec<u8>, QueryError> {
    message.to_vec().map_err(|error| QueryError::Encode { reason: error.to_string() })
}

/// Reads an answer and checks that it is one to this request.
fn decode(request: &Message, octets: &[u8]) -> Result<Message, String> {
    let message = Message::from_vec(octets).map_err(|error| format!("what is no DNS message ({error})"))?;
    if message.metadata.id != request.metadata.id {
        return Err("another identifier".to_owned());
    }
    if message.metadata.message_type != MessageType::Response {
        return Err("a question".to_owned());
    }
    // A server that could not read the question sends it back empty.
    let unread = message.queries.is_empty() && message.metadata.response_code != ResponseCode::NoError;
    let same = message.queries.len() == 1
        && message.queries.iter().zip(&request.queries).all(|(answered, asked)| {
            answered.name == asked.name
                && answered.query_type == asked.query_type
                && answered.query_class == asked.query_class
        });
    if !same && !unread {
        return Err("the answer to another question".to_owned());
    }
    Ok(message)
}

/// Old servers know no EDNS and say so ([RFC 6891, section 7](https://www.rfc-editor.org/rfc/rfc6891#section-7)).
fn refuses_edns(message: &Message) -> bool {
    message.edns.is_none()
        && matches!(message.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp)
}

#[cfg(test)]
mod tests;
