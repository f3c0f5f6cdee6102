//! The account of an issuer: created once, in a way that survives a crash at any point.
//!
//! The sealed key is persisted first; `onlyReturnExisting` comes before any retry, because an external account
//! binding may be usable only once
//! ([RFC 8555, sections 7.3.1 and 7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.1)).

use std::sync::Arc;

use crate::acme::AccountKey;
use crate::acme::AcmeClient;
use crate::acme::AcmeError;
use crate::acme::EabCredential;
use crate::acme::Session;
use crate::model::AccountOperation;
use crate::model::AccountRecord;
use crate::model::AcmeIssuer;
use crate::model::Address;
use crate::model::Name;
use crate::model::Operation;
use crate::model::SealedKey;
use crate::state::LeaseKey;
use crate::state::Place;
use crate::state::Revise;
use crate::state::Stored;

use super::Apply;
use super::error::ApplyError;
use super::event::Event;
use super::event::Step;

impl Apply {
    /// Returns a session of the issuer's account, which is created when there is none. Once per run and issuer.
    pub(super) async fn session(&self, issuer: &Name) -> Result<Session, ApplyError> {
        let slot =
            self.sessions.get(issuer).ok_or_else(|| ApplyError::UnknownIssuer { issuer: issuer.clone() })?;
        let session = slot.get_or_try_init(|| self.open_session(issuer)).await?;
        Ok(session.clone())
    }

    /// Returns a session of the account that made the operation's order, which is not that of `session` when another was
    /// taken over meanwhile: a CA shows an order to its own account only. `None` when that account is not known any
    /// more, and the order with it.
    pub(super) async fn owner_of(
        &self,
        operation: &Operation,
        session: &Session,
    ) -> Result<Option<Session>, ApplyError> {
        let owner = operation.account.as_ref().filter(|_| operation.order_url.is_some());
        let Some(url) = owner.filter(|url| *url != session.account_url()) else {
            return Ok(Some(session.clone()));
        };
        let stored = self.state.account(&operation.issuer).await?;
        // The one in use as well: it may have come back since this run opened its session.
        let known =
            stored.iter().flat_map(|stored| std::iter::once(&stored.content).chain(&stored.content.retired));
        let mut owners =
            known.filter(|known| known.url.as_ref() == Some(url) && known.directory == operation.directory);
        let Some(owner) = owners.next() else { return Ok(None) };
        let (client, _) = self.issuer(&operation.issuer)?;
        let place = self.place(Address::Account(operation.issuer.clone()))?;
        let key = self.account_key(&place, &owner.key)?;
        Ok(Some(client.session(&key, url)?))
    }

    async fn open_session(&self, issuer: &Name) -> Result<Session, ApplyError> {
        let (client, acme) = self.issuer(issuer)?;
        let place = self.place(Address::Account(issuer.clone()))?;
        if let Some(stored) = self.state.account(issuer).await?
            && stored.content.directory == acme.directory.as_str()
            && let Some(url) = &stored.content.url
        {
            let key = self.account_key(&place, &stored.content.key)?;
            return Ok(client.session(&key, url)?);
        }
        let lease = self.lease(&LeaseKey::for_account(issuer), &Address::Account(issuer.clone())).await?;
        let opened = self.create_account(issuer, client, acme, &place).await;
        if let Err(error) = lease.release().await {
            tracing::debug!(%error, %issuer, "lease not released");
        }
        let (key, url) = opened?;
        self.step(Address::Account(issuer.clone()), Step::AccountReady);
        Ok(client.session(&key, &url)?)
    }

    /// Brings an account that is in use to what the configuration says. What fails leaves the account usable as it was, and
    /// is planned again.
    pub(super) async fn update_account(&self, issuer: &Name) -> Result<(), ApplyError> {
        let (client, acme) = self.issuer(issuer)?;
        let place = self.place(Address::Account(issuer.clone()))?;
        let lease = self.lease(&LeaseKey::for_account(issuer), &Address::Account(issuer.clone())).await?;
        let updated = self.change_account(issuer, client, acme, &place).await;
        if let Err(error) = lease.release().await {
            tracing::debug!(%error, %issuer, "lease not released");
        }
        updated?;
        self.step(Address::Account(issuer.clone()), Step::AccountUpdated);
        Ok(())
    }

