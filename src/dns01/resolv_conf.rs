use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

/// Returns the resolvers that the text of an `/etc/resolv.conf` names, in its order.
///
/// As `resolv.conf(5)` says: without a usable `nameserver` line it is the one on this machine. Link-local addresses
/// with a scope (`fe80::1%eth0`) are left out, because a scope's name has no meaning here.
pub fn name_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let server = SocketAddr::new(address, DNS_PORT);
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT));
    }
    servers
}

/// The port of DNS servers ([RFC 1035, section 4.2](https://www.rfc-editor.org/rfc/rfc1035#section-4.2)).
pub(super) const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_their_order() {
        let text = "# made by hand\n; nameserver 192.0.2.9\nsearch example.com\n\
                    nameserver 192.0.2.1\n  nameserver\t2001:db8::1 # second\nnameserver 192.0.2.1\n\
                    nameserver fe80::1%eth0\nnameserver nonsense\nnameserver\noptions edns0\n";
        assert_eq!(
            name_servers(text),
            ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]
        );
    }

    #[test]
    fn without_name_servers_it_is_this_machine() {
        assert_eq!(name_servers(""), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(name_servers("search example.com\n"), ["127.0.0.1:53".parse().unwrap()]);
    }
}
