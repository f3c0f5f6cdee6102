//! How names are validated.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan::model::sha256;
use certplan::sandbox::RecordValue;
use certplan::sandbox::ZoneRecord;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::client::Client;
use crate::client::challenge;
use crate::client::sandbox;

#[tokio::test]
async fn a_wrong_value_makes_the_order_invalid_and_there_is_no_second_try() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    sandbox
        .insert_record(&ZoneRecord::new("_acme-challenge.a.example.test", RecordValue::Txt("other".into())))
        .unwrap();
    let order = client.order(&["a.example.test"]).await.expect(201);
    let url = order.json()["authorizations"][0].as_str().unwrap().to_owned();
    let authorization = client.get(&url).await.json();
    let dns = challenge(&authorization, "dns-01")["url"].as_str().unwrap().to_owned();
    let legacy = client.post(&dns, json!({ "keyAuthorization": "x" })).await;
    assert_eq!(legacy.problem(), (400, "malformed".to_owned()));
    client.post(&dns, json!({})).await.expect(200);
    let failed = client.poll(&url, |authorization| authorization["status"] == "invalid").await;
    let problem = &challenge(&failed, "dns-01")["error"];
    assert_eq!(problem["type"], "urn:ietf:params:acme:error:unauthorized");
    assert!(problem["detail"].as_str().unwrap().contains("other"), "{problem}");
    assert_eq!(client.get(order.header("location")).await.json()["status"], "invalid");
    client.post(&dns, json!({})).await.expect(200);
    assert_eq!(client.get(&url).await.json()["status"], "invalid");
    let absent = client.order(&["b.example.test"]).await;
    let url = absent.json()["authorizations"][0].as_str().unwrap().to_owned();
    let authorization = client.get(&url).await.json();
    client.post(challenge(&authorization, "dns-01")["url"].as_str().unwrap(), json!({})).await.expect(200);
    let failed = client.poll(&url, |authorization| authorization["status"] == "invalid").await;
    assert_eq!(challenge(&failed, "dns-01")["error"]["type"], "urn:ietf:params:acme:error:dns");
}

#[tokio::test]
async fn http_01_is_validated_at_its_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = sandbox(|options| {
        options.http_port = port;
        options.validation_address = Some([127, 0, 0, 1].into());
    })
    .await;
    let client = Client::registered(&sandbox).await;
    let order = client.order(&["a.example.test"]).await;
    let url = order.json()["authorizations"][0].as_str().unwrap().to_owned();
    let authorization = client.get(&url).await.json();
    let challenge = challenge(&authorization, "http-01");
    let token = challenge["token"].as_str().unwrap().to_owned();
    let answer = client.key_authorization(&token);
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        let body = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}\n", answer.len() + 1);
        stream.write_all(body.as_bytes()).await.unwrap();
        String::from_utf8(request[..length].to_vec()).unwrap()
    });
    client.post(challenge["url"].as_str().unwrap(), json!({})).await.expect(200);
    let valid = client.poll(&url, |authorization| authorization["status"] != "pending").await;
    assert_eq!(valid["status"], "valid", "{valid}");
    let request = serving.await.unwrap();
    assert!(request.starts_with(&format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\n")));
    assert!(request.to_lowercase().contains("host: a.example.test\r\n"));
}

#[tokio::test]
async fn tls_alpn_01_is_validated_by_its_certificate() {
    for (right, version) in
        [(true, &rustls::version::TLS13), (false, &rustls::version::TLS13), (true, &rustls::version::TLS12)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sandbox = sandbox(|options| {
            options.tls_port = port;
            options.validation_address = Some([127, 0, 0, 1].into());
        })
        .await;
        let client = Client::registered(&sandbox).await;
        let order = client.order(&["a.example.test"]).await;
        let url = order.json()["authorizations"][0].as_str().unwrap().to_owned();
        let authorization = client.get(&url).await.json();
        let challenge = challenge(&authorization, "tls-alpn-01");
        let answer = client.key_authorization(challenge["token"].as_str().unwrap());
        let digest = if right { sha256(answer.as_bytes()) } else { sha256(b"other") };
        let mut params = rcgen::CertificateParams::new(["a.example.test".to_owned()]).unwrap();
        params.custom_extensions.push(rcgen::CustomExtension::new_acme_identifier(digest.as_bytes()));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let private =
            provider.key_provider.load_private_key(key.serialize_der().try_into().unwrap()).unwrap();
        // Not `with_single_cert`, which refuses the critical extension.
        let certified = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], private);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = acceptor.accept(stream).await.unwrap().read(&mut [0; 1]).await;
        });
        client.post(challenge["url"].as_str().unwrap(), json!({})).await.expect(200);
        let end = client.poll(&url, |authorization| authorization["status"] != "pending").await;
        assert_eq!(end["status"], if right { "valid" } else { "invalid" }, "{end}");
    }
}

#[tokio::test]
async fn a_delegated_challenge_is_followed() {
    let target = certplan::model::Fqdn::new("a.validation.test").unwrap();
    let sandbox = sandbox(|options| {
        let zone = |name: &str| certplan::sandbox::ZoneOptions::new(name.parse().unwrap());
        options.zones = vec![
            zone("example.test")
                .with(ZoneRecord::new("_acme-challenge.a.example.test", RecordValue::Cname(target))),
            zone("validation.test"),
        ];
    })
    .await;
    let client = Client::registered(&sandbox).await;
    let order = client.order(&["a.example.test"]).await;
    let url = order.json()["authorizations"][0].as_str().unwrap().to_owned();
    let authorization = client.get(&url).await.json();
    let challenge = challenge(&authorization, "dns-01");
    let digest = sha256(client.key_authorization(challenge["token"].as_str().unwrap()).as_bytes());
    let value = RecordValue::Txt(URL_SAFE_NO_PAD.encode(digest.as_bytes()));
    sandbox.insert_record(&ZoneRecord::new("a.validation.test", value)).unwrap();
    client.post(challenge["url"].as_str().unwrap(), json!({})).await.expect(200);
    let end = client.poll(&url, |authorization| authorization["status"] != "pending").await;
    assert_eq!(end["status"], "valid", "{end}");
}
