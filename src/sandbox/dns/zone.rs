use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use hickory_proto::rr::LowerName;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::AAAA;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::rdata::NS;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::rdata::TXT;

use super::super::DnsValue;
use super::super::RecordValue;
use super::super::SandboxError;
use super::super::ZoneRecord;
use crate::model::Fqdn;

const SOA_TTL: u32 = 60;

/// A zone: what updates see at once, and what queries see after the propagation lag.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    origin: LowerName,
    soa: SOA,
    names: BTreeMap<LowerName, BTreeMap<RecordType, RrSet>>,
}

#[derive(Debug, Clone)]
struct RrSet {
    ttl: u32,
    values: Vec<Value>,
}

#[derive(Debug, Clone)]
struct Value {
    data: RData,
    visible_from: Instant,
    /// When the removal becomes visible; a value without is in the zone.
    hidden_from: Option<Instant>,
}

/// Whose view of a zone.
#[derive(Debug, Clone, Copy)]
pub(super) enum View {
    /// That of updates: everything committed.
    Committed,
    /// That of a query at a moment: what has propagated.
    At(Instant),
}

impl Value {
    fn is_seen(&self, view: View) -> bool {
        match view {
            View::Committed => self.hidden_from.is_none(),
            View::At(at) => self.visible_from <= at && self.hidden_from.is_none_or(|hidden| at < hidden),
        }
    }
}

/// What a zone says about a name and type.
#[derive(Debug)]
pub(super) enum Lookup {
    /// The records.
    Answer(Vec<Record>),
    /// The name is an alias.
    Alias { record: Box<Record>, target: Name },
    /// Another server has it.
    Referral(Vec<Record>),
    /// The name exists, but has no such records.
    NoData,
    /// The name does not exist.
    NoName,
}

impl Zone {
    /// A zone with SOA, one name server at the address, and records.
    pub(super) fn new(
        origin: &Fqdn,
        address: IpAddr,
        records: &[ZoneRecord],
        serial: u32,
    ) -> Result<Self, SandboxError> {
        let apex = wire_name(origin.as_str())?;
        let server = wire_name(&format!("ns.{origin}"))?;
        let soa = SOA::new(
            server.clone(),
            wire_name(&format!("hostmaster.{origin}"))?,
            serial,
            3_600,
            600,
            86_400,
            // Short, so that a resolver in between does not hold the absence of a challenge for long.
            5,
        );
        let mut zone = Self { origin: LowerName::new(&apex), soa, names: BTreeMap::new() };
        let now = Instant::now();
        zone.add(&apex, SOA_TTL, RData::NS(NS(server.clone())), now);
        let address = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        zone.add(&server, SOA_TTL, address, now);
        for record in records {
            let name = wire_name(&record.name)?;
            if !zone.contains(&name) {
                return Err(SandboxError::Option {
                    reason: format!("`{}` is not in the zone `{origin}`", record.name.escape_debug()),
                });
            }
            zone.add(&name, record.ttl, to_rdata(&record.value)?, now);
        }
        Ok(zone)
    }

    pub(super) const fn origin(&self) -> &LowerName {
        &self.origin
    }

    pub(super) const fn serial(&self) -> u32 {
        self.soa.serial
    }

    /// Sets the serial number, as an update of the SOA record does.
    pub(super) fn replace_soa(&mut self, soa: SOA) {
        self.soa = soa;
    }

    pub(super) fn increment_serial(&mut self) {
        self.soa.increment_serial();
        // RFC 1982: zero is skipped, because some servers take it for "no serial".
        if self.soa.serial == 0 {
            self.soa.serial = 1;
        }
    }

    pub(super) fn soa(&self) -> Record {
        Record::from_rdata(Name::from(&self.origin), SOA_TTL, RData::SOA(self.soa.clone()))
    }

