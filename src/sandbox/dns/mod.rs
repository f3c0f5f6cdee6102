//! An authoritative DNS server over UDP and TCP that takes signed updates.

mod tsig;
mod update;
mod zone;

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::Edns;
use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::LowerName;
use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;
use serde::Deserialize;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::tsig::Check;
use self::tsig::Keys;
use self::update::Changes;
use self::zone::Lookup;
use self::zone::View;
use self::zone::Zone;
pub(super) use self::zone::wire_name;
use super::Clock;
use super::DnsUpdate;
use super::Event;
use super::FaultState;
use super::Ledger;
use super::SandboxError;
use super::TsigKey;
use super::ZoneOptions;
use super::ZoneRecord;
use crate::model::Fqdn;

/// The largest answer over UDP, whatever the client can take: it must arrive in one piece everywhere.
const UDP_LIMIT: u16 = 4_096;

/// How many aliases an answer follows.
const ALIAS_LIMIT: usize = 8;

const IDLE: Duration = Duration::from_secs(30);

/// The DNS server's state.
pub(super) struct Dns {
    zones: RwLock<Vec<Zone>>,
    keys: Keys,
    clock: Clock,
    faults: Arc<FaultState>,
    ledger: Ledger,
    changed: Box<dyn Fn() + Send + Sync>,
}

/// A zone as it is kept over a restart.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptZone {
    origin: Fqdn,
    serial: u32,
    records: Vec<ZoneRecord>,
}

