//! What a TLS server serves: the probe that refresh and verification use.
//!
//! It takes any certificate, for it is there to find out which one is served, the wrong one included. It does check
//! that the server has the key to it, as every client does.

mod verifier;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use rustls::AlertDescription;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::net::lookup_host;
use tokio::time;
use tokio_rustls::TlsConnector;

use self::verifier::Witness;
use crate::model::Endpoint;
use crate::model::Fingerprint;

/// How to probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOptions {
    /// How long each of name resolution, and connection and handshake together, may take.
    pub timeout: Duration,
    /// Which kinds of certificates are asked for: a server may have one of each.
    pub offer: Offer,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), offer: Offer::Any }
    }
}

/// Which kinds of certificates a client can take, by the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offer {
    /// ECDSA, Ed25519 and RSA: the server chooses.
    #[default]
    Any,
    /// ECDSA only.
    Ecdsa,
    /// Ed25519 only.
    Ed25519,
    /// RSA only.
    Rsa,
}

/// Connects to every address of an endpoint at once, shakes hands with the endpoint's server name, TLS 1.2 or 1.3,
/// and returns what each address presents.
///
/// # Errors
/// When the host cannot be resolved; what fails at one address is in the result.
pub async fn probe(endpoint: &Endpoint, options: ProbeOptions) -> Result<Probe, ProbeError> {
    let server_name = ServerName::try_from(endpoint.sni.clone())
        .map_err(|_| ProbeError::ServerName { sni: endpoint.sni.clone() })?;
    let resolving = time::timeout(options.timeout, lookup_host((endpoint.host.as_str(), endpoint.port)));
    let unresolved = |reason: String| ProbeError::Unresolved { host: endpoint.host.clone(), reason };
    let addresses: BTreeSet<SocketAddr> = resolving
        .await
        .map_err(|_| unresolved(format!("no answer within {:?}", options.timeout)))?
        .map_err(|error| unresolved(error.to_string()))?
        .collect();
    if addresses.is_empty() {
        return Err(unresolved("it has no address".to_owned()));
    }
    let handshakes = addresses.into_iter().map(|address| {
        let server_name = server_name.clone();
        async move { (address, shake_hands(address, server_name, options).await) }
    });
    let addresses = future::join_all(handshakes).await.into_iter().collect();
    Ok(Probe { endpoint: endpoint.clone(), addresses })
}

/// What the addresses of an endpoint present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What came of it, by address.
    pub addresses: BTreeMap<SocketAddr, Result<Presented, ProbeError>>,
}

/// What one address presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// SHA-256 of the leaf.
    pub leaf: Fingerprint,
    /// How many certificates came with it, the leaf included.
    pub chain_length: usize,
}

