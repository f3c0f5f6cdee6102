//! What the CA remembers: accounts, orders, authorizations and certificates, with the indexes over them.

use std::collections::BTreeMap;
use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::jws::Jwk;
use super::problem::Problem;
use crate::model::CertName;
use crate::model::CertificateFacts;
use crate::model::NameSet;

/// The CA's memory. Everything in it that is not an index is kept over a restart.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) kept: Kept,
    /// Account by thumbprint of its key.
    by_thumbprint: HashMap<String, u64>,
    /// The last order by account, names and profile.
    by_wish: HashMap<(u64, NameSet, String), u64>,
    /// The last valid authorization by account and name.
    by_name: HashMap<(u64, CertName), u64>,
    /// Certificate by ARI identifier.
    by_ari_id: HashMap<String, u64>,
    /// Certificate by fingerprint.
    by_fingerprint: HashMap<[u8; 32], u64>,
    /// The last order that is to replace a certificate.
    replacements: HashMap<u64, u64>,
}

/// What is kept over a restart. Numbers start at 1 and are part of the URLs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in super::super) struct Kept {
    pub(super) accounts: BTreeMap<u64, Account>,
    pub(super) authorizations: BTreeMap<u64, Authorization>,
    pub(super) certificates: BTreeMap<u64, Certificate>,
    pub(super) orders: BTreeMap<u64, Order>,
    /// The external account keys that were used, with the account of each.
    pub(super) used_eab_keys: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) key: Jwk,
    pub(super) contact: Vec<String>,
    pub(super) is_deactivated: bool,
    pub(super) eab_key_id: Option<String>,
    /// The binding as it was sent, for the account object.
    pub(super) binding: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) account: u64,
    pub(super) names: NameSet,
    pub(super) profile: String,
    pub(super) replaces: Option<String>,
    pub(super) expires: Timestamp,
    pub(super) authorizations: Vec<u64>,
    pub(super) progress: Progress,
    pub(super) error: Option<Problem>,
}

/// How far an order is beyond its authorizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Progress {
    /// Not finalized.
    Authorizing,
    /// The certificate is there.
    Issued(u64),
    /// The certificate is being made.
    Processing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrderStatus {
    Invalid,
    Pending,
    Processing,
    Ready,
    Valid,
}