/// The sockets, bound and not yet served.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds UDP and TCP to the same port.
    pub(super) async fn bind(address: IpAddr, port: u16) -> Result<Self, SandboxError> {
        let mut last = None;
        // With a free port chosen for TCP, the same one can be taken for UDP.
        for _ in 0..20 {
            let bound = async {
                let tcp = TcpListener::bind((address, port)).await?;
                let udp = UdpSocket::bind(tcp.local_addr()?).await?;
                Ok::<_, io::Error>(Self { udp, tcp })
            };
            match bound.await {
                Ok(sockets) => return Ok(sockets),
                Err(error) if port == 0 => last = Some(error),
                Err(source) => {
                    return Err(SandboxError::Bind {
                        address: SocketAddr::new(address, port).to_string(),
                        purpose: "DNS",
                        source,
                    });
                }
            }
        }
        Err(SandboxError::Bind {
            address: address.to_string(),
            purpose: "DNS",
            source: last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()),
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Dns {
    #[expect(clippy::too_many_arguments, reason = "called once, by the sandbox's own start")]
    pub(super) fn new(
        address: IpAddr,
        zones: &[ZoneOptions],
        kept: Vec<KeptZone>,
        keys: &[TsigKey],
        clock: Clock,
        faults: Arc<FaultState>,
        ledger: Ledger,
        changed: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, SandboxError> {
        let mut loaded = Vec::new();
        for zone in zones {
            let kept = kept.iter().find(|kept| kept.origin == zone.origin);
            let mut records = zone.records.clone();
            let mut serial = 1;
            if let Some(kept) = kept {
                records.extend(kept.records.iter().cloned());
                serial = kept.serial;
            }
            loaded.push(Zone::new(&zone.origin, address, &records, serial)?);
        }
        Ok(Self { zones: RwLock::new(loaded), keys: Keys::new(keys)?, clock, faults, ledger, changed })
    }

    /// Serves until cancelled.
    pub(super) fn serve(self: &Arc<Self>, sockets: Sockets, tasks: &TaskTracker, stop: &CancellationToken) {
        let Sockets { udp, tcp } = sockets;
        let dns = Arc::clone(self);
        let token = stop.clone();
        tasks.spawn(async move { token.run_until_cancelled(dns.serve_udp(Arc::new(udp))).await });
        let dns = Arc::clone(self);
        let token = stop.clone();
        let connections = tasks.clone();
        tasks.spawn(async move {
            let serving = dns.serve_tcp(tcp, &connections, &token);
            token.run_until_cancelled(serving).await
        });
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
                // About an earlier answer that nobody took, as a rule; never a reason to spin.
                sleep(Duration::from_millis(1)).await;
                continue;
            };
            let Some(answer) = self.respond(&buffer[..length], Transport::Udp) else { continue };
            let delay = self.faults.read(|faults| faults.dns.delay);
            if delay.is_zero() {
                let _ = socket.send_to(&answer, peer).await;
            } else {
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    sleep(delay).await;
                    let _ = socket.send_to(&answer, peer).await;
                });
            }
        }
    }

    async fn serve_tcp(
        self: Arc<Self>,
        listener: TcpListener,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors: others will close theirs.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let dns = Arc::clone(&self);
            let stop = stop.clone();
            tasks.spawn(async move {
                let _ = stop.run_until_cancelled(dns.serve_connection(stream)).await;
            });
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let length = timeout(IDLE, stream.read_u16()).await??;
            let mut request = vec![0; usize::from(length)];
            timeout(IDLE, stream.read_exact(&mut request)).await??;
            let Some(answer) = self.respond(&request, Transport::Tcp) else { return Ok(()) };
            let delay = self.faults.read(|faults| faults.dns.delay);
            if !delay.is_zero() {
                sleep(delay).await;
            }
            let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
            // One segment: some clients read the length and the message in one go.
            let mut framed = Vec::with_capacity(answer.len() + 2);
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(&answer);
            stream.write_all(&framed).await?;
        }
    }

    /// Answers one message, or not at all.
    fn respond(&self, octets: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(request) = Message::from_vec(octets) else { return malformed(octets) };
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.add_queries(request.queries.iter().cloned());
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_LIMIT);
            response.set_edns(edns);
        }
        let now = u64::try_from(self.clock.now().as_second()).unwrap_or_default();
        let check = self.keys.check(&request, octets, now);
        let is_update = request.metadata.op_code == OpCode::Update;
        if is_update && self.respond_to_update(&request, &check, &mut response) == Reply::Lost {
            return None;
        }
        let signed = match check {
            Check::Unsigned => None,
            Check::Good(signed) => Some(signed),
            Check::Bad { code, response: signed, .. } => {
                response.metadata.response_code = code;
                response.answers.clear();
                return encode(response, signed);
            }
        };
        if !is_update {
            match request.metadata.op_code {
                OpCode::Query => self.respond_to_query(&request, &mut response),
                _ => response.metadata.response_code = ResponseCode::NotImp,
            }
        }
        if transport == Transport::Udp {
            let limit = usize::from(request.max_payload().min(UDP_LIMIT));
            // Room for the signature, whose longest code has 64 octets.
            let reserve = if signed.is_some() { 256 } else { 0 };
            if response.to_vec().is_ok_and(|encoded| encoded.len() + reserve > limit) {
                response = response.truncate();
            }
        }
        encode(response, signed)
    }

    fn respond_to_query(&self, request: &Message, response: &mut Message) {
        let [query] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return;
        };
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY)
            || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR)
        {
            response.metadata.response_code = ResponseCode::Refused;
            return;
        }
        let failing = self.faults.read(|faults| faults.dns.servfail.clone());
        let fails = |name: &Name| {
            failing.iter().any(|failing| wire_name(failing.as_str()).is_ok_and(|zone| zone.zone_of(name)))
        };
        let zones = self.read_zones();
        let view = View::At(Instant::now());
        let mut name = query.name().clone();
        for hop in 0..=ALIAS_LIMIT {
            if fails(&name) {
                response.metadata.response_code = ResponseCode::ServFail;
                response.answers.clear();
                return;
            }
            let Some(zone) = zone_of(&zones, &name) else {
                // After an alias out of our zones, the answer ends there.
                if hop == 0 {
                    response.metadata.response_code = ResponseCode::Refused;
                }
                return;
            };
            let is_first = hop == 0;
            if is_first {
                response.metadata.authoritative = true;
            }
            match zone.lookup(&name, query.query_type(), view) {
                Lookup::Answer(records) => {
                    response.add_answers(records);
                    return;
                }
                Lookup::Alias { record, target } => {
                    response.add_answer(*record);
                    name = target;
                }
                Lookup::Referral(servers) => {
                    response.metadata.authoritative = !is_first;
                    response.add_authorities(servers);
                    return;
                }
                Lookup::NoData => {
                    response.add_authority(negative(zone));
                    return;
                }
                Lookup::NoName => {
                    response.metadata.response_code = ResponseCode::NXDomain;
                    response.add_authority(negative(zone));
                    return;
                }
            }
        }
    }

    fn respond_to_update(&self, request: &Message, check: &Check, response: &mut Message) -> Reply {
        let zone_name = request.queries.first().map(|query| query.name().clone()).unwrap_or_default();
        let mut entry = DnsUpdate {
            zone: zone::text_of_name(&zone_name),
            key: None,
            rcode: String::new(),
            tsig_error: None,
            added: Vec::new(),
            removed: Vec::new(),
            serial: None,
            dropped: false,
        };
        let code = match check {
            Check::Bad { error, code, .. } => {
                entry.tsig_error = Some((*error).to_owned());
                *code
            }
            Check::Good(_) | Check::Unsigned => {
                if let Check::Good(signed) = check {
                    entry.key = Some(signed.key_name());
                }
                // The ledger's entry is made under the zone's lock, so that their order is the same.
                let mut zones = self.write_zones();
                let code = match self.update(&mut zones, request, &mut entry) {
                    Ok(Changes { added, removed }) => {
                        entry.added = added;
                        entry.removed = removed;
                        ResponseCode::NoError
                    }
                    Err(code) => code,
                };
                entry.rcode = rcode_name(code);
                entry.dropped = code == ResponseCode::NoError && {
                    let percent = self.faults.read(|faults| faults.dns.drop_after_commit_percent);
                    self.faults.roll("dns/drop", percent)
                };
                let dropped = entry.dropped;
                self.ledger.record(Event::DnsUpdate(entry));
                drop(zones);
                (self.changed)();
                if dropped {
                    return Reply::Lost;
                }
                response.metadata.response_code = code;
                return Reply::Sent;
            }
        };
        entry.rcode = rcode_name(code);
        self.ledger.record(Event::DnsUpdate(entry));
        Reply::Sent
    }

    fn update(
        &self,
        zones: &mut [Zone],
        request: &Message,
        entry: &mut DnsUpdate,
    ) -> Result<Changes, ResponseCode> {
        let [query] = request.queries.as_slice() else { return Err(ResponseCode::FormErr) };
        if query.query_type() != RecordType::SOA {
            return Err(ResponseCode::FormErr);
        }
        let origin = LowerName::new(query.name());
        let zone = zones.iter_mut().find(|zone| *zone.origin() == origin);
        let Some(zone) = zone.filter(|_| query.query_class() == DNSClass::IN) else {
            return Err(ResponseCode::NotAuth);
        };
        if entry.key.is_none() {
            return Err(ResponseCode::Refused);
        }
        let (lag, percent) = self.faults.read(|faults| (faults.dns.lag, faults.dns.fail_updates_percent));
        if self.faults.roll("dns/fail", percent) {
            return Err(ResponseCode::ServFail);
        }
        let changes = update::apply(zone, request, Instant::now(), lag)?;
        entry.serial = Some(zone.serial());
        Ok(changes)
    }

    /// Adds a record as if by hand; it is seen at once and is in no ledger.
    pub(super) fn insert(&self, record: &ZoneRecord) -> Result<(), SandboxError> {
        let name = wire_name(&record.name)?;
        let data = zone::to_rdata(&record.value)?;
        let mut zones = self.write_zones();
        let zone = zone_of_mut(&mut zones, &name)?;
        zone.add(&name, record.ttl, data, Instant::now());
        zone.increment_serial();
        drop(zones);
        (self.changed)();
        Ok(())
    }

    /// Removes a record as if by hand; whether it was there.
    pub(super) fn remove(&self, record: &ZoneRecord) -> Result<bool, SandboxError> {
        let name = wire_name(&record.name)?;
        let data = zone::to_rdata(&record.value)?;
        let mut zones = self.write_zones();
        let zone = zone_of_mut(&mut zones, &name)?;
        let was_there = zone.remove(&name, &data, Instant::now());
        zone.increment_serial();
        drop(zones);
        (self.changed)();
        Ok(was_there)
    }

    /// Everything that the zones hold now, without SOA, whether queries see it yet or not.
    pub(super) fn records(&self) -> Vec<ZoneRecord> {
        self.read_zones().iter().flat_map(Zone::to_records).collect()
    }

    /// The zones as they are to be kept.
    pub(super) fn kept(&self) -> Vec<KeptZone> {
        let zones = self.read_zones();
        let kept = |zone: &Zone| {
            let origin = Fqdn::new(&zone::text_of_name(&Name::from(zone.origin()))).ok()?;
            Some(KeptZone { origin, serial: zone.serial(), records: zone.to_records() })
        };
        zones.iter().filter_map(kept).collect()
    }

    fn read_zones(&self) -> RwLockReadGuard<'_, Vec<Zone>> {
        self.zones.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write_zones(&self) -> RwLockWriteGuard<'_, Vec<Zone>> {
        self.zones.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Lost,
    Sent,
}

