//! Orders: [RFC 8555, section 7.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.4).

use http::StatusCode;
use http::header;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use super::super::Event;
use super::super::ExpiredOrders;
use super::super::Profile;
use super::Ca;
use super::authority::saturating_add;
use super::problem::Kind;
use super::problem::Problem;
use super::random_text;
use super::server::Body;
use super::server::Reply;
use super::server::Signed;
use super::store::Authorization;
use super::store::Challenge;
use super::store::ChallengeKind;
use super::store::ChallengeState;
use super::store::Order;
use super::store::OrderStatus;
use super::store::Progress;
use super::store::Store;
use crate::model::CertName;
use crate::model::NameSet;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    identifiers: Vec<Identifier>,
    profile: Option<String>,
    replaces: Option<String>,
    not_before: Option<Value>,
    not_after: Option<Value>,
}

#[derive(Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

impl Ca {
    pub(super) fn new_order(&self, signed: &Signed) -> Result<Reply, Problem> {
        let (account, _) = signed.account()?;
        let request: NewOrder = signed.jws.json()?;
        if request.not_before.is_some() || request.not_after.is_some() {
            return Err(Problem::malformed("notBefore and notAfter are not supported"));
        }
        let profile_name = request.profile.unwrap_or_else(|| self.options.default_profile.clone());
        let Some(profile) = self.options.profiles.get(&profile_name) else {
            return Err(Problem::new(
                Kind::InvalidProfile,
                format!("there is no profile `{}`", profile_name.escape_debug()),
            ));
        };
        let names = check_names(&request.identifiers, profile)?;
        let now = self.now();
        let mut store = self.store();
        if let Some(replaces) = &request.replaces {
            check_replacement(&store, account, replaces, &names, now)?;
        }
        if self.options.order_reuse
            && let Some(id) = store.open_order(account, &names, &profile_name, now)
        {
            self.ledger
                .record(Event::OrderReused { account: self.account_url(account), order: self.order_url(id) });
            return self.order_reply(&store, id, now, StatusCode::CREATED);
        }
        let mut expires = saturating_add(now, self.options.order_lifetime);
        let mut authorizations = Vec::new();
        for name in &names {
            let id = self.authorization_for(&mut store, account, name, now);
            if let Some(authorization) = store.kept.authorizations.get(&id) {
                // An order lives no longer than what it rests on.
                expires = expires.min(authorization.expires);
            }
            authorizations.push(id);
        }
        let order = Order {
            account,
            names: names.clone(),
            profile: profile_name.clone(),
            replaces: request.replaces.clone(),
            expires,
            authorizations,
            progress: Progress::Authorizing,
            error: None,
        };
        let id = store.add_order(order);
        self.ledger.record(Event::OrderCreated {
            account: self.account_url(account),
            order: self.order_url(id),
            names,
            profile: profile_name,
            replaces: request.replaces,
        });
        self.order_reply(&store, id, now, StatusCode::CREATED)
    }

    /// A valid or pending authorization that is used again, or a new one.
    fn authorization_for(&self, store: &mut Store, account: u64, name: &CertName, now: Timestamp) -> u64 {
        if let Some(id) = store.valid_authorization(account, name, self.reuse_until(now))
            && self.faults.roll("authorization/reuse", self.options.authorization_reuse_percent)
        {
            return id;
        }
        if self.options.pending_reuse
            && let Some(id) = store.pending_authorization(account, name, now)
        {
            return id;
        }
        let challenges = ChallengeKind::ALL
            .into_iter()
            // RFC 8555 leaves it to the CA, and the Baseline Requirements allow nothing but DNS for wildcards.
            .filter(|kind| *kind == ChallengeKind::Dns01 || !name.is_wildcard())
            .map(|kind| Challenge { kind, token: random_text(), state: ChallengeState::Pending })
            .collect();
        store.add_authorization(Authorization {
            account,
            name: name.clone(),
            expires: saturating_add(now, self.options.pending_lifetime),
            is_deactivated: false,
            challenges,
        })
    }

