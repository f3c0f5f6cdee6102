//! [RFC 2136](https://www.rfc-editor.org/rfc/rfc2136): an update is carried out as a whole or not at all.

use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::LowerName;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::SerialNumber;

use super::super::DnsValue;
use super::zone::View;
use super::zone::Zone;
use super::zone::ledger_value;

/// What an update changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: Vec<DnsValue>,
    pub(super) removed: Vec<DnsValue>,
}

/// Checks and carries out an update of a zone. Nothing has changed when it fails.
pub(super) fn apply(
    zone: &mut Zone,
    message: &Message,
    now: Instant,
    lag: Duration,
) -> Result<Changes, ResponseCode> {
    check_prerequisites(zone, &message.answers)?;
    prescan(zone, &message.authorities)?;
    let mut update =
        Update { zone, visible_from: now + lag, changes: Changes::default(), soa_replaced: false };
    for record in &message.authorities {
        update.carry_out(record);
    }
    let Update { changes, soa_replaced, .. } = update;
    if !soa_replaced && changes != Changes::default() {
        zone.increment_serial();
    }
    let mut touched: Vec<LowerName> =
        message.authorities.iter().map(|record| LowerName::new(&record.name)).collect();
    touched.sort();
    touched.dedup();
    zone.sweep(&touched, now);
    Ok(changes)
}

/// OPT, and the query and meta types of RFC 6895, section 3.1, which no zone holds.
fn is_meta(record_type: RecordType) -> bool {
    matches!(u16::from(record_type), 41 | 128..=255)
}

/// Section 3.2.
fn check_prerequisites(zone: &Zone, prerequisites: &[Record]) -> Result<(), ResponseCode> {
    let mut exact: Vec<(Name, RecordType, Vec<RData>)> = Vec::new();
    for record in prerequisites {
        let record_type = record.record_type();
        if record.ttl != 0 {
            return Err(ResponseCode::FormErr);
        }
        if !zone.contains(&record.name) {
            return Err(ResponseCode::NotZone);
        }
        let is_empty = matches!(record.data, RData::Update0(_));
        let is_there = || match record_type {
            RecordType::ANY => !zone.types(&record.name, View::Committed).is_empty(),
            _ => !zone.values(&record.name, record_type, View::Committed).is_empty(),
        };
        match record.dns_class {
            DNSClass::ANY | DNSClass::NONE if !is_empty => return Err(ResponseCode::FormErr),
            DNSClass::ANY if !is_there() => {
                return Err(match record_type {
                    RecordType::ANY => ResponseCode::NXDomain,
                    _ => ResponseCode::NXRRSet,
                });
            }
            DNSClass::NONE if is_there() => {
                return Err(match record_type {
                    RecordType::ANY => ResponseCode::YXDomain,
                    _ => ResponseCode::YXRRSet,
                });
            }
            DNSClass::ANY | DNSClass::NONE => {}
            DNSClass::IN if is_meta(record_type) || is_empty => return Err(ResponseCode::FormErr),
            DNSClass::IN => {
                let set =
                    exact.iter_mut().find(|(name, wanted, _)| *name == record.name && *wanted == record_type);
                match set {
                    Some((_, _, values)) => values.push(record.data.clone()),
                    None => exact.push((record.name.clone(), record_type, vec![record.data.clone()])),
                }
            }
            _ => return Err(ResponseCode::FormErr),
        }
    }
    for (name, record_type, wanted) in exact {
        let found = zone.values(&name, record_type, View::Committed);
        let is_same =
            wanted.iter().all(|data| found.contains(data)) && found.iter().all(|data| wanted.contains(data));
        if !is_same {
            return Err(ResponseCode::NXRRSet);
        }
    }
    Ok(())
}

/// Section 3.4.1: everything that can be wrong is found before anything is changed.
fn prescan(zone: &Zone, updates: &[Record]) -> Result<(), ResponseCode> {
    for record in updates {
        if !zone.contains(&record.name) {
            return Err(ResponseCode::NotZone);
        }
        let record_type = record.record_type();
        let is_empty = matches!(record.data, RData::Update0(_));
        let is_well_formed = match record.dns_class {
            DNSClass::IN => !is_meta(record_type) && !is_empty,
            DNSClass::ANY => {
                record.ttl == 0 && is_empty && (record_type == RecordType::ANY || !is_meta(record_type))
            }
            DNSClass::NONE => record.ttl == 0 && !is_meta(record_type),
            _ => false,
        };
        if !is_well_formed {
            return Err(ResponseCode::FormErr);
        }
    }
    Ok(())
}