impl OrderStatus {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Ready => "ready",
            Self::Valid => "valid",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Authorization {
    pub(super) account: u64,
    pub(super) name: CertName,
    pub(super) expires: Timestamp,
    pub(super) is_deactivated: bool,
    pub(super) challenges: Vec<Challenge>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Challenge {
    pub(super) kind: ChallengeKind,
    pub(super) token: String,
    pub(super) state: ChallengeState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ChallengeKind {
    #[serde(rename = "dns-01")]
    Dns01,
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl ChallengeKind {
    pub(super) const ALL: [Self; 3] = [Self::Dns01, Self::Http01, Self::TlsAlpn01];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Dns01 => "dns-01",
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChallengeState {
    Invalid { problem: Problem, at: Timestamp },
    Pending,
    Processing,
    Valid { at: Timestamp },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthorizationStatus {
    Deactivated,
    Expired,
    Invalid,
    Pending,
    Valid,
}

impl AuthorizationStatus {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Deactivated => "deactivated",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
            Self::Pending => "pending",
            Self::Valid => "valid",
        }
    }
}

impl Authorization {
    pub(super) fn status(&self, now: Timestamp) -> AuthorizationStatus {
        let any = |wanted: fn(&ChallengeState) -> bool| self.challenges.iter().any(|one| wanted(&one.state));
        if self.is_deactivated {
            AuthorizationStatus::Deactivated
        } else if any(|state| matches!(state, ChallengeState::Invalid { .. })) {
            AuthorizationStatus::Invalid
        } else if self.expires <= now {
            AuthorizationStatus::Expired
        } else if any(|state| matches!(state, ChallengeState::Valid { .. })) {
            AuthorizationStatus::Valid
        } else {
            AuthorizationStatus::Pending
        }
    }

    pub(super) fn challenge(&self, kind: &str) -> Option<&Challenge> {
        self.challenges.iter().find(|challenge| challenge.kind.as_str() == kind)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Certificate {
    pub(super) account: u64,
    #[serde(with = "base64_octets")]
    pub(super) der: Vec<u8>,
    pub(super) facts: CertificateFacts,
    pub(super) revoked: Option<Timestamp>,
}

impl Store {
    /// Takes what was kept and builds the indexes. Work that a stop interrupted goes back to its beginning.
    pub(super) fn open(mut kept: Kept) -> Self {
        for authorization in kept.authorizations.values_mut() {
            for challenge in &mut authorization.challenges {
                if challenge.state == ChallengeState::Processing {
                    challenge.state = ChallengeState::Pending;
                }
            }
        }
        for order in kept.orders.values_mut() {
            if order.progress == Progress::Processing {
                order.progress = Progress::Authorizing;
            }
        }
        let mut store = Self::default();
        for (id, account) in &kept.accounts {
            store.by_thumbprint.insert(account.key.thumbprint(), *id);
        }
        for (id, order) in &kept.orders {
            store.by_wish.insert((order.account, order.names.clone(), order.profile.clone()), *id);
        }
        for (id, authorization) in &kept.authorizations {
            let is_valid = authorization
                .challenges
                .iter()
                .any(|challenge| matches!(challenge.state, ChallengeState::Valid { .. }));
            if is_valid {
                store.by_name.insert((authorization.account, authorization.name.clone()), *id);
            }
        }
        for (id, certificate) in &kept.certificates {
            store.by_fingerprint.insert(*certificate.facts.fingerprint.as_bytes(), *id);
            if let Some(ari_id) = &certificate.facts.ari_id {
                store.by_ari_id.insert(ari_id.clone(), *id);
            }
        }
        for (id, order) in &kept.orders {
            let replaced = order.replaces.as_ref().and_then(|ari_id| store.by_ari_id.get(ari_id));
            if let Some(replaced) = replaced {
                store.replacements.insert(*replaced, *id);
            }
        }
        store.kept = kept;
        store
    }

    pub(super) fn account_of_key(&self, thumbprint: &str) -> Option<u64> {
        self.by_thumbprint.get(thumbprint).copied()
    }

    pub(super) fn add_account(&mut self, account: Account) -> u64 {
        let id = next(&self.kept.accounts);
        self.by_thumbprint.insert(account.key.thumbprint(), id);
        if let Some(key_id) = &account.eab_key_id {
            self.kept.used_eab_keys.insert(key_id.clone(), id);
        }
        self.kept.accounts.insert(id, account);
        id
    }

    /// Gives an account another key.
    pub(super) fn change_key(&mut self, id: u64, key: Jwk) {
        if let Some(account) = self.kept.accounts.get_mut(&id) {
            self.by_thumbprint.remove(&account.key.thumbprint());
            self.by_thumbprint.insert(key.thumbprint(), id);
            account.key = key;
        }
    }

    pub(super) fn add_order(&mut self, order: Order) -> u64 {
        let id = next(&self.kept.orders);
        self.by_wish.insert((order.account, order.names.clone(), order.profile.clone()), id);
        if let Some(replaced) = order.replaces.as_ref().and_then(|ari_id| self.by_ari_id.get(ari_id)) {
            self.replacements.insert(*replaced, id);
        }
        self.kept.orders.insert(id, order);
        id
    }

    /// The open order of an account for the same names and profile.
    pub(super) fn open_order(
        &self,
        account: u64,
        names: &NameSet,
        profile: &str,
        now: Timestamp,
    ) -> Option<u64> {
        let id = *self.by_wish.get(&(account, names.clone(), profile.to_owned()))?;
        let order = self.kept.orders.get(&id)?;
        let is_open = matches!(self.order_status(order, now), OrderStatus::Pending | OrderStatus::Ready);
        (is_open && order.expires > now).then_some(id)
    }

    pub(super) fn order_status(&self, order: &Order, now: Timestamp) -> OrderStatus {
        if order.error.is_some() {
            return OrderStatus::Invalid;
        }
        match order.progress {
            Progress::Issued(_) => return OrderStatus::Valid,
            Progress::Processing => return OrderStatus::Processing,
            Progress::Authorizing => {}
        }
        if order.expires <= now {
            return OrderStatus::Invalid;
        }
        let mut status = OrderStatus::Ready;
        for id in &order.authorizations {
            let authorization = self.kept.authorizations.get(id);
            match authorization.map(|authorization| authorization.status(now)) {
                Some(AuthorizationStatus::Valid) => {}
                Some(AuthorizationStatus::Pending) => status = OrderStatus::Pending,
                _ => return OrderStatus::Invalid,
            }
        }
        status
    }

    pub(super) fn add_authorization(&mut self, authorization: Authorization) -> u64 {
        let id = next(&self.kept.authorizations);
        self.kept.authorizations.insert(id, authorization);
        id
    }

    /// The authorization of an account for a name that is valid now.
    pub(super) fn valid_authorization(&self, account: u64, name: &CertName, now: Timestamp) -> Option<u64> {
        let id = *self.by_name.get(&(account, name.clone()))?;
        let authorization = self.kept.authorizations.get(&id)?;
        (authorization.status(now) == AuthorizationStatus::Valid).then_some(id)
    }

    pub(super) fn pending_authorization(&self, account: u64, name: &CertName, now: Timestamp) -> Option<u64> {
        let is_open = |authorization: &Authorization| {
            authorization.account == account
                && authorization.name == *name
                && authorization.status(now) == AuthorizationStatus::Pending
        };
        self.kept.authorizations.iter().find(|(_, authorization)| is_open(authorization)).map(|(id, _)| *id)
    }

    /// Ends a validation. An authorization that was deactivated meanwhile stays so.
    pub(super) fn set_challenge(&mut self, id: u64, kind: ChallengeKind, state: ChallengeState) {
        let Some(authorization) = self.kept.authorizations.get_mut(&id) else { return };
        if matches!(state, ChallengeState::Valid { .. }) {
            self.by_name.insert((authorization.account, authorization.name.clone()), id);
        }
        for challenge in &mut authorization.challenges {
            if challenge.kind == kind {
                challenge.state = state.clone();
            }
        }
    }

    pub(super) fn add_certificate(&mut self, certificate: Certificate) -> u64 {
        let id = next(&self.kept.certificates);
        self.by_fingerprint.insert(*certificate.facts.fingerprint.as_bytes(), id);
        if let Some(ari_id) = &certificate.facts.ari_id {
            self.by_ari_id.insert(ari_id.clone(), id);
        }
        self.kept.certificates.insert(id, certificate);
        id
    }

    pub(super) fn certificate_of_ari_id(&self, ari_id: &str) -> Option<(u64, &Certificate)> {
        let id = *self.by_ari_id.get(ari_id)?;
        self.kept.certificates.get(&id).map(|certificate| (id, certificate))
    }

    pub(super) fn certificate_of_fingerprint(&self, fingerprint: &[u8; 32]) -> Option<u64> {
        self.by_fingerprint.get(fingerprint).copied()
    }

    /// Whether a certificate has a replacement, issued or still possible; a failed or expired order is none.
    pub(super) fn is_replaced(&self, certificate: u64, now: Timestamp) -> bool {
        let replacement = self.replacements.get(&certificate).and_then(|id| self.kept.orders.get(id));
        replacement.is_some_and(|order| self.order_status(order, now) != OrderStatus::Invalid)
    }
}

/// The number after the last one.
fn next<T>(map: &BTreeMap<u64, T>) -> u64 {
    map.last_key_value().map_or(1, |(last, _)| last + 1)
}

mod base64_octets {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;
    use serde::de;

    pub(super) fn serialize<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(octets))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
