//! Finalization and issuance: [RFC 8555, section 7.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.4).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::sleep;

use super::super::Event;
use super::super::IssuedCertificate;
use super::Ca;
use super::csr;
use super::csr::CheckedRequest;
use super::problem::Kind;
use super::problem::Problem;
use super::server::Reply;
use super::server::Signed;
use super::store::Certificate;
use super::store::OrderStatus;
use super::store::Progress;
use crate::model::CertificateFacts;

#[derive(Deserialize)]
struct Finalize {
    csr: String,
}

impl Ca {
    pub(super) fn finalize(self: &Arc<Self>, id: u64, signed: &Signed) -> Result<Reply, Problem> {
        let (account, account_key) = signed.account()?;
        let now = self.now();
        let names = {
            let store = self.store();
            let order = self.check_order(&store, id, account, now)?;
            check_ready(store.order_status(order, now))?;
            order.names.clone()
        };
        let request: Finalize = signed.jws.json()?;
        let der = URL_SAFE_NO_PAD
            .decode(&request.csr)
            .map_err(|_| Problem::new(Kind::BadCSR, "the CSR is not base64url without padding"))?;
        // Without the lock: checking takes longer than anything else here.
        let checked = csr::check(&der, &names, account_key, self.options.ed25519)?;
        {
            let mut store = self.store();
            let order = self.check_order(&store, id, account, now)?;
            // Another request may have been faster: one order, one certificate.
            check_ready(store.order_status(order, now))?;
            if let Some(order) = store.kept.orders.get_mut(&id) {
                order.progress = Progress::Processing;
            }
            self.ledger.record(Event::Finalized {
                account: self.account_url(account),
                order: self.order_url(id),
                spki: checked.spki,
            });
        }
        let delay = self.faults.read(|faults| faults.processing_delay);
        if delay.is_zero() {
            self.issue(id, &checked);
        } else {
            let ca = Arc::clone(self);
            self.spawn(async move {
                sleep(delay).await;
                ca.issue(id, &checked);
                (ca.changed)();
            });
        }
        self.order_reply(&self.store(), id, now, StatusCode::OK)
    }

    /// Issues the certificate of an order that is processing.
    fn issue(&self, id: u64, request: &CheckedRequest) {
        let (names, account, profile) = {
            let store = self.store();
            let Some(order) = store.kept.orders.get(&id) else { return };
            (order.names.clone(), order.account, self.options.profiles.get(&order.profile).cloned())
        };
        let issued = profile.ok_or_else(|| "its profile is gone".to_owned()).and_then(|profile| {
            let lifetime = self.faults.read(|faults| faults.certificate_lifetime).unwrap_or(profile.lifetime);
            // Certificates have whole seconds.
            let now = self.now();
            let not_before = Timestamp::from_second(now.as_second()).unwrap_or(now);
            let der = self
                .authority
                .issue(&names, &request.key, request.is_rsa, &profile, not_before, lifetime)
                .map_err(|error| error.to_string())?;
            let facts = CertificateFacts::from_der(&der).map_err(|error| error.to_string())?;
            Ok((der, facts))
        });
        let mut store = self.store();
        match issued {
            Ok((der, facts)) => {
                self.ledger.record(Event::CertificateIssued(IssuedCertificate {
                    account: self.account_url(account),
                    order: self.order_url(id),
                    names,
                    serial: facts.serial.clone(),
                    fingerprint: facts.fingerprint,
                    spki: facts.spki,
                    not_before: facts.not_before,
                    not_after: facts.not_after,
                }));
                let certificate = store.add_certificate(Certificate { account, der, facts, revoked: None });
                if let Some(order) = store.kept.orders.get_mut(&id) {
                    order.progress = Progress::Issued(certificate);
                }
            }
            Err(reason) => {
                tracing::error!(reason, "a certificate cannot be issued");
                if let Some(order) = store.kept.orders.get_mut(&id) {
                    order.error =
                        Some(Problem::new(Kind::ServerInternal, "the certificate cannot be issued"));
                }
            }
        }
    }
}

fn check_ready(status: OrderStatus) -> Result<(), Problem> {
    if status == OrderStatus::Ready {
        Ok(())
    } else {
        Err(Problem::new(
            Kind::OrderNotReady,
            format!("the order is {}, and only a ready one can be finalized", status.as_str()),
        ))
    }
}
