//! Certificates: download, renewal information ([RFC 9773](https://www.rfc-editor.org/rfc/rfc9773)) and revocation.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use http::header;
use jiff::SignedDuration;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::super::AriWindow;
use super::super::Event;
use super::Ca;
use super::problem::Kind;
use super::problem::Problem;
use super::server::Body;
use super::server::Reply;
use super::server::Signed;
use super::server::Signer;
use super::store::Certificate;
use super::store::Store;
use crate::model::sha256;

/// The reasons of revocation that Let's Encrypt takes ([RFC 5280, section 5.3.1](https://www.rfc-editor.org/rfc/rfc5280#section-5.3.1)).
const REASONS: [u8; 5] = [0, 1, 3, 4, 5];

#[derive(Deserialize)]
struct Revocation {
    certificate: String,
    reason: Option<u8>,
}

impl Ca {
    /// A certificate with its chain; 1 is the chain to the other root.
    pub(super) fn certificate(&self, id: u64, chain: usize, signed: &Signed) -> Result<Reply, Problem> {
        let (account, _) = signed.account()?;
        signed.jws.expect_empty()?;
        let der = {
            let store = self.store();
            let certificate = store.kept.certificates.get(&id);
            certificate.filter(|found| found.account == account).map(|found| found.der.clone())
        };
        let pem = der.and_then(|der| self.authority.chain(&der, chain));
        let Some(pem) = pem else { return Err(Problem::not_found("there is no such certificate")) };
        let default = format!("{}/certificate/{id}", self.base);
        let other = if chain == 0 { format!("{default}/1") } else { default };
        Ok(Reply::new(StatusCode::OK, Body::Pem(pem))
            .with(header::LINK, format!("<{other}>;rel=\"alternate\"")))
    }

    pub(super) fn renewal_info(&self, id: &str) -> Result<Reply, Problem> {
        let (window, retry_after) = self.faults.read(|faults| (faults.ari, faults.ari_retry_after));
        if window == AriWindow::None {
            return Err(Problem::not_found("there is nothing at this URL"));
        }
        check_ari_id(id)?;
        let store = self.store();
        let Some((_, certificate)) = store.certificate_of_ari_id(id) else {
            return Err(Problem::not_found("there is no such certificate"));
        };
        let (start, end) = suggested_window(certificate, window, self.now());
        let after = retry_after.unwrap_or_else(|| {
            let lifetime = Duration::try_from(certificate.facts.lifetime()).unwrap_or_default();
            (lifetime / 20).clamp(Duration::from_secs(1), Duration::from_secs(6 * 3_600))
        });
        let mut document = json!({
            "suggestedWindow": { "start": start.to_string(), "end": end.to_string() },
        });
        if window == AriWindow::Now {
            document["explanationURL"] = json!("https://sandbox.certplan.test/incident");
        }
        Ok(Reply::ok(document).with_retry_after(Some(after)))
    }

    /// Revokes a certificate: [RFC 8555, section 7.6](https://www.rfc-editor.org/rfc/rfc8555#section-7.6).
    pub(super) fn revoke(&self, signed: &Signed) -> Result<Reply, Problem> {
        let request: Revocation = signed.jws.json()?;
        let der = URL_SAFE_NO_PAD
            .decode(&request.certificate)
            .map_err(|_| Problem::malformed("the certificate is not base64url without padding"))?;
        let reason = request.reason.unwrap_or_default();
        if !REASONS.contains(&reason) {
            return Err(Problem::new(
                Kind::BadRevocationReason,
                format!("the reason {reason} is not one of {REASONS:?}"),
            ));
        }
        let now = self.now();
        let mut store = self.store();
        let id = store.certificate_of_fingerprint(sha256(&der).as_bytes());
        let Some((id, certificate)) = id.and_then(|id| Some((id, store.kept.certificates.get(&id)?))) else {
            return Err(Problem::not_found("the certificate is not one of this CA"));
        };
        let may_revoke = match &signed.signer {
            Signer::Account(account, _) => {
                certificate.account == *account || holds_all_names(&store, *account, certificate, now)
            }
            Signer::Key(key) => {
                key.public_octets().ok().is_some_and(|octets| certificate_key(&der) == Some(octets))
            }
        };
        if !may_revoke {
            return Err(Problem::unauthorized(
                "the certificate can be revoked by its account, its key, or an account that controls its names",
            ));
        }
        if certificate.revoked.is_some() {
            return Err(Problem::new(Kind::AlreadyRevoked, "the certificate is revoked already"));
        }
        let serial = certificate.facts.serial.clone();
        if let Some(certificate) = store.kept.certificates.get_mut(&id) {
            certificate.revoked = Some(now);
        }
        self.ledger.record(Event::CertificateRevoked { serial, reason });
        Ok(Reply::new(StatusCode::OK, Body::Empty))
    }
}

/// Whether an account has valid authorizations for all names of a certificate.
fn holds_all_names(store: &Store, account: u64, certificate: &Certificate, now: Timestamp) -> bool {
    certificate.facts.names.iter().all(|name| store.valid_authorization(account, name, now).is_some())
}

/// What identifies a certificate's key, in the form of [`super::jws::Jwk::public_octets`].
fn certificate_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let key = certificate.public_key();
    match key.parsed().ok()? {
        PublicKey::RSA(rsa) => Some(rsa.modulus.iter().copied().skip_while(|octet| *octet == 0).collect()),
        _ => Some(key.subject_public_key.data.to_vec()),
    }
}

/// Checks the form of an ARI certificate identifier ([RFC 9773, section 4.1](https://www.rfc-editor.org/rfc/rfc9773#section-4.1)).
pub(super) fn check_ari_id(id: &str) -> Result<(), Problem> {
    let is_well_formed = id.split_once('.').is_some_and(|(authority, serial)| {
        [authority, serial].into_iter().all(|part| !part.is_empty() && URL_SAFE_NO_PAD.decode(part).is_ok())
    });
    if is_well_formed {
        Ok(())
    } else {
        Err(Problem::malformed("the certificate identifier is not two base64url texts with a dot between"))
    }
}

/// When to renew; never empty, whatever the lifetime.
fn suggested_window(certificate: &Certificate, window: AriWindow, now: Timestamp) -> (Timestamp, Timestamp) {
    let facts = &certificate.facts;
    let lifetime = facts.lifetime();
    let at = |fraction: f64| {
        let offset = SignedDuration::try_from_secs_f64(lifetime.as_secs_f64() * fraction).unwrap_or(lifetime);
        round(facts.not_before.saturating_add(offset).unwrap_or(facts.not_after))
    };
    let ago = |hours| now.saturating_sub(SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MIN);
    let (start, end) = match window {
        _ if certificate.revoked.is_some() => (ago(2), ago(1)),
        AriWindow::Now => (ago(2), ago(1)),
        AriWindow::Fraction { start, end } => (at(start), at(end)),
        AriWindow::Default | AriWindow::None => {
            let centre = if lifetime < SignedDuration::from_hours(240) { 0.5 } else { 2.0 / 3.0 };
            (at(centre - 0.01), at(centre + 0.01))
        }
    };
    let least = start.saturating_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX);
    (round(start), round(end.max(least)))
}

/// Milliseconds are enough, and more digits than nine upset some parsers.
fn round(timestamp: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(timestamp.as_millisecond()).unwrap_or(timestamp)
}
