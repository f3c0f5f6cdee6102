//! An authoritative DNS server over UDP and TCP that takes signed updates.

mod server;
mod tsig;
mod update;
mod zone;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
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

pub(super) use self::server::Sockets;
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
mod tests;