/// The zone with the longest origin that the name is in.
fn zone_of<'a>(zones: &'a [Zone], name: &Name) -> Option<&'a Zone> {
    zones.iter().filter(|zone| zone.contains(name)).max_by_key(|zone| zone.origin().num_labels())
}

fn zone_of_mut<'a>(zones: &'a mut [Zone], name: &Name) -> Result<&'a mut Zone, SandboxError> {
    zones
        .iter_mut()
        .filter(|zone| zone.contains(name))
        .max_by_key(|zone| zone.origin().num_labels())
        .ok_or_else(|| SandboxError::Option {
            reason: format!("`{}` is in no zone of the sandbox", zone::text_of_name(name)),
        })
}

/// The SOA record of a negative answer ([RFC 2308, section 3](https://www.rfc-editor.org/rfc/rfc2308#section-3)).
fn negative(zone: &Zone) -> hickory_proto::rr::Record {
    let mut soa = zone.soa();
    if let hickory_proto::rr::RData::SOA(data) = &soa.data {
        soa.ttl = soa.ttl.min(data.minimum);
    }
    soa
}

fn encode(response: Message, signed: Option<tsig::Signed>) -> Option<Vec<u8>> {
    let encoded = match signed {
        Some(signed) => signed.sign(response),
        None => response.to_vec().map_err(|error| error.to_string()),
    };
    encoded.inspect_err(|error| tracing::error!(error, "a DNS answer cannot be encoded")).ok()
}

