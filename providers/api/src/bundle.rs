use std::fmt;

use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;
use crate::key_type::KeyType;

/// A certificate with its chain and its key, on its way to a target.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The name of the certificate in the configuration.
    pub certificate: String,
    /// The chain in DER, the leaf first, the root left out.
    pub chain: Vec<Vec<u8>>,
    /// The chain in PEM, the leaf first: `CERTIFICATE` blocks with a newline at the end of each.
    pub chain_pem: String,
    /// The private key that belongs to the leaf.
    pub key: PrivateKey,
    /// The key's type.
    pub key_type: KeyType,
    /// SHA-256 of the leaf.
    pub fingerprint: Fingerprint,
}

/// A private key as PKCS#8, wiped when dropped and never printed.
#[derive(Clone)]
pub struct PrivateKey {
    der: Zeroizing<Vec<u8>>,
    pem: Zeroizing<String>,
}

impl PrivateKey {
    /// Takes a PKCS#8 document in both encodings.
    pub fn new(der: Zeroizing<Vec<u8>>, pem: Zeroizing<String>) -> Self {
        Self { der, pem }
    }

    /// The PKCS#8 document in DER; the name makes each use stand out in review.
    pub fn expose_der(&self) -> &[u8] {
        &self.der
    }

    /// The same as a `PRIVATE KEY` PEM block with a newline at its end.
    pub fn expose_pem(&self) -> &str {
        &self.pem
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}
