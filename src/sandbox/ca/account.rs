//! Accounts: [RFC 8555, section 7.3](https://www.rfc-editor.org/rfc/rfc8555#section-7.3).

use http::StatusCode;
use http::header;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use super::super::Event;
use super::Ca;
use super::jws::Jwk;
use super::jws::Jws;
use super::problem::Kind;
use super::problem::Problem;
use super::server::Body;
use super::server::Reply;
use super::server::Signed;
use super::server::deactivated;
use super::store::Account;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewAccount {
    #[serde(default)]
    contact: Vec<String>,
    #[serde(default)]
    terms_of_service_agreed: bool,
    #[serde(default)]
    only_return_existing: bool,
    external_account_binding: Option<Value>,
}

#[derive(Deserialize)]
struct AccountUpdate {
    contact: Option<Vec<String>>,
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyChange {
    account: String,
    old_key: Value,
}

impl Ca {
    pub(super) fn new_account(&self, signed: &Signed) -> Result<Reply, Problem> {
        let key = signed.key()?;
        let request: NewAccount = signed.jws.json()?;
        let thumbprint = key.thumbprint();
        let existing = self.store().account_of_key(&thumbprint);
        if let Some(id) = existing {
            return self.existing_account(id);
        }
        if request.only_return_existing {
            return Err(Problem::new(Kind::AccountDoesNotExist, "there is no account with this key"));
        }
        if let Some(terms) = &self.options.terms_of_service
            && !request.terms_of_service_agreed
        {
            return Err(Problem::malformed(format!("an account has to agree to the terms at {terms}")));
        }
        check_contact(&request.contact)?;
        let eab_key_id = match &request.external_account_binding {
            Some(binding) => Some(self.check_binding(binding, key, signed.jws.protected.url.as_deref())?),
            None if self.options.eab_required => {
                return Err(Problem::new(
                    Kind::ExternalAccountRequired,
                    "an account needs an external account binding here",
                ));
            }
            None => None,
        };
        let mut store = self.store();
        // Another request may have been faster with the same key or binding.
        if let Some(id) = store.account_of_key(&thumbprint) {
            drop(store);
            return self.existing_account(id);
        }
        if let Some(used) =
            eab_key_id.as_ref().filter(|key_id| store.kept.used_eab_keys.contains_key(*key_id))
        {
            return Err(used_binding(used));
        }
        let account = Account {
            key: key.clone(),
            contact: request.contact,
            is_deactivated: false,
            eab_key_id,
            binding: request.external_account_binding,
        };
        let body = document(&account);
        let (contact, eab_key_id) = (account.contact.clone(), account.eab_key_id.clone());
        let id = store.add_account(account);
        self.ledger.record(Event::AccountCreated {
            account: self.account_url(id),
            contact,
            eab_key_id,
            thumbprint,
        });
        drop(store);
        Ok(Reply::new(StatusCode::CREATED, Body::Json(body)).with(header::LOCATION, self.account_url(id)))
    }

    fn existing_account(&self, id: u64) -> Result<Reply, Problem> {
        let store = self.store();
        let Some(account) = store.kept.accounts.get(&id) else {
            return Err(Problem::new(Kind::AccountDoesNotExist, "there is no account with this key"));
        };
        if account.is_deactivated {
            return Err(deactivated());
        }
        Ok(Reply::ok(document(account)).with(header::LOCATION, self.account_url(id)))
    }

    /// Checks an external account binding; the identifier of its key.
    fn check_binding(&self, binding: &Value, key: &Jwk, url: Option<&str>) -> Result<String, Problem> {
        let inner = Jws::from_value(binding)?;
        let Some(key_id) = inner.protected.kid.clone() else {
            return Err(Problem::malformed("the external account binding has no `kid`"));
        };
        if inner.protected.nonce.is_some() {
            return Err(Problem::malformed("the external account binding has a nonce"));
        }
        if inner.protected.url.as_deref() != url {
            return Err(Problem::malformed("the external account binding is for another URL"));
        }
        let Some(secret) = self.eab_keys.get(&key_id) else {
            return Err(Problem::unauthorized("the external account key is not known"));
        };
        inner.verify_hmac(secret)?;
        if Jwk::from_value(&inner.json()?)? != *key {
            return Err(Problem::malformed("the external account binding is for another account key"));
        }
        if self.store().kept.used_eab_keys.contains_key(&key_id) {
            return Err(used_binding(&key_id));
        }
        Ok(key_id)
    }