/// FORMERR for what has at least a header and is no response.
fn malformed(octets: &[u8]) -> Option<Vec<u8>> {
    let header: [u8; 12] = octets.get(..12)?.try_into().ok()?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let op_code = OpCode::from_u8((header[2] >> 3) & 0x0f);
    Message::error_msg(id, op_code, ResponseCode::FormErr).to_vec().ok()
}

fn rcode_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::YXDomain => "YXDOMAIN".to_owned(),
        ResponseCode::YXRRSet => "YXRRSET".to_owned(),
        ResponseCode::NXRRSet => "NXRRSET".to_owned(),
        ResponseCode::NotAuth => "NOTAUTH".to_owned(),
        ResponseCode::NotZone => "NOTZONE".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Faults;
    use super::super::TsigAlgorithm;
    use super::*;

    fn dns() -> Dns {
        let clock = Clock::default();
        let key = TsigKey {
            name: "key".parse().unwrap(),
            algorithm: TsigAlgorithm::default(),
            secret: "AAAAAAAAAAAAAAAAAAAAAA==".to_owned(),
        };
        Dns::new(
            [127, 0, 0, 1].into(),
            &[ZoneOptions::new("example.test".parse().unwrap())],
            Vec::new(),
            &[key],
            clock.clone(),
            Arc::new(FaultState::new(0, Faults::default())),
            Ledger::new(clock, None).unwrap(),
            Box::new(|| {}),
        )
        .unwrap()
    }

    /// An update of the zone whose TSIG record says what it likes.
    fn signed_update(time: u64, fudge: u16, mac: &[u8]) -> Vec<u8> {
        use hickory_proto::rr::rdata::TSIG;
        use hickory_proto::rr::rdata::tsig as wire;

        let mut message = Message::new(7, MessageType::Query, OpCode::Update);
        let mut query = hickory_proto::op::Query::query(wire_name("example.test").unwrap(), RecordType::SOA);
        query.set_query_class(DNSClass::IN);
        message.add_query(query);
        let algorithm = wire::TsigAlgorithm::HmacSha256;
        let signature = TSIG::new(algorithm, time, fudge, mac.to_vec(), 7, None, Vec::new());
        message.set_signature(Box::new(wire::make_tsig_record(wire_name("key").unwrap(), signature)));
        message.to_vec().unwrap()
    }

    #[test]
    fn a_code_of_the_wrong_length_is_told_from_a_wrong_one() {
        let dns = dns();
        let answer = |mac: &[u8]| {
            let octets = dns.respond(&signed_update(0, 300, mac), Transport::Tcp).unwrap();
            let message = Message::from_vec(&octets).unwrap();
            let error = message.signature().and_then(|record| record.data.error).map(u16::from);
            (message.metadata.response_code, error)
        };
        assert_eq!(answer(&[1; 32]), (ResponseCode::NotAuth, Some(16)), "BADSIG");
        assert_eq!(answer(&[1; 16]), (ResponseCode::NotAuth, Some(22)), "BADTRUNC");
        assert_eq!(answer(&[1; 15]), (ResponseCode::FormErr, None));
        assert_eq!(answer(&[1; 33]), (ResponseCode::FormErr, None));
        assert_eq!(answer(&[]), (ResponseCode::FormErr, None));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = dns().respond(&octets, Transport::Udp);
        }

        #[test]
        fn no_spoiled_update_makes_it_panic(
            time in 0u64..(1 << 48),
            fudge: u16,
            mac in proptest::collection::vec(any::<u8>(), 0..70),
            place: prop::sample::Index,
            octet: u8,
        ) {
            let mut octets = signed_update(time, fudge, &mac);
            let index = place.index(octets.len());
            octets[index] = octet;
            let _ = dns().respond(&octets, Transport::Tcp);
        }
    }
}
