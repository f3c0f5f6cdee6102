use std::time::Duration;

use certplan_provider::Fqdn;
use certplan_provider::ProviderError;
use certplan_provider::TxtChange;
use certplan_provider::TxtRecord;
use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::Query;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::TXT;

/// The largest request without its signature, in octets. A TCP message holds 65,535, and servers keep some for themselves.
const LARGEST: usize = 60_000;

/// The wire form of a name.
pub(crate) fn wire_name(name: &Fqdn) -> Result<Name, ProviderError> {
    let mut wire = Name::from_ascii(name.as_str()).map_err(|error| {
        ProviderError::invalid(format!("`{name}` cannot be written as a DNS name")).with_source(error)
    })?;
    wire.set_fqdn(true);
    Ok(wire)
}

/// A question to the server itself: without recursion.
pub(crate) fn question(name: &Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(name.clone(), kind));
    message
}

/// The updates that make a change, as few as their size allows; usually one.
///
/// Additions are in the zone's class ([RFC 2136, section 2.5.1](https://www.rfc-editor.org/rfc/rfc2136#section-2.5.1)), and
/// deletions of one value each in the class NONE (section 2.5.4).
pub(crate) fn updates(zone: &Fqdn, change: &TxtChange, ttl: Duration) -> Result<Vec<Message>, ProviderError> {
    let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32);
    // Removals first: a change that replaces a value needs no room for both.
    let removals = change.removals.iter().map(|record| update(zone, record, DNSClass::NONE, 0));
    let additions = change.additions.iter().map(|record| update(zone, record, DNSClass::IN, ttl));
    let records = removals.chain(additions).collect::<Result<Vec<_>, _>>()?;
    let mut messages = Vec::new();
    split(&wire_name(zone)?, &records, &mut messages)?;
    Ok(messages)
}

fn update(zone: &Fqdn, record: &TxtRecord, class: DNSClass, ttl: u32) -> Result<Record, ProviderError> {
    if !record.name.is_within(zone) {
        let message = format!("`{}` is outside the zone `{zone}`", record.name);
        return Err(ProviderError::invalid(message));
    }
    if record.value.is_empty() || record.value.len() > 255 {
        return Err(ProviderError::invalid(format!(
            "a TXT value has 1 to 255 octets, and the one at `{}` has {}",
            record.name,
            record.value.len()
        )));
    }
    let data = RData::TXT(TXT::from_bytes(vec![record.value.as_bytes()]));
    let mut update = Record::from_rdata(wire_name(&record.name)?, ttl, data);
    update.dns_class = class;
    Ok(update)
}

/// Halves until each message fits.
fn split(zone: &Name, records: &[Record], messages: &mut Vec<Message>) -> Result<(), ProviderError> {
    if records.is_empty() {
        return Ok(());
    }
    let mut message = Message::new(0, MessageType::Query, OpCode::Update);
    message.metadata.id = Message::query().id;
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(zone.clone(), RecordType::SOA));
    message.add_authorities(records.iter().cloned());
    if fits(&message)? || records.len() == 1 {
        messages.push(message);
        return Ok(());
    }
    let (first, second) = records.split_at(records.len() / 2);
    split(zone, first, messages)?;
    split(zone, second, messages)
}

/// Whether a message is small enough. The encoder leaves records out that do not fit, and ends near 64 KiB then.
fn fits(message: &Message) -> Result<bool, ProviderError> {
    let octets = encode(message)?;
    Ok(octets.len() <= LARGEST)
}

/// The message's octets.
pub(crate) fn encode(message: &Message) -> Result<Vec<u8>, ProviderError> {
    message
        .to_vec()
        .map_err(|error| ProviderError::invalid("the request cannot be encoded").with_source(error))
}

/// The TXT values that a response gives for a name, sorted, character strings joined. Octets that are not UTF-8 are
/// replaced: such values are nobody's that certplan would know.
pub(crate) fn txt_values(response: &Message, name: &Name) -> Vec<String> {
    let mut values: Vec<String> = response
        .answers
        .iter()
        .filter(|record| record.name == *name && record.dns_class == DNSClass::IN)
        .filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        })
        .collect();
    values.sort();
    values
}