    /// Whether the name is the zone's origin or below it.
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.origin.zone_of(&LowerName::new(name))
    }

    pub(super) fn is_origin(&self, name: &Name) -> bool {
        self.origin == LowerName::new(name)
    }

    /// The values of one set.
    pub(super) fn values(&self, name: &Name, record_type: RecordType, view: View) -> Vec<RData> {
        if record_type == RecordType::SOA && self.is_origin(name) {
            return vec![RData::SOA(self.soa.clone())];
        }
        let Some(set) = self.names.get(&LowerName::new(name)).and_then(|sets| sets.get(&record_type)) else {
            return Vec::new();
        };
        let mut values: Vec<RData> = Vec::new();
        for value in set.values.iter().filter(|value| value.is_seen(view)) {
            // A value that was removed and added again while the removal was still under way is seen once.
            if !values.contains(&value.data) {
                values.push(value.data.clone());
            }
        }
        values
    }

    /// The types that a name has records of.
    pub(super) fn types(&self, name: &Name, view: View) -> Vec<RecordType> {
        let mut types: Vec<RecordType> = self
            .names
            .get(&LowerName::new(name))
            .into_iter()
            .flatten()
            .filter(|(_, set)| set.values.iter().any(|value| value.is_seen(view)))
            .map(|(record_type, _)| *record_type)
            .collect();
        if self.is_origin(name) {
            types.push(RecordType::SOA);
        }
        types
    }

    /// Adds a value; whether it had not been there. The set's time to live becomes that of its last value.
    pub(super) fn add(&mut self, name: &Name, ttl: u32, data: RData, visible_from: Instant) -> bool {
        let set = self
            .names
            .entry(LowerName::new(name))
            .or_default()
            .entry(data.record_type())
            .or_insert(RrSet { ttl, values: Vec::new() });
        set.ttl = ttl;
        if set.values.iter().any(|value| value.hidden_from.is_none() && value.data == data) {
            return false;
        }
        set.values.push(Value { data, visible_from, hidden_from: None });
        true
    }

    /// Removes a value; whether it had been there.
    pub(super) fn remove(&mut self, name: &Name, data: &RData, hidden_from: Instant) -> bool {
        let value = self
            .names
            .get_mut(&LowerName::new(name))
            .and_then(|sets| sets.get_mut(&data.record_type()))
            .and_then(|set| {
                set.values.iter_mut().find(|value| value.hidden_from.is_none() && value.data == *data)
            });
        match value {
            Some(value) => {
                value.hidden_from = Some(hidden_from);
                true
            }
            None => false,
        }
    }

    /// Forgets values whose removal everyone has seen.
    pub(super) fn sweep(&mut self, names: &[LowerName], now: Instant) {
        for name in names {
            let Some(sets) = self.names.get_mut(name) else { continue };
            for set in sets.values_mut() {
                set.values.retain(|value| value.hidden_from.is_none_or(|hidden| now < hidden));
            }
            sets.retain(|_, set| !set.values.is_empty());
            if sets.is_empty() {
                self.names.remove(name);
            }
        }
    }

    /// Whether anything is at the name or below it.
    fn exists(&self, name: &LowerName, view: View) -> bool {
        *name == self.origin
            || self
                .names
                .range(name.clone()..)
                // Canonical order: all that is below a name follows it directly.
                .take_while(|(below, _)| name.zone_of(below))
                .any(|(_, sets)| sets.values().any(|set| set.values.iter().any(|value| value.is_seen(view))))
    }

    fn records(&self, owner: &Name, at: &Name, record_type: RecordType, view: View) -> Vec<Record> {
        if record_type == RecordType::SOA {
            return if self.is_origin(at) { vec![self.soa()] } else { Vec::new() };
        }
        let ttl = self
            .names
            .get(&LowerName::new(at))
            .and_then(|sets| sets.get(&record_type))
            .map_or(0, |set| set.ttl);
        self.values(at, record_type, view)
            .into_iter()
            .map(|data| Record::from_rdata(owner.clone(), ttl, data))
            .collect()
    }

    /// Answers a query as [RFC 1034, section 4.3.2](https://www.rfc-editor.org/rfc/rfc1034#section-4.3.2) and
    /// [RFC 4592](https://www.rfc-editor.org/rfc/rfc4592) say.
    pub(super) fn lookup(&self, name: &Name, record_type: RecordType, view: View) -> Lookup {
        if let Some(referral) = self.referral(name, view) {
            return Lookup::Referral(referral);
        }
        let lower = LowerName::new(name);
        if self.exists(&lower, view) {
            return self.lookup_at(name, name, record_type, view);
        }
        let mut encloser = lower.base_name();
        while !self.exists(&encloser, view) && encloser != self.origin {
            encloser = encloser.base_name();
        }
        let Ok(wildcard) = Name::from(&encloser).prepend_label("*") else { return Lookup::NoName };
        if self.types(&wildcard, view).is_empty() {
            return Lookup::NoName;
        }
        self.lookup_at(name, &wildcard, record_type, view)
    }

    fn lookup_at(&self, owner: &Name, at: &Name, record_type: RecordType, view: View) -> Lookup {
        if record_type == RecordType::ANY {
            let records: Vec<Record> = self
                .types(at, view)
                .into_iter()
                .flat_map(|record_type| self.records(owner, at, record_type, view))
                .collect();
            return if records.is_empty() { Lookup::NoData } else { Lookup::Answer(records) };
        }
        let records = self.records(owner, at, record_type, view);
        if !records.is_empty() {
            return Lookup::Answer(records);
        }
        match self.records(owner, at, RecordType::CNAME, view).pop() {
            Some(record) => match &record.data {
                RData::CNAME(CNAME(target)) => {
                    let target = target.clone();
                    Lookup::Alias { record: Box::new(record), target }
                }
                _ => Lookup::NoData,
            },
            None => Lookup::NoData,
        }
    }

    /// The name servers of a delegated zone that the name is in, if it is in one.
    fn referral(&self, name: &Name, view: View) -> Option<Vec<Record>> {
        let mut cut = None;
        let mut ancestor = LowerName::new(name);
        while ancestor != self.origin && !ancestor.is_root() {
            let at = Name::from(&ancestor);
            let servers = self.records(&at, &at, RecordType::NS, view);
            if !servers.is_empty() {
                cut = Some(servers);
            }
            ancestor = ancestor.base_name();
        }
        cut
    }

    /// The zone's records as data, without SOA, as far as they can be kept.
    pub(super) fn to_records(&self) -> Vec<ZoneRecord> {
        let mut records = Vec::new();
        for (name, sets) in &self.names {
            for set in sets.values() {
                for value in set.values.iter().filter(|value| value.is_seen(View::Committed)) {
                    if let Some(kept) = from_rdata(&value.data) {
                        records.push(ZoneRecord {
                            name: text_of_name(&Name::from(name)),
                            ttl: set.ttl,
                            value: kept,
                        });
                    }
                }
            }
        }
        records
    }
}

