use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;

use super::Offer;
use super::Presented;
use crate::model::sha256;

/// Takes note of the certificate that a server presents and of whether it has the key.
pub(super) struct Witness {
    crypto: Arc<CryptoProvider>,
    schemes: Vec<SignatureScheme>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    presented: Option<Presented>,
    proven: bool,
}

impl Witness {
    pub(super) fn new(offer: Offer) -> Self {
        let crypto = Arc::new(aws_lc_rs::default_provider());
        let schemes = crypto
            .signature_verification_algorithms
            .supported_schemes()
            .into_iter()
            .filter(|scheme| offer.includes(*scheme))
            .collect();
        Self { crypto, schemes, seen: Mutex::default() }
    }

    pub(super) fn crypto(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.crypto)
    }

    pub(super) fn presented(&self) -> Option<Presented> {
        self.seen().presented
    }

    /// Whether the server has signed with the key of the certificate.
    pub(super) fn proven(&self) -> bool {
        self.seen().proven
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = Presented { leaf: sha256(leaf), chain_length: 1 + intermediates.len() };
        self.seen().presented = Some(presented);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.signature_verification_algorithms;
        let valid = crypto::verify_tls12_signature(message, leaf, signature, algorithms)?;
        self.seen().proven = true;
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.signature_verification_algorithms;
        let valid = crypto::verify_tls13_signature(message, leaf, signature, algorithms)?;
        self.seen().proven = true;
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

impl Offer {
    fn includes(self, scheme: SignatureScheme) -> bool {
        use SignatureScheme as S;
        match self {
            Self::Any => true,
            Self::Ecdsa => matches!(
                scheme,
                S::ECDSA_NISTP256_SHA256 | S::ECDSA_NISTP384_SHA384 | S::ECDSA_NISTP521_SHA512
            ),
            Self::Ed25519 => scheme == S::ED25519,
            Self::Rsa => matches!(
                scheme,
                S::RSA_PKCS1_SHA256
                    | S::RSA_PKCS1_SHA384
                    | S::RSA_PKCS1_SHA512
                    | S::RSA_PSS_SHA256
                    | S::RSA_PSS_SHA384
                    | S::RSA_PSS_SHA512
            ),
        }
    }
}