/// The apex of the zone that an authoritative response comes from: of its SOA record, in the answer at the apex and in the
/// authority section elsewhere ([RFC 2308, section 3](https://www.rfc-editor.org/rfc/rfc2308#section-3)).
pub(crate) fn apex(response: &Message) -> Option<Fqdn> {
    let record = response
        .answers
        .iter()
        .chain(&response.authorities)
        .find(|record| record.record_type() == RecordType::SOA)?;
    Fqdn::new(&record.name.to_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fqdn(name: &str) -> Fqdn {
        Fqdn::new(name).unwrap()
    }

    fn change(count: usize, value: &str) -> TxtChange {
        let record = |index| TxtRecord {
            name: fqdn(&format!("_acme-challenge.host-{index:05}.example.test")),
            value: value.to_owned(),
        };
        TxtChange { additions: (0..count).map(record).collect(), ..TxtChange::default() }
    }

    #[test]
    fn additions_and_removals_are_single_values_of_the_right_class() {
        let mut change = change(1, "value");
        change.removals = vec![TxtRecord { name: fqdn("x.example.test"), value: "old".to_owned() }];
        let messages = updates(&fqdn("example.test"), &change, Duration::from_secs(60)).unwrap();
        let [message] = messages.as_slice() else { panic!("one message") };
        let sections: Vec<_> =
            message.authorities.iter().map(|record| (record.dns_class, record.ttl)).collect();
        assert_eq!(sections, [(DNSClass::NONE, 0), (DNSClass::IN, 60)]);
        assert_eq!(message.queries[0].query_type(), RecordType::SOA);
        assert!(message.answers.is_empty(), "no prerequisites");
    }

    #[test]
    fn every_record_is_in_exactly_one_message_and_each_message_is_bounded() {
        for (count, value) in [(1, 43), (500, 43), (700, 43), (500, 255), (2_000, 43), (5_000, 255)] {
            let change = change(count, &"x".repeat(value));
            let messages = updates(&fqdn("example.test"), &change, Duration::from_secs(60)).unwrap();
            let mut names = Vec::new();
            for message in &messages {
                let octets = encode(message).unwrap();
                assert!(octets.len() <= LARGEST);
                let read = Message::from_vec(&octets).unwrap();
                assert!(!read.truncation);
                names.extend(read.authorities.into_iter().map(|record| record.name.to_ascii()));
            }
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!((all, names.len()), (count, count), "{count} values of {value} octets");
        }
        assert!(updates(&fqdn("example.test"), &change(0, "x"), Duration::ZERO).unwrap().is_empty());
    }

    #[test]
    fn five_hundred_challenges_fit_into_one_message() {
        let change = change(500, "LFZjQ0aGzmwhTmkwtTpHPuw7XEsxNbUTJrnQWDkvPVs");
        assert_eq!(updates(&fqdn("example.test"), &change, Duration::from_secs(60)).unwrap().len(), 1);
    }

    #[test]
    fn values_that_no_character_string_holds_are_refused() {
        for value in [String::new(), "x".repeat(256)] {
            assert!(updates(&fqdn("example.test"), &change(1, &value), Duration::ZERO).is_err());
        }
        assert!(updates(&fqdn("notexample.test"), &change(1, "x"), Duration::ZERO).is_err());
    }

    #[test]
    fn strings_are_joined_and_foreign_octets_replaced() {
        let name = wire_name(&fqdn("x.example.test")).unwrap();
        let mut response = Message::response(1, OpCode::Query);
        for strings in [vec![b"two ".as_slice(), b"strings"], vec![b"\xff"], vec![]] {
            let data = RData::TXT(TXT::from_bytes(strings));
            response.add_answer(Record::from_rdata(name.clone(), 60, data));
        }
        let other = wire_name(&fqdn("y.example.test")).unwrap();
        response.add_answer(Record::from_rdata(other, 60, RData::TXT(TXT::from_bytes(vec![b"other"]))));
        assert_eq!(txt_values(&response, &name), ["", "two strings", "\u{fffd}"]);
    }
}
