use std::fmt;

use bytes::Bytes;
use certplan_provider::ProviderError;
use certplan_provider::Secret;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header::ACCEPT;
use http::header::AUTHORIZATION;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use url::Url;

/// A request, built once and sent as often as its class allows.
#[derive(Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) secrets: Vec<Secret>,
}

impl Request {
    /// The method.
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// A request without headers and body.
    pub fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new(), secrets: Vec::new() }
    }

    /// A `GET`.
    pub fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    /// Adds a header; one of the same name is replaced.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Adds a header whose value is a secret: it is marked as sensitive and never quoted from an answer.
    ///
    /// # Errors
    /// [`ProviderError::Auth`] when the secret cannot be a header's value, as one with a line break cannot.
    pub fn secret_header(mut self, name: HeaderName, secret: &Secret) -> Result<Self, ProviderError> {
        let value = sensitive(secret.expose())?;
        self.headers.insert(name, value);
        self.secrets.push(secret.clone());
        Ok(self)
    }

    /// Adds `Authorization: Bearer`, with the errors of [`secret_header`](Self::secret_header).
    pub fn bearer(mut self, token: &Secret) -> Result<Self, ProviderError> {
        let value = sensitive(&format!("Bearer {}", token.expose()))?;
        self.headers.insert(AUTHORIZATION, value);
        self.secrets.push(token.clone());
        Ok(self)
    }

    /// Names a secret that the request holds elsewhere, in its body or path: it is never quoted from an answer.
    pub fn concealing(mut self, secret: &Secret) -> Self {
        self.secrets.push(secret.clone());
        self
    }

    /// Sets the body and its type.
    pub fn body(mut self, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        self.headers.insert(CONTENT_TYPE, content_type);
        self.body = body.into();
        self
    }

    /// Sets a JSON body, and asks for JSON.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when the value has no JSON form.
    pub fn json(self, value: &impl Serialize) -> Result<Self, ProviderError> {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        let body = serde_json::to_vec(value).map_err(|error| {
            ProviderError::invalid("the request cannot be written as JSON").with_source(error)
        })?;
        Ok(self.header(ACCEPT, JSON).body(JSON, body))
    }

    /// The URL.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Method and URL for messages: without credentials, query and fragment, where secrets live.
    pub fn target(&self) -> String {
        let mut url = self.url.clone();
        // These fail only for URLs that can have no credentials.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        let mut target = format!("`{} {}`", self.method, crate::text::printable(url.as_str(), 200));
        for secret in &self.secrets {
            if !secret.expose().is_empty() {
                target = target.replace(secret.expose(), "[secret]");
            }
        }
        target
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({})", self.target())
    }
}

fn sensitive(text: &str) -> Result<HeaderValue, ProviderError> {
    // The library's error says nothing about the value.
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| ProviderError::auth("the credential holds characters that no HTTP header can hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_target_hold_no_secret() {
        let secret = Secret::new("s3cr3t-token".to_owned());
        let url =
            Url::parse("https://user:s3cr3t-token@dns.example/zones/s3cr3t-token?key=s3cr3t-token").unwrap();
        let request = Request::get(url).bearer(&secret).unwrap();
        for text in [request.target(), format!("{request:?}"), format!("{:?}", request.headers)] {
            assert!(!text.contains("s3cr3t"), "{text}");
        }
        assert_eq!(request.target(), "`GET https://dns.example/zones/[secret]`");
    }

    #[test]
    fn a_secret_with_a_line_break_is_refused_without_being_quoted() {
        let error = Request::get(Url::parse("http://a/").unwrap())
            .bearer(&Secret::new("tok\nen".to_owned()))
            .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("tok"), "{error:?}");
    }
}
