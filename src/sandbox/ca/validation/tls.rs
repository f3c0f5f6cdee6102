use std::sync::Arc;

use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use super::super::problem::Kind;
use super::super::problem::Problem;
use crate::model::Fqdn;

/// `id-pe-acmeIdentifier` ([RFC 8737, section 6.1](https://www.rfc-editor.org/rfc/rfc8737#section-6.1)).
const ACME_IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";

const PROTOCOL: &[u8] = b"acme-tls/1";

/// Validates with TLS-ALPN-01: [RFC 8737, section 3](https://www.rfc-editor.org/rfc/rfc8737#section-3).
pub(super) async fn check(stream: TcpStream, name: &Fqdn, digest: &[u8; 32]) -> Result<(), Problem> {
    let fail = |what: String| Problem::new(Kind::Tls, what);
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let server_name =
        ServerName::try_from(name.as_str().to_owned()).map_err(|error| fail(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(server_name, stream)
        .await
        .map_err(|error| fail(format!("the handshake fails: {error}")))?;
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(PROTOCOL) {
        return Err(Problem::unauthorized("the server does not speak acme-tls/1"));
    }
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    match certificate.map(|certificate| is_answer(certificate, name, digest)) {
        Some(Some(())) => Ok(()),
        _ => Err(Problem::unauthorized(
            "the server's certificate is not one with the name alone and the key authorization's digest",
        )),
    }
}

/// Whether a certificate has exactly the name and, critical, exactly the digest.
fn is_answer(der: &[u8], name: &Fqdn, digest: &[u8; 32]) -> Option<()> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut has_name = false;
    let mut has_digest = false;
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() {
            has_name = matches!(
                alternative.general_names.as_slice(),
                [GeneralName::DNSName(only)] if only.eq_ignore_ascii_case(name.as_str())
            );
        } else if extension.oid.to_id_string() == ACME_IDENTIFIER {
            let expected = [&[4, 32], digest.as_slice()].concat();
            has_digest = extension.critical && extension.value == expected;
        }
    }
    (has_name && has_digest).then_some(())
}

/// Takes every certificate: it is looked at after the handshake, and comes from no CA.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl AnyCertificate {
    /// Verifies the handshake's signature. What rustls has for it refuses the certificate for its critical extension.
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = &certificate.public_key().subject_public_key.data;
        let verifies = self
            .0
            .signature_verification_algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| *algorithms)
            .any(|algorithm| algorithm.verify_signature(key, message, signed.signature()).is_ok());
        if verifies {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature))
        }
    }
}
