use std::net::IpAddr;
use std::net::Ipv6Addr;

/// Names of the services with which clouds hand credentials to their machines, and of their addresses the one that is not
/// link-local.
const METADATA: [&str; 4] =
    ["metadata", "metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Says why a configuration must not send anybody to a host: behind link-local addresses are the services with which
/// clouds hand out credentials, and nothing that deals with certificates. `host` is a name or an address, as in a URL.
///
/// ```
/// # use certplan_provider::forbidden_host;
/// assert!(forbidden_host("169.254.169.254").is_some());
/// assert!(forbidden_host("127.0.0.1").is_none());
/// ```
pub fn forbidden_host(host: &str) -> Option<&'static str> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) if is_link_local(address) => {
            Some("is a link-local address, where clouds have the service that hands out credentials")
        }
        Ok(address) if address.to_canonical() != METADATA_V6 => None,
        Err(_) if !METADATA.iter().any(|name| bare.trim_end_matches('.').eq_ignore_ascii_case(name)) => None,
        Ok(_) | Err(_) => Some("is the service with which a cloud hands out credentials"),
    }
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
