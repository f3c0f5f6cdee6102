use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

/// Names of the services with which clouds hand credentials to their machines.
const NAMES: [&str; 5] =
    ["metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"];

/// Those of their addresses that are not link-local: of EC2 and of containers there, of Google, Azure, Alibaba and Oracle.
const ADDRESSES: [IpAddr; 6] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Says why a configuration must not send anybody to a host: behind link-local addresses and a few others are the services
/// with which clouds hand out credentials, and nothing that deals with certificates. `host` is a name or an address, as in a
/// URL.
///
/// ```
/// # use certplan_provider::forbidden_host;
/// assert!(forbidden_host("169.254.169.254").is_some());
/// assert!(forbidden_host("127.0.0.1").is_none());
/// ```
pub fn forbidden_host(host: &str) -> Option<&'static str> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bare = bare.trim_end_matches('.');
    match bare.parse::<IpAddr>().map(embedded) {
        Ok(address) if is_link_local(address) => {
            Some("is a link-local address, where clouds have the service that hands out credentials")
        }
        Ok(address) if ADDRESSES.contains(&address) => {
            Some("is the address of the service with which a cloud hands out credentials")
        }
        Err(_) if NAMES.iter().any(|name| bare.eq_ignore_ascii_case(name)) => {
            Some("is the service with which a cloud hands out credentials")
        }
        Err(_) if ends_in_number(bare) => Some("is another way to write an address: write it as usual"),
        Ok(_) | Err(_) => None,
    }
}

/// The address that an IPv6 address stands for: mapped, compatible, or of a NAT64
/// ([RFC 6052, section 2.1](https://www.rfc-editor.org/rfc/rfc6052#section-2.1)).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let last = || {
        let [.., a, b, c, d] = v6.octets();
        Ipv4Addr::new(a, b, c, d)
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0, 0xffff, _, _] => IpAddr::V4(last()),
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => IpAddr::V4(last()),
        _ => address,
    }
}

/// Whether the C library would read a name as an IPv4 address, as `0xa9fea9fe` and `169.254.0xa9fe`.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let digits = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    (!last.is_empty() && last.bytes().all(|octet| octet.is_ascii_digit()))
        || digits.is_some_and(|digits| digits.bytes().all(|octet| octet.is_ascii_hexdigit()))
}

/// Whether an address is of one link only ([RFC 3927](https://www.rfc-editor.org/rfc/rfc3927),
/// [RFC 4291, section 2.5.6](https://www.rfc-editor.org/rfc/rfc4291#section-2.5.6)).
pub fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hands_out_credentials_is_no_place_to_look_for_certificates() {
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "[fe80::1]",
            "febf::1",
            "::ffff:169.254.169.254",
            "[fd00:ec2::254]",
            "metadata.google.internal",
            "Metadata.Google.Internal.",
            "instance-data",
            "fd00:ec2::23",
            "fd20:ce::254",
            "168.63.129.16",
            "100.100.100.200",
            "64:ff9b::a9fe:a9fe",
            "::169.254.169.254",
            "0xa9fea9fe",
            "169.254.0xA9FE",
            "2852039166",
        ] {
            assert!(forbidden_host(host).is_some(), "{host}");
        }
        for host in [
            "127.0.0.1",
            "[::1]",
            "localhost",
            "10.0.0.1",
            "fd00:ec2::253",
            "metadata.example.com",
            "fec0::1",
            "",
        ] {
            assert_eq!(forbidden_host(host), None, "{host}");
        }
    }
}