struct Update<'a> {
    zone: &'a mut Zone,
    visible_from: Instant,
    changes: Changes,
    soa_replaced: bool,
}

impl Update<'_> {
    /// Section 3.4.2.
    fn carry_out(&mut self, record: &Record) {
        match record.dns_class {
            DNSClass::IN => self.add(record),
            DNSClass::ANY => {
                let types = match record.record_type() {
                    RecordType::ANY => self.zone.types(&record.name, View::Committed),
                    record_type => vec![record_type],
                };
                for record_type in types {
                    self.remove_set(&record.name, record_type);
                }
            }
            DNSClass::NONE => self.remove_value(record),
            // The prescan lets nothing else through.
            _ => {}
        }
    }

    fn add(&mut self, record: &Record) {
        if let RData::SOA(soa) = &record.data {
            let current = SerialNumber::from(self.zone.serial());
            if self.zone.is_origin(&record.name)
                && SerialNumber::from(soa.serial).partial_cmp(&current) == Some(std::cmp::Ordering::Greater)
            {
                self.zone.replace_soa(soa.clone());
                self.soa_replaced = true;
            }
            return;
        }
        let is_alias = record.record_type() == RecordType::CNAME;
        let others = self.zone.types(&record.name, View::Committed);
        // An alias has no other data beside it: what would break that is ignored.
        if others.iter().any(|other| (*other == RecordType::CNAME) != is_alias) {
            return;
        }
        if is_alias {
            for old in self.zone.values(&record.name, RecordType::CNAME, View::Committed) {
                if old != record.data && self.zone.remove(&record.name, &old, self.visible_from) {
                    self.changes.removed.push(ledger_value(&record.name, &old));
                }
            }
        }
        if self.zone.add(&record.name, record.ttl, record.data.clone(), self.visible_from) {
            self.changes.added.push(ledger_value(&record.name, &record.data));
        }
    }

    fn remove_set(&mut self, name: &Name, record_type: RecordType) {
        let is_apex = self.zone.is_origin(name) && matches!(record_type, RecordType::SOA | RecordType::NS);
        if is_apex {
            return;
        }
        for data in self.zone.values(name, record_type, View::Committed) {
            if self.zone.remove(name, &data, self.visible_from) {
                self.changes.removed.push(ledger_value(name, &data));
            }
        }
    }

    fn remove_value(&mut self, record: &Record) {
        let record_type = record.record_type();
        let is_last_server = record_type == RecordType::NS
            && self.zone.is_origin(&record.name)
            && self.zone.values(&record.name, RecordType::NS, View::Committed).len() == 1;
        if record_type == RecordType::SOA || is_last_server {
            return;
        }
        if self.zone.remove(&record.name, &record.data, self.visible_from) {
            self.changes.removed.push(ledger_value(&record.name, &record.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::MessageType;
    use hickory_proto::op::OpCode;

    use super::super::super::RecordValue;
    use super::super::super::ZoneRecord;
    use super::super::zone::to_rdata;
    use super::super::zone::wire_name;
    use super::*;
    use crate::model::Fqdn;

    fn zone() -> Zone {
        let records = [
            ZoneRecord::new("alias.example.test", RecordValue::Cname(Fqdn::new("a.test").unwrap())),
            ZoneRecord::new("t.example.test", RecordValue::Txt("foreign".to_owned())),
        ];
        Zone::new(&Fqdn::new("example.test").unwrap(), [127, 0, 0, 1].into(), &records, 7).unwrap()
    }

    fn record(name: &str, class: DNSClass, ttl: u32, data: RData) -> Record {
        let mut record = Record::from_rdata(wire_name(name).unwrap(), ttl, data);
        record.dns_class = class;
        record
    }

    fn txt(text: &str) -> RData {
        to_rdata(&RecordValue::Txt(text.to_owned())).unwrap()
    }

    fn send(
        zone: &mut Zone,
        prerequisites: Vec<Record>,
        updates: Vec<Record>,
    ) -> Result<(usize, usize), ResponseCode> {
        let mut message = Message::new(1, MessageType::Query, OpCode::Update);
        message.answers = prerequisites;
        message.authorities = updates;
        apply(zone, &message, Instant::now(), Duration::ZERO)
            .map(|changes| (changes.added.len(), changes.removed.len()))
    }

    fn texts(zone: &Zone) -> Vec<RData> {
        zone.values(&wire_name("t.example.test").unwrap(), RecordType::TXT, View::Committed)
    }

    #[test]
    fn single_values_are_added_and_removed_beside_foreign_ones() {
        let mut zone = zone();
        let add = || record("t.example.test", DNSClass::IN, 60, txt("ours"));
        assert_eq!(send(&mut zone, vec![], vec![add()]), Ok((1, 0)));
        assert_eq!(zone.serial(), 8);
        assert_eq!(send(&mut zone, vec![], vec![add()]), Ok((0, 0)), "it is there already");
        assert_eq!(zone.serial(), 8, "nothing changed");
        let remove = record("T.example.TEST", DNSClass::NONE, 0, txt("ours"));
        assert_eq!(send(&mut zone, vec![], vec![remove]), Ok((0, 1)));
        assert_eq!(texts(&zone), [txt("foreign")]);
        let remove_all = record("t.example.test", DNSClass::ANY, 0, RData::Update0(RecordType::TXT));
        assert_eq!(send(&mut zone, vec![], vec![remove_all]), Ok((0, 1)));
        assert_eq!(texts(&zone), []);
    }

    #[test]
    fn an_update_with_one_bad_record_changes_nothing() {
        let bad = [
            (record("t.example.test", DNSClass::CH, 60, txt("x")), ResponseCode::FormErr),
            (record("t.example.test", DNSClass::NONE, 60, txt("x")), ResponseCode::FormErr),
            (record("t.example.test", DNSClass::ANY, 0, txt("x")), ResponseCode::FormErr),
            (
                record("t.example.test", DNSClass::IN, 60, RData::Update0(RecordType::TXT)),
                ResponseCode::FormErr,
            ),
            (
                record("t.example.test", DNSClass::ANY, 0, RData::Update0(RecordType::AXFR)),
                ResponseCode::FormErr,
            ),
            (record("t.other.test", DNSClass::IN, 60, txt("x")), ResponseCode::NotZone),
        ];
        for (record_that_is_bad, code) in bad {
            let mut zone = zone();
            let good = record("t.example.test", DNSClass::IN, 60, txt("ours"));
            assert_eq!(send(&mut zone, vec![], vec![good, record_that_is_bad]), Err(code));
            assert_eq!(texts(&zone), [txt("foreign")]);
            assert_eq!(zone.serial(), 7);
        }
    }

    #[test]
    fn prerequisites_are_what_the_rfc_says() {
        let empty = |record_type| RData::Update0(record_type);
        let any = |name: &str, record_type| record(name, DNSClass::ANY, 0, empty(record_type));
        let none = |name: &str, record_type| record(name, DNSClass::NONE, 0, empty(record_type));
        let there = "t.example.test";
        let absent = "absent.example.test";
        let cases = [
            (any(there, RecordType::ANY), Ok((1, 0))),
            (any(absent, RecordType::ANY), Err(ResponseCode::NXDomain)),
            (any(there, RecordType::TXT), Ok((1, 0))),
            (any(there, RecordType::A), Err(ResponseCode::NXRRSet)),
            (none(absent, RecordType::ANY), Ok((1, 0))),
            (none(there, RecordType::ANY), Err(ResponseCode::YXDomain)),
            (none(there, RecordType::A), Ok((1, 0))),
            (none(there, RecordType::TXT), Err(ResponseCode::YXRRSet)),
            (record(there, DNSClass::IN, 0, txt("foreign")), Ok((1, 0))),
            (record(there, DNSClass::IN, 0, txt("other")), Err(ResponseCode::NXRRSet)),
            (record(there, DNSClass::IN, 5, txt("foreign")), Err(ResponseCode::FormErr)),
            (record("t.other.test", DNSClass::IN, 0, txt("foreign")), Err(ResponseCode::NotZone)),
        ];
        for (prerequisite, expected) in cases {
            let mut zone = zone();
            let add = record("new.example.test", DNSClass::IN, 60, txt("ours"));
            assert_eq!(send(&mut zone, vec![prerequisite.clone()], vec![add]), expected, "{prerequisite}");
        }
    }

    #[test]
    fn an_alias_takes_no_other_data_and_the_apex_keeps_its_own() {
        let mut zone = zone();
        let beside = record("alias.example.test", DNSClass::IN, 60, txt("ours"));
        assert_eq!(send(&mut zone, vec![], vec![beside]), Ok((0, 0)));
        let all = record("example.test", DNSClass::ANY, 0, RData::Update0(RecordType::ANY));
        assert_eq!(send(&mut zone, vec![], vec![all]), Ok((0, 0)));
        let apex = wire_name("example.test").unwrap();
        assert_eq!(zone.values(&apex, RecordType::NS, View::Committed).len(), 1);
    }
}
