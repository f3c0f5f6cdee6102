//! Authorizations and challenges: [RFC 8555, section 7.5](https://www.rfc-editor.org/rfc/rfc8555#section-7.5).

use std::sync::Arc;

use http::StatusCode;
use http::header;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use tokio::time::sleep;

use super::super::Event;
use super::super::ExpiredOrders;
use super::Ca;
use super::authority::saturating_add;
use super::order::seconds;
use super::problem::Problem;
use super::server::Reply;
use super::server::Signed;
use super::store::Authorization;
use super::store::AuthorizationStatus;
use super::store::Challenge;
use super::store::ChallengeKind;
use super::store::ChallengeState;
use super::store::Store;
use super::validation::Validation;

#[derive(Deserialize)]
struct AuthorizationUpdate {
    status: String,
}

impl Ca {
    /// Reads or deactivates an authorization.
    pub(super) fn authorization(&self, id: u64, signed: &Signed) -> Result<Reply, Problem> {
        let (account, _) = signed.account()?;
        let now = self.now();
        let mut store = self.store();
        self.check_authorization(&store, id, account, now)?;
        if !signed.jws.payload.is_empty() {
            let update: AuthorizationUpdate = signed.jws.json()?;
            if update.status != "deactivated" {
                return Err(Problem::malformed("an authorization's status can become `deactivated` only"));
            }
            if let Some(authorization) = store.kept.authorizations.get_mut(&id)
                && matches!(
                    authorization.status(now),
                    AuthorizationStatus::Pending | AuthorizationStatus::Valid
                )
            {
                authorization.is_deactivated = true;
                self.ledger.record(Event::AuthorizationDeactivated {
                    authorization: self.authorization_url(id),
                    name: authorization.name.to_string(),
                });
            }
        }
        let authorization = self.check_authorization(&store, id, account, now)?;
        let status = authorization.status(now);
        let name = &authorization.name;
        // A final authorization shows only the challenge that decided it, as RFC 8555, section 7.1.4, has it.
        let challenges: Vec<Value> = authorization
            .challenges
            .iter()
            .filter(|challenge| match status {
                AuthorizationStatus::Valid => matches!(challenge.state, ChallengeState::Valid { .. }),
                AuthorizationStatus::Invalid => matches!(challenge.state, ChallengeState::Invalid { .. }),
                _ => true,
            })
            .map(|challenge| self.challenge_document(id, challenge))
            .collect();
        let mut document = json!({
            "status": status.as_str(),
            "expires": seconds(authorization.expires),
            "identifier": { "type": "dns", "value": name.base().as_str() },
            "challenges": challenges,
        });
        if name.is_wildcard() {
            document["wildcard"] = json!(true);
        }
        let mut reply = Reply::ok(document);
        if status == AuthorizationStatus::Pending {
            reply = reply.with_retry_after(self.faults.read(|faults| faults.poll_after));
        }
        Ok(reply)
    }