    async fn change_account(
        &self,
        issuer: &Name,
        client: &Arc<AcmeClient>,
        acme: &AcmeIssuer,
        place: &Place,
    ) -> Result<(), ApplyError> {
        let Some(mut stored) = self.state.account(issuer).await? else { return Ok(()) };
        if stored.content.directory != acme.directory.as_str() {
            return Ok(());
        }
        if acme.names_other_key(&stored.content) {
            self.take_over(issuer, client, acme, place, &mut stored).await?;
        }
        let Some(url) = stored.content.url.clone() else { return Ok(()) };
        if acme.has_other_contact(&stored.content) {
            let key = self.account_key(place, &stored.content.key)?;
            client.session(&key, &url)?.update_contact(&acme.contact).await?;
            stored.content.contact.clone_from(&acme.contact);
            self.state.save_account(issuer, &mut stored, Revise::Bump).await?;
        }
        Ok(())
    }

    /// Puts the account of the configured key in the place of the one in use. Nothing is created at the CA, so that a
    /// key that is not there yet leaves certificates with the account that works.
    async fn take_over(
        &self,
        issuer: &Name,
        client: &AcmeClient,
        acme: &AcmeIssuer,
        place: &Place,
        stored: &mut Stored<AccountRecord>,
    ) -> Result<(), ApplyError> {
        let Some(key) = self.configured_key(acme)? else { return Ok(()) };
        if key.spki()? != stored.content.key.spki {
            let url = client
                .find_account(&key)
                .await?
                .ok_or_else(|| ApplyError::NoAccountOfKey { issuer: issuer.clone() })?;
            let mut taken = self.account_record(acme, &key, place)?;
            taken.url = Some(url);
            taken.operation = None;
            retire(&mut stored.content, taken);
        }
        stored.content.key_source.clone_from(&acme.account_key);
        self.state.save_account(issuer, stored, Revise::Bump).await?;
        Ok(())
    }

    async fn create_account(
        &self,
        issuer: &Name,
        client: &Arc<AcmeClient>,
        acme: &AcmeIssuer,
        place: &Place,
    ) -> Result<(AccountKey, String), ApplyError> {
        let mut stored = self.journaled_key(issuer, acme, place).await?;
        let key = self.account_key(place, &stored.content.key)?;
        // What an interrupted run or another client has created is found, not created again.
        let resumed = stored.content.operation.as_ref().is_some_and(|operation| operation.sent);
        let found = match &stored.content.url {
            Some(url) => Some(url.clone()),
            None if resumed || acme.account_key.is_some() => client.find_account(&key).await?,
            None => None,
        };
        let url = match found {
            Some(url) => {
                self.tell_contact(issuer, &client.session(&key, &url)?, acme, &mut stored.content).await?;
                url
            }
            None => {
                let url = self.register(issuer, client, acme, &key, &mut stored).await?;
                stored.content.contact.clone_from(&acme.contact);
                url
            }
        };
        stored.content.url = Some(url.clone());
        stored.content.operation = None;
        self.state.save_account(issuer, &mut stored, Revise::Bump).await?;
        Ok((key, url))
    }

    async fn register(
        &self,
        issuer: &Name,
        client: &AcmeClient,
        acme: &AcmeIssuer,
        key: &AccountKey,
        stored: &mut Stored<AccountRecord>,
    ) -> Result<String, ApplyError> {
        if let Some(operation) = &mut stored.content.operation
            && !operation.sent
        {
            operation.sent = true;
            self.state.save_account(issuer, stored, Revise::Keep).await?;
        }
        let eab = match &acme.eab {
            Some(eab) => Some(EabCredential {
                key_id: self.secrets.resolve(&eab.key_id)?.expose().trim().to_owned(),
                hmac_key: self.secrets.resolve(&eab.hmac_key)?,
            }),
            None => None,
        };
        Ok(client.create_account(key, &acme.contact, eab.as_ref()).await?)
    }