/// A name from text, as it is on the wire.
pub(in super::super) fn wire_name(name: &str) -> Result<Name, SandboxError> {
    let absolute = format!("{}.", name.trim_end_matches('.'));
    Name::from_ascii(&absolute).map_err(|error| SandboxError::Option {
        reason: format!("`{}` is no DNS name: {error}", name.escape_debug()),
    })
}

/// A name as text: lower case, without a trailing dot.
pub(super) fn text_of_name(name: &Name) -> String {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

pub(super) fn to_rdata(value: &RecordValue) -> Result<RData, SandboxError> {
    Ok(match value {
        RecordValue::A(address) => RData::A(A(*address)),
        RecordValue::Aaaa(address) => RData::AAAA(AAAA(*address)),
        RecordValue::Cname(target) => RData::CNAME(CNAME(wire_name(target.as_str())?)),
        RecordValue::Ns(server) => RData::NS(NS(wire_name(server.as_str())?)),
        RecordValue::Txt(text) => RData::TXT(TXT::from_bytes(
            // A string of a TXT record has at most 255 octets.
            if text.is_empty() { vec![b"" as &[u8]] } else { text.as_bytes().chunks(255).collect() },
        )),
    })
}

fn from_rdata(data: &RData) -> Option<RecordValue> {
    Some(match data {
        RData::A(address) => RecordValue::A(address.0),
        RData::AAAA(address) => RecordValue::Aaaa(address.0),
        RData::CNAME(target) => RecordValue::Cname(Fqdn::new(&text_of_name(&target.0)).ok()?),
        RData::NS(server) => RecordValue::Ns(Fqdn::new(&text_of_name(&server.0)).ok()?),
        RData::TXT(text) => RecordValue::Txt(String::from_utf8(text.txt_data.concat()).ok()?),
        _ => return None,
    })
}

/// A value for the ledger.
pub(super) fn ledger_value(name: &Name, data: &RData) -> DnsValue {
    let value = match data {
        RData::TXT(text) => String::from_utf8_lossy(&text.txt_data.concat()).into_owned(),
        other => other.to_string(),
    };
    DnsValue { name: text_of_name(name), record_type: data.record_type().to_string(), value }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn zone(records: &[ZoneRecord]) -> Zone {
        Zone::new(&Fqdn::new("example.test").unwrap(), [127, 0, 0, 1].into(), records, 1).unwrap()
    }

    fn name(text: &str) -> Name {
        wire_name(text).unwrap()
    }

    fn txt(text: &str) -> RData {
        to_rdata(&RecordValue::Txt(text.to_owned())).unwrap()
    }

    fn now() -> View {
        View::At(Instant::now())
    }

    #[test]
    fn names_exist_or_are_empty_or_do_not_exist() {
        let zone = zone(&[ZoneRecord::new("a.b.example.test", RecordValue::A([127, 0, 0, 1].into()))]);
        assert!(matches!(zone.lookup(&name("A.b.example.test"), RecordType::A, now()), Lookup::Answer(_)));
        assert!(matches!(zone.lookup(&name("a.b.example.test"), RecordType::TXT, now()), Lookup::NoData));
        assert!(matches!(zone.lookup(&name("b.example.test"), RecordType::A, now()), Lookup::NoData));
        assert!(matches!(zone.lookup(&name("c.example.test"), RecordType::A, now()), Lookup::NoName));
        assert!(matches!(zone.lookup(&name("x.a.b.example.test"), RecordType::A, now()), Lookup::NoName));
        assert!(matches!(zone.lookup(&name("example.test"), RecordType::SOA, now()), Lookup::Answer(_)));
    }

    #[test]
    fn a_wildcard_captures_only_names_that_do_not_exist() {
        let target = Fqdn::new("elsewhere.test").unwrap();
        let zone = zone(&[
            ZoneRecord::new("*.example.test", RecordValue::Cname(target)),
            ZoneRecord::new("shop.example.test", RecordValue::A([127, 0, 0, 1].into())),
        ]);
        let captured = zone.lookup(&name("_acme-challenge.example.test"), RecordType::TXT, now());
        assert!(matches!(captured, Lookup::Alias { .. }));
        let below = zone.lookup(&name("_acme-challenge.shop.example.test"), RecordType::TXT, now());
        assert!(matches!(below, Lookup::NoName), "the closest encloser is `shop`, which has no wildcard");
    }

    #[test]
    fn a_delegated_name_is_referred() {
        let zone = zone(&[ZoneRecord::new(
            "child.example.test",
            RecordValue::Ns(Fqdn::new("ns.elsewhere.test").unwrap()),
        )]);
        let referred = zone.lookup(&name("a.child.example.test"), RecordType::TXT, now());
        assert!(matches!(referred, Lookup::Referral(_)));
    }

    #[test]
    fn queries_see_changes_after_the_lag_and_updates_at_once() {
        let mut zone = zone(&[]);
        let owner = name("_acme-challenge.example.test");
        let start = Instant::now();
        let lag = Duration::from_secs(10);
        assert!(zone.add(&owner, 60, txt("one"), start + lag));
        assert!(!zone.add(&owner, 60, txt("one"), start + lag), "a value is there once");
        assert_eq!(zone.values(&owner, RecordType::TXT, View::Committed), [txt("one")]);
        assert!(matches!(zone.lookup(&owner, RecordType::TXT, View::At(start)), Lookup::NoName));
        let later = View::At(start + lag);
        assert!(matches!(zone.lookup(&owner, RecordType::TXT, later), Lookup::Answer(_)));
        assert!(zone.remove(&owner, &txt("one"), start + 2 * lag));
        assert!(!zone.remove(&owner, &txt("one"), start + 2 * lag));
        assert!(zone.types(&owner, View::Committed).is_empty());
        assert!(matches!(zone.lookup(&owner, RecordType::TXT, later), Lookup::Answer(_)));
        assert!(matches!(zone.lookup(&owner, RecordType::TXT, View::At(start + 2 * lag)), Lookup::NoName));
    }
}
