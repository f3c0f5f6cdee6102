use certplan_provider::Bundle;
use certplan_provider::ProviderError;
use x509_parser::pem::Pem;
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
        if !key.contains("PRIVATE KEY-----") {
            return Err(ProviderError::invalid("there is no private key"));
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
