use std::collections::BTreeSet;

use super::chain::ChainError;
use super::chain::authorities;
use super::error::AcmeError;
use super::error::links;
use super::order::Order;
use super::session::Session;

/// How many alternate chains are looked at.
const MOST: usize = 10;

/// A certificate with its chain, as the CA delivered it; [`check_chain`](super::check_chain) judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chain {
    /// The PEM document.
    pub pem: String,
    /// Where it came from.
    pub url: String,
    /// What the user should know: the preferred chain is not offered, or an alternate could not be fetched.
    pub warnings: Vec<String>,
}

impl Session {
    /// Downloads the certificate of a valid order.
    ///
    /// With `preferred`, the common name of a root or an intermediate, it is the first chain that holds it and that
    /// `check` takes, among the CA's own and its alternates
    /// ([RFC 8555, section 7.4.2](https://www.rfc-editor.org/rfc/rfc8555#section-7.4.2)). Where none does it is the CA's
    /// own, with a warning: a certificate with another chain serves better than none. Where `check` does not even take
    /// that, it is the first that it takes; and the CA's own if it takes none.
    ///
    /// # Errors
    /// [`AcmeError::Malformed`] when the order has no certificate, or the document is no text.
    pub async fn chains(
        &self,
        order: &Order,
        preferred: Option<&str>,
        check: impl Fn(&str) -> Result<(), ChainError>,
    ) -> Result<Chain, AcmeError> {
        let url = order.certificate.as_deref().ok_or_else(|| AcmeError::Malformed {
            request: format!("`POST {}`", order.url),
            reason: "the order has no certificate".to_owned(),
            order: Some(order.url.clone()),
        })?;
        let (own, alternates) = self.download(url).await?;
        let mut candidates = vec![Candidate::new(own, &check)];
        let mut warnings = Vec::new();
        for alternate in alternates.into_iter().take(MOST) {
            if candidates
                .last()
                .is_some_and(|candidate| candidate.fault.is_none() && candidate.holds(preferred))
            {
                break;
            }
            match self.download(&alternate).await {
                Ok((chain, _)) => candidates.push(Candidate::new(chain, &check)),
                Err(AcmeError::Cancelled) => return Err(AcmeError::Cancelled),
                Err(error) => warnings.push(format!("an alternate chain cannot be fetched: {error}")),
            }
        }
        let which =
            preferred.map_or_else(|| "its own chain".to_owned(), |name| format!("the chain with `{name}`"));
        for candidate in candidates.iter().filter(|candidate| candidate.holds(preferred)) {
            if let Some(fault) = &candidate.fault {
                warnings.push(format!("the CA delivers {which} so that it cannot be used: {fault}"));
            }
        }
        if !candidates.iter().any(|candidate| candidate.holds(preferred)) {
            let offered: BTreeSet<&str> =
                candidates.iter().flat_map(|candidate| &candidate.authorities).map(String::as_str).collect();
            let offered: Vec<String> =
                offered.iter().map(|name| certplan_http::printable(name, 100)).collect();
            warnings.push(format!(
                "the CA does not offer {which}, and another is used; it offers `{}`",
                offered.join("`, `")
            ));
        }
        let usable = |candidate: &Candidate| candidate.fault.is_none();
        let chosen = candidates
            .iter()
            .position(|candidate| usable(candidate) && candidate.holds(preferred))
            .or_else(|| candidates.iter().position(usable))
            .unwrap_or_default();
        Ok(Chain { warnings, ..candidates.swap_remove(chosen).chain })
    }

    async fn download(&self, url: &str) -> Result<(Chain, Vec<String>), AcmeError> {
        let response = self.post(url, None).await?;
        let pem = String::from_utf8(response.body.to_vec())
            .map_err(|_| AcmeError::malformed(&response, "the chain is no text"))?;
        let chain = Chain { pem, url: url.to_owned(), warnings: Vec::new() };
        Ok((chain, links(&response, "alternate")))
    }
}

/// A chain that the CA delivers.
struct Candidate {
    chain: Chain,
    authorities: Vec<String>,
    fault: Option<ChainError>,
}

impl Candidate {
    fn new(chain: Chain, check: &impl Fn(&str) -> Result<(), ChainError>) -> Self {
        Self { authorities: authorities(&chain.pem), fault: check(&chain.pem).err(), chain }
    }

    fn holds(&self, preferred: Option<&str>) -> bool {
        preferred.is_none_or(|preferred| self.authorities.iter().any(|name| name == preferred))
    }
}
