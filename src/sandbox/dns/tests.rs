use proptest::prelude::*;

use super::*;
use crate::sandbox::Faults;
use crate::sandbox::TsigAlgorithm;

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