    /// When an authorization has to be valid still to be used again: one in the last tenth of its life would take the
    /// order with it.
    fn reuse_until(&self, now: Timestamp) -> Timestamp {
        saturating_add(now, self.options.authorization_lifetime / 10)
    }

    pub(super) fn order(&self, id: u64, signed: &Signed) -> Result<Reply, Problem> {
        let (account, _) = signed.account()?;
        signed.jws.expect_empty()?;
        let now = self.now();
        let store = self.store();
        self.check_order(&store, id, account, now)?;
        self.order_reply(&store, id, now, StatusCode::OK)
    }

    /// The order, if there is one that the account may see. Others' orders are not found, so that they cannot be probed.
    pub(super) fn check_order<'a>(
        &self,
        store: &'a Store,
        id: u64,
        account: u64,
        now: Timestamp,
    ) -> Result<&'a Order, Problem> {
        let is_gone = |order: &Order| {
            self.options.expired_orders == ExpiredOrders::NotFound
                && order.expires <= now
                && order.progress != Progress::Processing
        };
        store
            .kept
            .orders
            .get(&id)
            .filter(|order| order.account == account && !is_gone(order))
            .ok_or_else(|| Problem::not_found("there is no such order"))
    }

    pub(super) fn order_reply(
        &self,
        store: &Store,
        id: u64,
        now: Timestamp,
        status: StatusCode,
    ) -> Result<Reply, Problem> {
        let Some(order) = store.kept.orders.get(&id) else {
            return Err(Problem::not_found("there is no such order"));
        };
        let mut order_status = store.order_status(order, now);
        if order_status == OrderStatus::Invalid
            && order.error.is_none()
            && self.faults.read(|faults| faults.undecided_orders)
        {
            order_status = OrderStatus::Pending;
        }
        let identifiers: Vec<Value> =
            order.names.iter().map(|name| json!({ "type": "dns", "value": name.to_string() })).collect();
        let authorizations: Vec<String> =
            order.authorizations.iter().map(|id| self.authorization_url(*id)).collect();
        let mut document = json!({
            "status": order_status.as_str(),
            "expires": seconds(order.expires),
            "identifiers": identifiers,
            "profile": order.profile,
            "authorizations": authorizations,
            "finalize": format!("{}/finalize", self.order_url(id)),
        });
        if let Some(replaces) = &order.replaces {
            document["replaces"] = json!(replaces);
        }
        if let Some(error) = &order.error {
            document["error"] = error.document();
        }
        if let Progress::Issued(certificate) = order.progress {
            document["certificate"] = json!(format!("{}/certificate/{certificate}", self.base));
        }
        let mut reply = Reply::new(status, Body::Json(document)).with(header::LOCATION, self.order_url(id));
        if order_status == OrderStatus::Processing {
            reply = reply.with_retry_after(self.faults.read(|faults| faults.poll_after));
        }
        Ok(reply)
    }
}

/// A time in whole seconds, as CAs give it.
pub(super) fn seconds(timestamp: Timestamp) -> String {
    Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp).to_string()
}

fn check_names(identifiers: &[Identifier], profile: &Profile) -> Result<NameSet, Problem> {
    if identifiers.is_empty() {
        return Err(Problem::malformed("an order has at least one identifier"));
    }
    if identifiers.len() > profile.max_names {
        return Err(Problem::malformed(format!("an order has at most {} identifiers", profile.max_names)));
    }
    let mut names = NameSet::new();
    let mut rejected = Vec::new();
    for identifier in identifiers {
        if identifier.kind != "dns" {
            return Err(Problem::new(
                Kind::UnsupportedIdentifier,
                format!("identifiers are of the type dns, not `{}`", identifier.kind.escape_debug()),
            ));
        }
        match check_name(&identifier.value) {
            Ok(name) => {
                if names.contains(&name) {
                    return Err(Problem::malformed(format!("`{name}` is in the order twice")));
                }
                names.insert(name);
            }
            Err(problem) => rejected.push((identifier.value.escape_debug().to_string(), problem)),
        }
    }
    if let [(_, problem)] = rejected.as_slice() {
        return Err(problem.clone());
    }
    if let Some((_, first)) = rejected.first() {
        let mut problem = Problem::new(first.kind, "some identifiers are rejected, see the subproblems");
        problem.subproblems = rejected;
        return Err(problem);
    }
    for name in &names {
        if let Some(wildcard) = names.iter().find(|other| *other != name && other.covers(name)) {
            return Err(Problem::malformed(format!(
                "`{name}` is redundant with the wildcard `{wildcard}` in the same order"
            )));
        }
    }
    Ok(names)
}