    /// Tells the CA the contacts of an account that was there before, which may have others, or none. It is used all the
    /// same if the CA refuses them.
    async fn tell_contact(
        &self,
        issuer: &Name,
        session: &Session,
        acme: &AcmeIssuer,
        account: &mut AccountRecord,
    ) -> Result<(), ApplyError> {
        if !acme.has_other_contact(account) {
            return Ok(());
        }
        match session.update_contact(&acme.contact).await {
            Ok(()) => account.contact.clone_from(&acme.contact),
            Err(AcmeError::Cancelled) => return Err(AcmeError::Cancelled.into()),
            Err(error) => self.reporter.report(Event::Warning {
                address: Address::Account(issuer.clone()),
                message: format!("the CA does not take the contacts: {error}"),
            }),
        }
        Ok(())
    }

    /// Returns the account's record with a key that is persisted: that of an interrupted creation, or a new one.
    async fn journaled_key(
        &self,
        issuer: &Name,
        acme: &AcmeIssuer,
        place: &Place,
    ) -> Result<Stored<AccountRecord>, ApplyError> {
        let existing = self.state.account(issuer).await?;
        let here = existing.as_ref().filter(|stored| stored.content.directory == acme.directory.as_str());
        if let Some(stored) = here.filter(|stored| stored.content.url.is_some()) {
            return Ok(stored.clone());
        }
        let configured = self.configured_key(acme)?;
        if let Some(stored) = here {
            // An account that nobody has seen yet is begun anew when the configuration names another key by now.
            let same_key = match &configured {
                Some(key) => key.spki()? == stored.content.key.spki,
                None => stored.content.key_source.is_none(),
            };
            if same_key {
                return Ok(stored.clone());
            }
        }
        let new_key = || configured.map_or_else(AccountKey::generate, Ok);
        let mut stored = match existing {
            // The issuer moved to another directory: the account there is kept, for nothing is lost.
            Some(mut stored) => {
                let known = stored.content.retired.iter().rposition(|retired| {
                    retired.directory == acme.directory.as_str()
                        && retired.url.is_some()
                        && !acme.names_other_key(retired)
                });
                let next = match known {
                    Some(position) => stored.content.retired.remove(position),
                    None => self.account_record(acme, &new_key()?, place)?,
                };
                retire(&mut stored.content, next);
                stored
            }
            None => Stored::new(self.account_record(acme, &new_key()?, place)?),
        };
        self.state.save_account(issuer, &mut stored, Revise::Bump).await?;
        Ok(stored)
    }

    fn account_key(&self, place: &Place, sealed: &SealedKey) -> Result<AccountKey, ApplyError> {
        Ok(AccountKey::from_pkcs8(&self.sealer()?.open(place, sealed)?)?)
    }

    /// The key that the configuration names, if it names one.
    fn configured_key(&self, acme: &AcmeIssuer) -> Result<Option<AccountKey>, ApplyError> {
        let Some(reference) = &acme.account_key else { return Ok(None) };
        Ok(Some(AccountKey::from_text(self.secrets.resolve(reference)?.expose())?))
    }

    /// An account that is yet to be created, or found.
    fn account_record(
        &self,
        acme: &AcmeIssuer,
        key: &AccountKey,
        place: &Place,
    ) -> Result<AccountRecord, ApplyError> {
        let sealed = self.sealer()?.seal_account_key(place, key.key_type(), key.spki()?, &key.to_pkcs8()?)?;
        Ok(AccountRecord {
            directory: acme.directory.to_string(),
            url: None,
            key: sealed,
            contact: Vec::new(),
            key_source: acme.account_key.clone(),
            operation: Some(AccountOperation { id: (self.random_id)(), started: self.now(), sent: false }),
            retired: Vec::new(),
        })
    }
}

/// Makes `next` the account in use, and keeps the one before it: once, and only if it may exist.
fn retire(account: &mut AccountRecord, next: AccountRecord) {
    let mut before = std::mem::replace(account, next);
    let mut retired = std::mem::take(&mut before.retired);
    let same = |a: &AccountRecord, b: &AccountRecord| a.key.spki == b.key.spki && a.directory == b.directory;
    retired.retain(|known| !same(known, account) && !same(known, &before));
    let may_exist = before.url.is_some() || before.operation.as_ref().is_some_and(|operation| operation.sent);
    if may_exist && !same(&before, account) {
        retired.push(before);
    }
    account.retired = retired;
}