    /// Reads, updates or deactivates an account.
    pub(super) fn account(&self, id: u64, signed: &Signed) -> Result<Reply, Problem> {
        let (signer, _) = signed.account()?;
        if signer != id {
            return Err(Problem::unauthorized("the request is signed by another account"));
        }
        let update = if signed.jws.payload.is_empty() {
            AccountUpdate { contact: None, status: None }
        } else {
            signed.jws.json()?
        };
        if let Some(contact) = &update.contact {
            check_contact(contact)?;
        }
        let mut store = self.store();
        let Some(account) = store.kept.accounts.get_mut(&id) else {
            return Err(Problem::new(Kind::AccountDoesNotExist, "there is no such account"));
        };
        match update.status.as_deref() {
            Some("deactivated") => {
                account.is_deactivated = true;
                self.ledger.record(Event::AccountDeactivated { account: self.account_url(id) });
            }
            Some("valid") | None => {
                if let Some(contact) = update.contact
                    && contact != account.contact
                {
                    account.contact.clone_from(&contact);
                    self.ledger.record(Event::AccountUpdated { account: self.account_url(id), contact });
                }
            }
            Some(_) => return Err(Problem::malformed("an account's status can become `deactivated` only")),
        }
        Ok(Reply::ok(document(account)))
    }

    /// Changes an account's key: [RFC 8555, section 7.3.5](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.5).
    pub(super) fn key_change(&self, signed: &Signed) -> Result<Reply, Problem> {
        let (id, old_key) = signed.account()?;
        let inner = Jws::from_value(&signed.jws.json()?)?;
        let Some(new_key) = &inner.protected.jwk else {
            return Err(Problem::malformed("the inner JWS has no `jwk`"));
        };
        let new_key = Jwk::from_value(new_key)?;
        inner.verify(&new_key)?;
        if inner.protected.url != signed.jws.protected.url || inner.protected.nonce.is_some() {
            return Err(Problem::malformed("the inner JWS has the URL of the outer one, and no nonce"));
        }
        let change: KeyChange = inner.json()?;
        if change.account != self.account_url(id) || Jwk::from_value(&change.old_key)? != *old_key {
            return Err(Problem::malformed("the inner JWS is about another account or old key"));
        }
        let mut store = self.store();
        let thumbprint = new_key.thumbprint();
        if let Some(holder) = store.account_of_key(&thumbprint) {
            let mut problem =
                Problem::malformed("an account has that key already").with_status(StatusCode::CONFLICT);
            problem.location = Some(self.account_url(holder));
            return Err(problem);
        }
        store.change_key(id, new_key);
        self.ledger.record(Event::AccountKeyChanged { account: self.account_url(id), thumbprint });
        match store.kept.accounts.get(&id) {
            Some(account) => Ok(Reply::ok(document(account))),
            None => Err(Problem::new(Kind::AccountDoesNotExist, "there is no such account")),
        }
    }
}

fn used_binding(key_id: &str) -> Problem {
    Problem::unauthorized(format!("the external account key `{}` was used before", key_id.escape_debug()))
}

fn document(account: &Account) -> Value {
    let mut document = json!({
        "status": if account.is_deactivated { "deactivated" } else { "valid" },
        "contact": account.contact,
    });
    if let Some(binding) = &account.binding {
        document["externalAccountBinding"] = binding.clone();
    }
    document
}

/// Contacts are one mail address each ([RFC 8555, section 7.3](https://www.rfc-editor.org/rfc/rfc8555#section-7.3)).
fn check_contact(contact: &[String]) -> Result<(), Problem> {
    if contact.len() > 10 {
        return Err(Problem::malformed("an account has at most ten contacts"));
    }
    for url in contact {
        let Some(address) = url.strip_prefix("mailto:") else {
            return Err(Problem::new(Kind::UnsupportedContact, "contacts are `mailto:` URLs"));
        };
        let is_address = address.is_ascii()
            && !address.contains([',', '?', ' '])
            && !address.chars().any(char::is_control)
            && address.split_once('@').is_some_and(|(local, domain)| {
                !local.is_empty() && !domain.is_empty() && !domain.contains('@')
            });
        if !is_address {
            return Err(Problem::new(
                Kind::InvalidContact,
                "a contact is one mail address without parameters",
            ));
        }
    }
    Ok(())
}
