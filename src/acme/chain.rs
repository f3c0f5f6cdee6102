use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::model::CertName;
use crate::model::CertificateError;
use crate::model::CertificateFacts;
use crate::model::Fingerprint;
use crate::model::NameSet;

/// More certificates than any chain has.
const MOST: usize = 20;

/// How much later than our clock says a certificate may begin.
const CLOCK_TOLERANCE_SECONDS: i64 = 300;

/// A chain that can be stored and deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedChain {
    /// The certificates in DER: the leaf first, each signed by the next, the root left out.
    pub ders: Vec<Vec<u8>>,
    /// The same in PEM, 64 characters a line.
    pub pem: String,
    /// What the leaf says.
    pub facts: CertificateFacts,
}

/// Checks that what a CA delivered is what was ordered, before it is stored:
/// the leaf is for our key and for exactly these names, is valid at some `time` (for clocks that are apart), and each
/// certificate is signed by the next.
///
/// Certificates after the leaf may come in any order. A root at the end is left out, for clients have it or do not trust
/// it.
///
/// # Errors
/// See [`ChainError`].
pub fn check_chain(
    pem: &str,
    spki: Fingerprint,
    names: &NameSet,
    time: &RangeInclusive<Timestamp>,
) -> Result<CheckedChain, ChainError> {
    let ders = read(pem)?;
    let Some(leaf) = ders.first() else { return Err(ChainError::Empty) };
    let facts = CertificateFacts::from_der(leaf)?;
    if facts.spki != spki {
        return Err(ChainError::Key { expected: spki, found: facts.spki });
    }
    let other = other_names(&parse(leaf)?);
    if &facts.names != names || !other.is_empty() {
        let missing = names.difference(&facts.names).map(CertName::to_string).collect();
        let extra = facts.names.difference(names).map(CertName::to_string).chain(other).collect();
        return Err(ChainError::Names { missing, extra });
    }
    if *time.start() >= facts.not_after {
        return Err(ChainError::Expired { not_after: facts.not_after, now: *time.start() });
    }
    let now = *time.end();
    if now.as_second() + CLOCK_TOLERANCE_SECONDS < facts.not_before.as_second() {
        return Err(ChainError::NotYetValid { not_before: facts.not_before, now });
    }
    let ders = in_order(&ders)?;
    let pem = ders.iter().map(|der| pem_block(der)).collect();
    Ok(CheckedChain { ders, pem, facts })
}

/// The common names of the authorities in a chain: those of its intermediates, and those that issued them.
pub(super) fn authorities(pem: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (position, der) in read(pem).unwrap_or_default().iter().enumerate() {
        let Ok(certificate) = parse(der) else { continue };
        let subject = (position > 0).then(|| certificate.subject().clone());
        for name in subject.iter().chain([certificate.issuer()]) {
            found.extend(name.iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned));
        }
    }
    found
}

fn read(pem: &str) -> Result<Vec<Vec<u8>>, ChainError> {
    let mut ders = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        ders.push(der.map_err(|_| ChainError::Pem)?.to_vec());
        if ders.len() > MOST {
            return Err(ChainError::TooLong);
        }
    }
    Ok(ders)
}

/// Puts the certificates after the leaf into the order in which they sign each other.
fn in_order(ders: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, ChainError> {
    let certificates = ders.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    let mut chain = vec![0];
    let mut left: Vec<usize> = (1..certificates.len()).collect();
    while let Some(&last) = chain.last() {
        let Some(position) = left.iter().position(|&next| signs(&certificates[next], &certificates[last]))
        else {
            break;
        };
        chain.push(left.remove(position));
    }
    // Twice the same certificate is harmless; one that signs nothing here is not what was asked for.
    left.retain(|&unused| !chain.iter().any(|&used| ders[used] == ders[unused]));
    if let Some(&unused) = left.first() {
        return Err(ChainError::Broken {
            subject: certplan_http::printable(&certificates[unused].subject().to_string(), 200),
        });
    }
    if let Some(&last) = chain.last()
        && chain.len() > 1
        && signs(&certificates[last], &certificates[last])
    {
        chain.pop();
    }
    Ok(chain.into_iter().map(|position| ders[position].clone()).collect())
}

fn signs(issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    if issuer.subject().as_raw() != certificate.issuer().as_raw() {
        return false;
    }
    match certificate.verify_signature(Some(issuer.public_key())) {
        Ok(()) => true,
        // An algorithm that the library cannot check (P-521, for one): the names have to do.
        Err(error) => error == X509Error::SignatureUnsupportedAlgorithm,
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ChainError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(ChainError::Certificate(CertificateError::Malformed {
            reason: "a certificate of the chain does not parse".to_owned(),
        })),
    }
}

/// What the leaf is for beside DNS names.
fn other_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(alternative) => Some(&alternative.general_names),
            _ => None,
        })
        .flatten()
        .filter(|name| !matches!(name, GeneralName::DNSName(_)))
        .map(|name| certplan_http::printable(&name.to_string(), 260))
        .collect()
}

fn pem_block(der: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let base64 = STANDARD.encode(der);
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Why a chain is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// A certificate signs none of the others.
    #[error("the chain is broken: `{subject}` does not belong to it")]
    Broken {
        /// Its subject.
        subject: String,
    },
    /// A certificate does not parse.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// There is no certificate.
    #[error("the CA delivered no certificate")]
    Empty,
    /// The leaf's validity is over.
    #[error(
        "the certificate expired on {not_after}, and it is {now} at the earliest by this machine's clock and the CA's: check the clock"
    )]
    Expired {
        /// The end of its validity.
        not_after: Timestamp,
        /// The earlier clock.
        now: Timestamp,
    },
    /// The leaf is for another key.
    #[error("the certificate is for another key (SHA-256 of it {}, and ours {})", found.short(), expected.short())]
    Key {
        /// Ours.
        expected: Fingerprint,
        /// The certificate's.
        found: Fingerprint,
    },
    /// The leaf is for other names.
    #[error("the certificate is for other names (missing: {missing:?}, not asked for: {extra:?})")]
    Names {
        /// Names that were asked for and are not there.
        missing: Vec<String>,
        /// What is there and was not asked for.
        extra: Vec<String>,
    },
    /// The leaf's validity has not begun: the clock of this machine is slow, most likely.
    #[error(
        "the certificate is valid from {not_before}, and it is {now} at the latest by this machine's clock and the CA's: check the clock"
    )]
    NotYetValid {
        /// The beginning of its validity.
        not_before: Timestamp,
        /// The later clock.
        now: Timestamp,
    },
    /// A block is not PEM.
    #[error("the chain is not PEM")]
    Pem,
    /// There are too many certificates.
    #[error("the chain has more than {MOST} certificates")]
    TooLong,
}

#[cfg(test)]
mod tests;
