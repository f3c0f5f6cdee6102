use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::Ed25519KeyPair;
use aws_lc_rs::signature::KeyPair;
use aws_lc_rs::signature::RsaKeyPair;
use certplan_provider::Bundle;
use certplan_provider::KeyType;
use certplan_provider::ProviderError;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use zeroize::Zeroizing;

use crate::place::PemFile;

const END: &str = "-----END CERTIFICATE-----";

/// What the files of a version hold, from a bundle.
pub(crate) struct Contents {
    /// The leaf.
    cert: String,
    /// The rest of the chain.
    chain: String,
    key: Zeroizing<String>,
}

impl Contents {
    /// Takes a bundle apart, whose two encodings of the chain have to agree.
    pub(crate) fn new(bundle: &Bundle) -> Result<Self, ProviderError> {
        let pem: Vec<Vec<u8>> = Pem::iter_from_buffer(bundle.chain_pem.as_bytes())
            .map(|block| block.map(|block| block.contents))
            .collect::<Result<_, _>>()
            .map_err(|error| ProviderError::invalid("the chain is not PEM").with_source(error))?;
        if pem.is_empty() || pem != bundle.chain {
            return Err(ProviderError::invalid("the chain differs in its two encodings"));
        }
        let key = bundle.key.expose_pem();
        let key_der =
            Pem::iter_from_buffer(key.as_bytes()).next().and_then(Result::ok).map(|block| block.contents);
        let key_der = Zeroizing::new(key_der.unwrap_or_default());
        if *key_der != bundle.key.expose_der() {
            return Err(ProviderError::invalid("the private key differs in its two encodings"));
        }
        if !belongs(bundle) {
            // Some servers notice that only when they are reloaded, and then end.
            return Err(ProviderError::invalid("the private key is not that of the certificate"));
        }
        let end = bundle.chain_pem.find(END).map_or(0, |at| at + END.len());
        let (cert, rest) = bundle.chain_pem.split_at(end);
        Ok(Self {
            cert: format!("{}\n", cert.trim()),
            chain: rest.trim_start().to_owned(),
            key: Zeroizing::new(key.to_owned()),
        })
    }

    /// The octets of a file.
    pub(crate) fn of(&self, file: PemFile) -> Zeroizing<Vec<u8>> {
        let parts: &[&str] = match file {
            PemFile::Cert => &[&self.cert],
            PemFile::Chain => &[&self.chain],
            // The key last: whoever looks reads as many octets as the chain has, and stops before it.
            PemFile::Combined => &[&self.cert, &self.chain, &self.key],
            PemFile::Fullchain => &[&self.cert, &self.chain],
            PemFile::Privkey => &[&self.key],
        };
        // One allocation of the final size, so that no copy of the key is left behind by growing.
        let mut octets = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
        for part in parts {
            octets.extend_from_slice(part.as_bytes());
        }
        octets
    }
}

/// Whether the key is that of the leaf.
fn belongs(bundle: &Bundle) -> bool {
    let Some((_, leaf)) = bundle.chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok()) else {
        return false;
    };
    let public: &[u8] = &leaf.public_key().subject_public_key.data;
    let key = bundle.key.expose_der();
    let ecdsa = |algorithm| {
        EcdsaKeyPair::from_pkcs8(algorithm, key).is_ok_and(|pair| pair.public_key().as_ref() == public)
    };
    match bundle.key_type {
        KeyType::EcdsaP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyType::EcdsaP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyType::Ed25519 => {
            Ed25519KeyPair::from_pkcs8(key).is_ok_and(|pair| pair.public_key().as_ref() == public)
        }
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => {
            RsaKeyPair::from_pkcs8(key).is_ok_and(|pair| pair.public_key().as_ref() == public)
        }
        // A type that this target does not know is compared nowhere: the server's own test judges.
        _ => true,
    }
}
