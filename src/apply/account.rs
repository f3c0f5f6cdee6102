//! The account of an issuer: created once, in a way that survives a crash at any point.
//!
//! The sealed key is persisted first; `onlyReturnExisting` comes before any retry, because an external account
//! binding may be usable only once
//! ([RFC 8555, sections 7.3.1 and 7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.1)).

use crate::acme::AccountKey;
use crate::acme::AcmeClient;
use crate::acme::EabCredential;
use crate::acme::Session;
use crate::model::AccountOperation;
use crate::model::AccountRecord;
use crate::model::AcmeIssuer;
use crate::model::Address;
use crate::model::KeyType;
use crate::model::Name;
use crate::state::LeaseKey;
use crate::state::Place;
use crate::state::Revise;
use crate::state::Stored;

use super::Apply;
use super::error::ApplyError;
use super::event::Step;

impl Apply {
    /// Returns a session of the issuer's account, which is created when there is none. Once per run and issuer.
    pub(super) async fn session(&self, issuer: &Name) -> Result<Session, ApplyError> {
        let slot =
            self.sessions.get(issuer).ok_or_else(|| ApplyError::UnknownIssuer { issuer: issuer.clone() })?;
        let session = slot.get_or_try_init(|| self.open_session(issuer)).await?;
        Ok(session.clone())
    }

    async fn open_session(&self, issuer: &Name) -> Result<Session, ApplyError> {
        let (client, acme) = self.issuer(issuer)?;
        let place = self.place(Address::Account(issuer.clone()))?;
        if let Some(stored) = self.state.account(issuer).await?
            && stored.content.directory == acme.directory.as_str()
            && let Some(url) = &stored.content.url
        {
            let key = AccountKey::from_pkcs8(&self.sealer()?.open(&place, &stored.content.key)?)?;
            return Ok(client.session(&key, url)?);
        }
        let lease = self.leases.acquire(&LeaseKey::for_account(issuer), self.options.lock_timeout).await?;
        let opened = self.create_account(issuer, client, acme, &place).await;
        if let Err(error) = lease.release().await {
            tracing::debug!(%error, %issuer, "lease not released");
        }
        let (key, url) = opened?;
        self.step(Address::Account(issuer.clone()), Step::AccountReady);
        Ok(client.session(&key, &url)?)
    }

    async fn create_account(
        &self,
        issuer: &Name,
        client: &AcmeClient,
        acme: &AcmeIssuer,
        place: &Place,
    ) -> Result<(AccountKey, String), ApplyError> {
        let mut stored = self.journaled_key(issuer, acme, place).await?;
        let key = AccountKey::from_pkcs8(&self.sealer()?.open(place, &stored.content.key)?)?;
        if let Some(url) = stored.content.url.clone() {
            return Ok((key, url));
        }
        // What an interrupted run or another client has created is found, not created again.
        let resumed = stored.content.operation.as_ref().is_some_and(|operation| operation.sent);
        let found =
            if resumed || acme.account_key.is_some() { client.find_account(&key).await? } else { None };
        let url = match found {
            Some(url) => url,
            None => {
                if let Some(operation) = &mut stored.content.operation
                    && !operation.sent
                {
                    operation.sent = true;
                    self.state.save_account(issuer, &mut stored, Revise::Keep).await?;
                }
                let eab = match &acme.eab {
                    Some(eab) => Some(EabCredential {
                        key_id: self.secrets.resolve(&eab.key_id)?.expose().to_owned(),
                        hmac_key: self.secrets.resolve(&eab.hmac_key)?,
                    }),
                    None => None,
                };
                client.create_account(&key, &acme.contact, eab.as_ref()).await?
            }
        };
        stored.content.url = Some(url.clone());
        stored.content.contact.clone_from(&acme.contact);
        stored.content.operation = None;
        self.state.save_account(issuer, &mut stored, Revise::Bump).await?;
        Ok((key, url))
    }

    /// Returns the account's record with a key that is persisted: that of an interrupted creation, or a new one.
    async fn journaled_key(
        &self,
        issuer: &Name,
        acme: &AcmeIssuer,
        place: &Place,
    ) -> Result<Stored<AccountRecord>, ApplyError> {
        let existing = self.state.account(issuer).await?;
        if let Some(stored) = &existing
            && stored.content.directory == acme.directory.as_str()
        {
            return Ok(existing.expect("it was just matched"));
        }
        let key = match &acme.account_key {
            Some(reference) => AccountKey::from_pem(self.secrets.resolve(reference)?.expose())?,
            None => AccountKey::generate()?,
        };
        let sealed =
            self.sealer()?.seal_account_key(place, KeyType::EcdsaP256, key.spki()?, &key.to_pkcs8()?)?;
        let record = AccountRecord {
            directory: acme.directory.to_string(),
            url: None,
            key: sealed,
            contact: Vec::new(),
            operation: Some(AccountOperation { id: (self.random_id)(), started: self.now(), sent: false }),
            retired: Vec::new(),
        };
        let mut stored = match existing {
            // The issuer moved to another directory: the account there is kept, for nothing is lost.
            Some(mut stored) => {
                let mut old = std::mem::replace(&mut stored.content, record);
                stored.content.retired.append(&mut old.retired);
                let again = stored
                    .content
                    .retired
                    .iter()
                    .position(|retired| retired.directory == acme.directory.as_str());
                if let Some(position) = again {
                    let mut known = stored.content.retired.swap_remove(position);
                    known.retired = std::mem::take(&mut stored.content.retired);
                    stored.content = known;
                }
                stored.content.retired.push(old);
                stored
            }
            None => Stored::new(record),
        };
        self.state.save_account(issuer, &mut stored, Revise::Bump).await?;
        Ok(stored)
    }
}
