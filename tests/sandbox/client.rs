//! A bare ACME client over which a test has every byte.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan::model::sha256;
use certplan::sandbox::Clock;
use certplan::sandbox::RecordValue;
use certplan::sandbox::Sandbox;
use certplan::sandbox::SandboxOptions;
use certplan::sandbox::ZoneRecord;
use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

/// Starts a sandbox whose options `change` has changed.
pub(crate) async fn sandbox(change: impl FnOnce(&mut SandboxOptions)) -> Sandbox {
    let mut options = SandboxOptions::default();
    change(&mut options);
    Sandbox::start(options).await.unwrap()
}

/// A clock that stands still until it is moved.
#[derive(Debug, Clone)]
pub(crate) struct StillClock(Arc<Mutex<Timestamp>>);

impl StillClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Timestamp::from_second(1_800_000_000).unwrap())))
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Clock::new(move || *time.lock().unwrap())
    }

    pub(crate) fn advance(&self, duration: Duration) {
        let mut time = self.0.lock().unwrap();
        *time = time.checked_add(duration).unwrap();
    }
}

/// An answer of the CA.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The status and the last part of the problem's type.
    pub(crate) fn problem(&self) -> (u16, String) {
        let kind = self.json()["type"].as_str().unwrap_or_default().to_owned();
        (self.status, kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default().to_owned())
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

/// What a request is signed with, for tests to spoil.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) header: Value,
    pub(crate) payload: String,
    pub(crate) signature: Option<String>,
    pub(crate) content_type: &'static str,
}

pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) directory: Value,
    key: EcdsaKeyPair,
    pub(crate) account: Option<String>,
}

impl Client {
    /// A client without an account.
    pub(crate) async fn new(sandbox: &Sandbox) -> Self {
        let roots = sandbox.roots().map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
        let http = reqwest::Client::builder()
            .tls_certs_only(roots)
            .user_agent("certplan-tests")
            .no_proxy()
            .build()
            .unwrap();
        let directory = http.get(sandbox.directory_url()).send().await.unwrap().text().await.unwrap();
        Self {
            http,
            directory: serde_json::from_str(&directory).unwrap(),
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            account: None,
        }
    }

    /// A client with an account.
    pub(crate) async fn registered(sandbox: &Sandbox) -> Self {
        let mut client = Self::new(sandbox).await;
        let answer = client.post("newAccount", json!({})).await.expect(201);
        client.account = Some(answer.header("location").to_owned());
        client
    }

