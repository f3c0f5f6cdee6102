use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::Edns;
use hickory_proto::op::Message;
use hickory_proto::op::Query;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::super::super::dns::wire_name;
use super::super::problem::Kind;
use super::super::problem::Problem;

/// How many aliases are followed over several answers.
const ALIAS_LIMIT: usize = 8;

/// How long one try over UDP waits.
const TRY: Duration = Duration::from_secs(2);

/// Asks one server, which may be recursive or authoritative.
#[derive(Debug)]
pub(super) struct Resolver {
    server: SocketAddr,
}

impl Resolver {
    pub(super) const fn new(server: SocketAddr) -> Self {
        Self { server }
    }

    /// The TXT records at a name, the strings of each joined.
    pub(super) async fn texts(&self, name: &str) -> Result<Vec<Vec<u8>>, Problem> {
        let records = self.lookup(name, RecordType::TXT).await?;
        Ok(records
            .into_iter()
            .filter_map(|data| match data {
                RData::TXT(text) => Some(text.txt_data.concat()),
                _ => None,
            })
            .collect())
    }

    /// The addresses of a name.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Problem> {
        let mut addresses = Vec::new();
        for record_type in [RecordType::A, RecordType::AAAA] {
            for data in self.lookup(name, record_type).await? {
                match data {
                    RData::A(address) => addresses.push(address.0.into()),
                    RData::AAAA(address) => addresses.push(address.0.into()),
                    _ => {}
                }
            }
        }
        Ok(addresses)
    }

    async fn lookup(&self, name: &str, record_type: RecordType) -> Result<Vec<RData>, Problem> {
        let fail = |what: String| Problem::new(Kind::Dns, format!("{record_type} of {name}: {what}"));
        let mut wanted = wire_name(name).map_err(|error| fail(error.to_string()))?;
        for _ in 0..=ALIAS_LIMIT {
            let response =
                self.exchange(&wanted, record_type).await.map_err(|error| fail(error.to_string()))?;
            match response.metadata.response_code {
                ResponseCode::NoError => {}
                ResponseCode::NXDomain => return Err(fail("NXDOMAIN, the name does not exist".to_owned())),
                code => return Err(fail(format!("the server answers {code}"))),
            }
            let owner = end_of_aliases(&response, wanted.clone());
            let found: Vec<RData> = response
                .answers
                .iter()
                .filter(|record| record.name == owner && record.record_type() == record_type)
                .map(|record| record.data.clone())
                .collect();
            if !found.is_empty() || owner == wanted {
                return Ok(found);
            }
            wanted = owner;
        }
        Err(fail("the chain of aliases is too long".to_owned()))
    }

    async fn exchange(&self, name: &Name, record_type: RecordType) -> io::Result<Message> {
        let mut request = Message::query();
        request.metadata.recursion_desired = true;
        request.add_query(Query::query(name.clone(), record_type));
        let mut edns = Edns::new();
        edns.set_max_payload(4_096);
        request.set_edns(edns);
        let octets = request.to_vec().map_err(io::Error::other)?;
        for _ in 0..3 {
            match timeout(TRY, self.over_udp(&octets, &request)).await {
                Ok(Ok(response)) if response.metadata.truncation => break,
                Ok(result) => return result,
                Err(_) => {}
            }
        }
        timeout(TRY, self.over_tcp(&octets, &request)).await?
    }

    async fn over_udp(&self, octets: &[u8], request: &Message) -> io::Result<Message> {
        let local: IpAddr = match self.server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((local, 0)).await?;
        socket.connect(self.server).await?;
        socket.send(octets).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if let Ok(response) = Message::from_vec(&buffer[..length])
                && is_answer(request, &response)
            {
                return Ok(response);
            }
        }
    }

    async fn over_tcp(&self, octets: &[u8], request: &Message) -> io::Result<Message> {
        let mut stream = TcpStream::connect(self.server).await?;
        let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(octets);
        stream.write_all(&framed).await?;
        let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut buffer).await?;
        let response = Message::from_vec(&buffer).map_err(io::Error::other)?;
        if is_answer(request, &response) {
            Ok(response)
        } else {
            Err(io::Error::other("the answer is to another question"))
        }
    }
}

fn is_answer(request: &Message, response: &Message) -> bool {
    response.metadata.id == request.metadata.id && response.queries == request.queries
}

/// The name at the end of the aliases in one answer.
fn end_of_aliases(response: &Message, mut name: Name) -> Name {
    for _ in 0..=response.answers.len() {
        let target = response.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == name => Some(target.0.clone()),
            _ => None,
        });
        match target {
            Some(target) => name = target,
            None => break,
        }
    }
    name
}