fn check_name(text: &str) -> Result<CertName, Problem> {
    let shown = text.escape_debug();
    let name = CertName::new(text)
        .ok()
        // What had to be normalised beyond its case was no name as ACME has it: A-labels without a trailing dot.
        .filter(|name| name.to_string() == text.to_ascii_lowercase())
        .ok_or_else(|| Problem::malformed(format!("`{shown}` is no DNS name")))?;
    let base = name.base().as_str();
    let is_suffix = psl::suffix(base.as_bytes()).is_some_and(|suffix| suffix.as_bytes() == base.as_bytes());
    if is_suffix {
        return Err(Problem::new(
            Kind::RejectedIdentifier,
            format!("`{shown}` is a public suffix, and nobody's to have a certificate for"),
        ));
    }
    Ok(name)
}

/// Checks `replaces` in the order in which Let's Encrypt does ([RFC 9773, section 5](https://www.rfc-editor.org/rfc/rfc9773#section-5)).
fn check_replacement(
    store: &Store,
    account: u64,
    replaces: &str,
    names: &NameSet,
    now: Timestamp,
) -> Result<(), Problem> {
    super::certificate::check_ari_id(replaces)?;
    let Some((id, certificate)) = store.certificate_of_ari_id(replaces) else {
        return Err(Problem::not_found("the certificate to replace is not known"));
    };
    if store.is_replaced(id, now) {
        return Err(Problem::new(
            Kind::AlreadyReplaced,
            "the certificate has a replacement, or an order for one, already",
        ));
    }
    if certificate.account != account {
        return Err(Problem::unauthorized("the certificate to replace was issued to another account"));
    }
    if certificate.facts.names.is_disjoint(names) {
        return Err(Problem::malformed("the certificate to replace has none of the order's identifiers"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(names: &[&str]) -> Result<usize, Kind> {
        let identifiers: Vec<Identifier> = names
            .iter()
            .map(|name| Identifier { kind: "dns".to_owned(), value: (*name).to_owned() })
            .collect();
        check_names(&identifiers, &Profile::new("", Duration::from_secs(1)))
            .map(|names| names.len())
            .map_err(|problem| problem.kind)
    }

    #[test]
    fn an_order_has_distinct_names_that_are_someones_own() {
        assert_eq!(check(&["example.test", "*.example.test"]), Ok(2));
        assert_eq!(check(&["Example.test"]), Ok(1));
        assert_eq!(check(&["xn--bcher-kva.example"]), Ok(1));
        for malformed in [
            &[][..],
            &["a.test", "A.test"],
            &["a.example.test", "*.example.test"],
            &["a.test."],
            &["bücher.example"],
            &["a b.test"],
            &["127.0.0.1"],
            &["*.*.a.test"],
            &["a_b.test"],
        ] {
            assert_eq!(check(malformed), Err(Kind::Malformed), "{malformed:?}");
        }
        for rejected in [&["test"][..], &["co.uk"], &["*.co.uk"], &["com", "net"]] {
            assert_eq!(check(rejected), Err(Kind::RejectedIdentifier), "{rejected:?}");
        }
        let many: Vec<String> = (0..101).map(|index| format!("a{index}.test")).collect();
        assert_eq!(check(&many.iter().map(String::as_str).collect::<Vec<_>>()), Err(Kind::Malformed));
    }
}
