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
    /// With `preferred`, the common name of a root or an intermediate, it is the first chain that holds it, among the
    /// CA's own and its alternates ([RFC 8555, section 7.4.2](https://www.rfc-editor.org/rfc/rfc8555#section-7.4.2)).
    /// Where none does it is the CA's own, with a warning: a certificate with another chain serves better than none.
    ///
    /// # Errors
    /// [`AcmeError::Malformed`] when the order has no certificate, or the document is no text.
    pub async fn chains(&self, order: &Order, preferred: Option<&str>) -> Result<Chain, AcmeError> {
        let url = order.certificate.as_deref().ok_or_else(|| AcmeError::Malformed {
            request: format!("`POST {}`", order.url),
            reason: "the order has no certificate".to_owned(),
            order: Some(order.url.clone()),
        })?;
        let (default, alternates) = self.download(url).await?;
        let Some(preferred) = preferred else { return Ok(default) };
        let mut offered = authorities(&default.pem);
        if offered.iter().any(|name| name == preferred) {
            return Ok(default);
        }
        let mut warnings = Vec::new();
        for alternate in alternates.into_iter().take(MOST) {
            match self.download(&alternate).await {
                Ok((chain, _)) => {
                    let names = authorities(&chain.pem);
                    if names.iter().any(|name| name == preferred) {
                        return Ok(Chain { warnings, ..chain });
                    }
                    offered.extend(names);
                }
                Err(AcmeError::Cancelled) => return Err(AcmeError::Cancelled),
                Err(error) => warnings.push(format!("an alternate chain cannot be fetched: {error}")),
            }
        }
        offered.sort();
        offered.dedup();
        let offered: Vec<String> = offered.iter().map(|name| certplan_http::printable(name, 100)).collect();
        warnings.push(format!(
            "the CA offers no chain with `{preferred}`, and its own is used; it offers `{}`",
            offered.join("`, `")
        ));
        Ok(Chain { warnings, ..default })
    }

    async fn download(&self, url: &str) -> Result<(Chain, Vec<String>), AcmeError> {
        let response = self.post(url, None).await?;
        let pem = String::from_utf8(response.body.to_vec())
            .map_err(|_| AcmeError::malformed(&response, "the chain is no text"))?;
        let chain = Chain { pem, url: url.to_owned(), warnings: Vec::new() };
        Ok((chain, links(&response, "alternate")))
    }
}