    fn check_authorization<'a>(
        &self,
        store: &'a Store,
        id: u64,
        account: u64,
        now: Timestamp,
    ) -> Result<&'a Authorization, Problem> {
        let is_gone = |authorization: &Authorization| {
            self.options.expired_orders == ExpiredOrders::NotFound && authorization.expires <= now
        };
        store
            .kept
            .authorizations
            .get(&id)
            .filter(|authorization| authorization.account == account && !is_gone(authorization))
            .ok_or_else(|| Problem::not_found("there is no such authorization"))
    }

    fn challenge_document(&self, authorization: u64, challenge: &Challenge) -> Value {
        let status = match challenge.state {
            ChallengeState::Invalid { .. } => "invalid",
            ChallengeState::Pending => "pending",
            ChallengeState::Processing => "processing",
            ChallengeState::Valid { .. } => "valid",
        };
        let mut document = json!({
            "type": challenge.kind.as_str(),
            "url": self.challenge_url(authorization, challenge.kind),
            "status": status,
            "token": challenge.token,
        });
        match &challenge.state {
            ChallengeState::Invalid { problem, at } => {
                document["error"] = problem.document();
                document["validated"] = json!(seconds(*at));
            }
            ChallengeState::Valid { at } => document["validated"] = json!(seconds(*at)),
            ChallengeState::Pending | ChallengeState::Processing => {}
        }
        document
    }

    fn challenge_url(&self, authorization: u64, kind: ChallengeKind) -> String {
        format!("{}/challenge/{authorization}/{}", self.base, kind.as_str())
    }

    /// Reads a challenge, or begins its validation. There is no second try for a challenge that failed.
    pub(super) fn challenge(
        self: &Arc<Self>,
        id: u64,
        kind: &str,
        signed: &Signed,
    ) -> Result<Reply, Problem> {
        let (account, key) = signed.account()?;
        let now = self.now();
        let mut store = self.store();
        let authorization = self.check_authorization(&store, id, account, now)?;
        let Some(challenge) = authorization.challenge(kind) else {
            return Err(Problem::not_found("there is no such challenge"));
        };
        let (challenge_kind, name) = (challenge.kind, authorization.name.clone());
        let is_answer = !signed.jws.payload.is_empty();
        if is_answer {
            let answer: serde_json::Map<String, Value> = signed.jws.json()?;
            if !answer.is_empty() {
                // `keyAuthorization` and `resource` were those of ACME before the RFC.
                return Err(Problem::malformed("a challenge is answered with an empty object"));
            }
        }
        let is_first_answer = is_answer
            && authorization.status(now) == AuthorizationStatus::Pending
            && authorization.challenges.iter().all(|one| one.state == ChallengeState::Pending);
        if is_first_answer {
            let key_authorization = format!("{}.{}", challenge.token, key.thumbprint());
            let validation = Validation {
                kind: challenge_kind,
                name: name.base().clone(),
                token: challenge.token.clone(),
                key_authorization,
                resolver: self.resolver,
                http_port: self.options.http_port,
                tls_port: self.options.tls_port,
                fallback: self.options.validation_address,
            };
            store.set_challenge(id, challenge_kind, ChallengeState::Processing);
            self.ledger.record(Event::ChallengeAnswered {
                account: self.account_url(account),
                authorization: self.authorization_url(id),
                name: name.to_string(),
                kind: kind.to_owned(),
            });
            let ca = Arc::clone(self);
            self.spawn(async move { ca.validate(id, name.to_string(), validation).await });
        }
        let document = self
            .check_authorization(&store, id, account, now)?
            .challenge(kind)
            .map(|challenge| self.challenge_document(id, challenge))
            .unwrap_or_default();
        let mut reply = Reply::new(StatusCode::OK, super::server::Body::Json(document))
            .with(header::LINK, format!("<{}>;rel=\"up\"", self.authorization_url(id)));
        if is_answer {
            reply = reply.with_retry_after(self.faults.read(|faults| faults.poll_after));
        }
        Ok(reply)
    }

    async fn validate(&self, id: u64, name: String, validation: Validation) {
        let delay = self.faults.read(|faults| faults.validation_delay);
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let result = validation.run().await;
        let now = self.now();
        let mut store = self.store();
        self.ledger.record(Event::Validated {
            authorization: self.authorization_url(id),
            name,
            kind: validation.kind.as_str().to_owned(),
            problem: result.as_ref().err().map(|problem| problem.detail.clone()),
        });
        let state = match result {
            Ok(()) => {
                if let Some(authorization) = store.kept.authorizations.get_mut(&id) {
                    authorization.expires = saturating_add(now, self.options.authorization_lifetime);
                }
                ChallengeState::Valid { at: now }
            }
            Err(problem) => ChallengeState::Invalid { problem, at: now },
        };
        store.set_challenge(id, validation.kind, state);
        drop(store);
        (self.changed)();
    }
}