impl Probe {
    /// The leaf that every address presents.
    ///
    /// A family of addresses that no connection can be made to does not count as long as the other serves: a network
    /// without IPv6, or a server that listens on IPv4 only, shows no client a wrong certificate.
    pub fn leaf(&self) -> Result<Fingerprint, ProbeError> {
        let out_of_reach = |v6: bool| {
            let mut outcomes = self.addresses.iter().filter(|(address, _)| address.is_ipv6() == v6);
            outcomes.all(|(_, outcome)| {
                matches!(outcome, Err(ProbeError::Refused { .. } | ProbeError::Unreachable { .. }))
            })
        };
        let (without_v4, without_v6) = (out_of_reach(false), out_of_reach(true));
        let mut leaves: BTreeMap<Fingerprint, Vec<IpAddr>> = BTreeMap::new();
        let mut failure = None;
        for (address, outcome) in &self.addresses {
            match outcome {
                Ok(presented) => leaves.entry(presented.leaf).or_default().push(address.ip()),
                Err(error) => {
                    let ignored = if address.is_ipv6() { without_v6 } else { without_v4 };
                    if !ignored || (without_v4 && without_v6) {
                        failure.get_or_insert_with(|| error.clone());
                    }
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let mut leaves = leaves.into_iter();
        match (leaves.next(), leaves.next()) {
            (Some((leaf, _)), None) => Ok(leaf),
            (Some((leaf, at)), Some((other, elsewhere))) => {
                Err(ProbeError::Mixed { leaf, address: at[0], other, elsewhere: elsewhere[0] })
            }
            (None, _) => Err(ProbeError::Unresolved {
                host: self.endpoint.host.clone(),
                reason: "it has no address".to_owned(),
            }),
        }
    }
}

async fn shake_hands(
    address: SocketAddr,
    server_name: ServerName<'static>,
    options: ProbeOptions,
) -> Result<Presented, ProbeError> {
    let witness = Arc::new(Witness::new(options.offer));
    let handshake = async {
        let stream = TcpStream::connect(address).await.map_err(|error| connection_error(address, &error))?;
        let _ = stream.set_nodelay(true);
        let config = ClientConfig::builder_with_provider(witness.crypto())
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(|error| ProbeError::Handshake { address, leaf: None, reason: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as _)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(server_name, stream).await.map(drop).map_err(|error| tls_error(address, &error))
    };
    let outcome = time::timeout(options.timeout, handshake)
        .await
        .unwrap_or(Err(ProbeError::TimedOut { address, waited: options.timeout }));
    match (outcome, witness.presented()) {
        // A server that wants a client certificate ends the handshake after it has shown and proven its own.
        (_, Some(presented)) if witness.proven() => Ok(presented),
        (Err(ProbeError::Handshake { reason, .. }), presented) => {
            Err(ProbeError::Handshake { address, leaf: presented.map(|presented| presented.leaf), reason })
        }
        (Err(error), _) => Err(error),
        (Ok(()), _) => Err(ProbeError::Handshake {
            address,
            leaf: None,
            reason: "the server presented no certificate".to_owned(),
        }),
    }
}

fn connection_error(address: SocketAddr, error: &io::Error) -> ProbeError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeError::Refused { address },
        io::ErrorKind::TimedOut => ProbeError::TimedOut { address, waited: Duration::ZERO },
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => ProbeError::Closed { address },
        _ => ProbeError::Unreachable { address, reason: error.to_string() },
    }
}

fn tls_error(address: SocketAddr, error: &io::Error) -> ProbeError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => ProbeError::NotTls { address },
        Some(rustls::Error::AlertReceived(alert)) => ProbeError::Alert { address, alert: *alert },
        Some(other) => ProbeError::Handshake { address, leaf: None, reason: other.to_string() },
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => ProbeError::Closed { address },
            _ => ProbeError::Handshake { address, leaf: None, reason: error.to_string() },
        },
    }
}

/// Why it is not known what an endpoint serves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The server refused the handshake with an alert.
    #[error("{address} refused the handshake: TLS alert {alert:?}{}", alert_hint(*alert))]
    Alert {
        /// The address.
        address: SocketAddr,
        /// The alert ([RFC 8446, section 6](https://www.rfc-editor.org/rfc/rfc8446#section-6)).
        alert: AlertDescription,
    },
    /// The server closed the connection before it had presented a certificate.
    #[error("{address} closed the connection during the handshake")]
    Closed {
        /// The address.
        address: SocketAddr,
    },
    /// The handshake failed otherwise.
    #[error("the handshake with {address} failed: {reason}")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// The leaf that was presented without proof that the server has its key.
        leaf: Option<Fingerprint>,
        /// What was wrong.
        reason: String,
    },
    /// Two addresses present different certificates.
    #[error("{address} serves {}, and {elsewhere} serves {}", leaf.short(), other.short())]
    Mixed {
        /// One leaf.
        leaf: Fingerprint,
        /// Where it is served.
        address: IpAddr,
        /// Another.
        other: Fingerprint,
        /// Where that is served.
        elsewhere: IpAddr,
    },
    /// What answered is not TLS.
    #[error("{address} does not speak TLS")]
    NotTls {
        /// The address.
        address: SocketAddr,
    },
    /// Nobody listens there.
    #[error("{address} refused the connection")]
    Refused {
        /// The address.
        address: SocketAddr,
    },
    /// The server name cannot be sent.
    #[error("`{}` is not a server name", sni.escape_debug())]
    ServerName {
        /// The name.
        sni: String,
    },
    /// No answer in time.
    #[error("{address} did not answer in time")]
    TimedOut {
        /// The address.
        address: SocketAddr,
        /// How long it had; zero when the operating system decided.
        waited: Duration,
    },
    /// The network does not lead there.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        reason: String,
    },
    /// The host has no address.
    #[error("`{}` cannot be resolved: {reason}", host.escape_debug())]
    Unresolved {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
}

impl ProbeError {
    /// Whether nobody answered, as against an answer that is of no use.
    pub const fn is_silence(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Unreachable { .. } | Self::Unresolved { .. })
    }
}

const fn alert_hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnrecognisedName => " (it has no certificate for that server name)",
        AlertDescription::HandshakeFailure => " (it may have no certificate of a kind that was asked for)",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
