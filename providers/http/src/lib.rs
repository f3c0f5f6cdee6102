//! One HTTP client for every provider and for ACME.
//!
//! [`HttpClient`] sends a [`Request`] and returns a [`Response`], whole and bounded:
//!
//! - connecting, each read and the whole exchange have timeouts; a [`Context`](certplan_provider::Context) bounds
//!   them further;
//! - bodies are capped after decompression, and reading stops at the cap, so that a compressed bomb costs nothing;
//! - redirects are not followed, or stay on the origin when [`ClientSettings::redirects`] says so;
//! - the system's roots are trusted, and those of [`ClientSettings::ca_bundle`] beside them;
//! - proxies come from `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`;
//! - `Retry-After` is understood in both forms and bounded;
//! - what may be repeated is repeated, with jitter, within the context's deadline ([`RetryClass`]);
//! - errors become [`ProviderError`](certplan_provider::ProviderError)s whose messages quote bodies in short, without
//!   control characters and without the secrets of the request.
//!
//! ```no_run
//! # use certplan_http::{ClientSettings, HttpClient, Request, RetryClass};
//! # use certplan_provider::{Context, ProviderError, Secret};
//! # async fn zones(context: &Context, token: &Secret, url: url::Url) -> Result<Vec<String>, ProviderError> {
//! let client = HttpClient::new(&ClientSettings::default())?;
//! let request = Request::get(url).bearer(token)?;
//! client.send(context, &request, RetryClass::Idempotent).await?.check("listing zones")?.json()
//! # }
//! ```

mod client;
mod error;
mod proxy;
mod request;
mod response;
mod retry;
mod text;

pub use client::{ClientSettings, HttpClient, ProxySource, Redirects};
pub use error::HttpError;
pub use request::Request;
pub use response::Response;
pub use retry::{Jitter, RetryClass, RetryPolicy};
pub use text::printable;