    pub(crate) fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({
            "crv": "P-256",
            "kty": "EC",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        })
    }

    pub(crate) fn key_authorization(&self, token: &str) -> String {
        let jwk = self.jwk().to_string();
        format!("{token}.{}", URL_SAFE_NO_PAD.encode(sha256(jwk.as_bytes()).as_bytes()))
    }

    pub(crate) fn url(&self, resource: &str) -> String {
        match self.directory[resource].as_str() {
            Some(url) => url.to_owned(),
            None => resource.to_owned(),
        }
    }

    pub(crate) async fn nonce(&self) -> String {
        let answer = self.http.head(self.url("newNonce")).send().await.unwrap();
        answer.headers()["replay-nonce"].to_str().unwrap().to_owned()
    }

    /// Posts to a URL or a resource of the directory.
    pub(crate) async fn post(&self, resource: &str, payload: Value) -> Answer {
        self.post_spoiled(resource, payload, |_| {}).await
    }

    pub(crate) async fn get(&self, url: &str) -> Answer {
        self.post_spoiled(url, json!({}), |parts| parts.payload.clear()).await
    }

    /// Posts what `spoil` has changed before it is signed.
    pub(crate) async fn post_spoiled(
        &self,
        resource: &str,
        payload: Value,
        spoil: impl FnOnce(&mut Parts),
    ) -> Answer {
        self.try_post_spoiled(resource, payload, spoil).await.unwrap()
    }

    pub(crate) async fn try_post_spoiled(
        &self,
        resource: &str,
        payload: Value,
        spoil: impl FnOnce(&mut Parts),
    ) -> Result<Answer, reqwest::Error> {
        let url = self.url(resource);
        let mut header = json!({ "alg": "ES256", "nonce": self.nonce().await, "url": url });
        match &self.account {
            Some(account) => header["kid"] = json!(account),
            None => header["jwk"] = self.jwk(),
        }
        let mut parts = Parts {
            header,
            payload: payload.to_string(),
            signature: None,
            content_type: "application/jose+json",
        };
        spoil(&mut parts);
        let body = self.sign(&parts).to_string();
        let request = self.http.post(&url).header("content-type", parts.content_type).body(body);
        let answer = request.send().await?;
        Ok(Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            text: answer.text().await?,
        })
    }

    pub(crate) fn sign(&self, parts: &Parts) -> Value {
        let protected = URL_SAFE_NO_PAD.encode(parts.header.to_string());
        let payload = URL_SAFE_NO_PAD.encode(&parts.payload);
        let input = format!("{protected}.{payload}");
        let signature = parts.signature.clone().unwrap_or_else(|| {
            URL_SAFE_NO_PAD.encode(self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap())
        });
        json!({ "protected": protected, "payload": payload, "signature": signature })
    }

    /// An external account binding of the client's key.
    pub(crate) fn binding(&self, key_id: &str, secret: &[u8]) -> Value {
        let header = json!({ "alg": "HS256", "kid": key_id, "url": self.url("newAccount") });
        let protected = URL_SAFE_NO_PAD.encode(header.to_string());
        let payload = URL_SAFE_NO_PAD.encode(self.jwk().to_string());
        let code = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret),
            format!("{protected}.{payload}").as_bytes(),
        );
        json!({ "protected": protected, "payload": payload, "signature": URL_SAFE_NO_PAD.encode(code) })
    }

    /// Orders a certificate; the answer to newOrder.
    pub(crate) async fn order(&self, names: &[&str]) -> Answer {
        self.post("newOrder", order(names)).await
    }

    /// Publishes the DNS-01 values of an order, answers its challenges and waits for its end of being pending.
    pub(crate) async fn authorize(&self, sandbox: &Sandbox, order_url: &str) -> Value {
        let order = self.get(order_url).await.expect(200).json();
        for url in order["authorizations"].as_array().unwrap() {
            let authorization = self.get(url.as_str().unwrap()).await.expect(200).json();
            if authorization["status"] != "pending" {
                continue;
            }
            let challenge = challenge(&authorization, "dns-01");
            let token = challenge["token"].as_str().unwrap();
            let digest = sha256(self.key_authorization(token).as_bytes());
            let name = authorization["identifier"]["value"].as_str().unwrap();
            let value = RecordValue::Txt(URL_SAFE_NO_PAD.encode(digest.as_bytes()));
            sandbox.insert_record(&ZoneRecord::new(&format!("_acme-challenge.{name}"), value)).unwrap();
            self.post(challenge["url"].as_str().unwrap(), json!({})).await.expect(200);
        }
        self.poll(order_url, |order| order["status"] != "pending").await
    }

    /// Reads a resource until `ready` holds.
    pub(crate) async fn poll(&self, url: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let start = std::time::Instant::now();
        loop {
            let value = self.get(url).await.expect(200).json();
            if ready(&value) {
                return value;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "still {value}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Gets a certificate all the way; the order's URL and the chain.
    pub(crate) async fn obtain(&self, sandbox: &Sandbox, names: &[&str]) -> (String, String) {
        let order = self.order(names).await.expect(201);
        let url = order.header("location").to_owned();
        self.authorize(sandbox, &url).await;
        self.finalize(&url, &csr(names)).await.expect(200);
        let order = self.poll(&url, |order| order["status"] == "valid").await;
        let certificate = self.get(order["certificate"].as_str().unwrap()).await.expect(200);
        (url, certificate.text)
    }

    pub(crate) async fn finalize(&self, order_url: &str, csr: &[u8]) -> Answer {
        let payload = json!({ "csr": URL_SAFE_NO_PAD.encode(csr) });
        self.post(&format!("{order_url}/finalize"), payload).await
    }
}

pub(crate) fn order(names: &[&str]) -> Value {
    let identifiers: Vec<Value> = names.iter().map(|name| json!({ "type": "dns", "value": name })).collect();
    json!({ "identifiers": identifiers })
}

pub(crate) fn challenge<'a>(authorization: &'a Value, kind: &str) -> &'a Value {
    let challenges = authorization["challenges"].as_array().unwrap();
    challenges.iter().find(|challenge| challenge["type"] == kind).unwrap()
}

/// A request by a new key.
pub(crate) fn csr(names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
}
