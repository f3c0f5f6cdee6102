//! A web server of a few lines, so that the demo has something that serves: it reads the deployed files at every
//! handshake, as a server does at every reload.

use std::fmt;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Serves the certificate in a folder on a free loopback port until the process ends; returns the address.
pub(super) async fn serve(folder: PathBuf) -> std::io::Result<SocketAddr> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Folder(folder)));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(connection).await {
                    // A client that only wanted to see the certificate is gone by now.
                    let _ = stream
                        .write_all(b"HTTP/1.0 200 OK\r\n\r\nServed with a certificate of certplan.\n")
                        .await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    Ok(address)
}

struct Folder(PathBuf);

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folder({})", self.0.display())
    }
}

impl ResolvesServerCert for Folder {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(self.0.join("fullchain.pem"))
            .ok()?
            .collect::<Result<_, _>>()
            .ok()?;
        let key = PrivateKeyDer::from_pem_file(self.0.join("privkey.pem")).ok()?;
        Some(Arc::new(CertifiedKey::new(chain, any_supported_type(&key).ok()?)))
    }
}
