//! The sockets: octets in, octets out.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Dns;
use super::Transport;
use crate::sandbox::SandboxError;

const IDLE: Duration = Duration::from_secs(30);

/// The sockets, bound and not yet served.
pub(in crate::sandbox) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds UDP and TCP to the same port.
    pub(in crate::sandbox) async fn bind(address: IpAddr, port: u16) -> Result<Self, SandboxError> {
        let mut last = None;
        // With a free port chosen for TCP, the same one can be taken for UDP.
        for _ in 0..20 {
            let bound = async {
                let tcp = TcpListener::bind((address, port)).await?;
                let udp = UdpSocket::bind(tcp.local_addr()?).await?;
                Ok::<_, io::Error>(Self { udp, tcp })
            };
            match bound.await {
                Ok(sockets) => return Ok(sockets),
                Err(error) if port == 0 => last = Some(error),
                Err(source) => {
                    return Err(SandboxError::Bind {
                        address: SocketAddr::new(address, port).to_string(),
                        purpose: "DNS",
                        source,
                    });
                }
            }
        }
        Err(SandboxError::Bind {
            address: address.to_string(),
            purpose: "DNS",
            source: last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()),
        })
    }

    pub(in crate::sandbox) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
impl Dns {
    /// Serves until cancelled.
    pub(in crate::sandbox) fn serve(
        self: &Arc<Self>,
        sockets: Sockets,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let Sockets { udp, tcp } = sockets;
        let dns = Arc::clone(self);
        let token = stop.clone();
        tasks.spawn(async move { token.run_until_cancelled(dns.serve_udp(Arc::new(udp))).await });
        let dns = Arc::clone(self);
        let token = stop.clone();
        let connections = tasks.clone();
        tasks.spawn(async move {
            let serving = dns.serve_tcp(tcp, &connections, &token);
            token.run_until_cancelled(serving).await
        });
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
                // About an earlier answer that nobody took, as a rule; never a reason to spin.
                sleep(Duration::from_millis(1)).await;
                continue;
            };
            let Some(answer) = self.respond(&buffer[..length], Transport::Udp) else { continue };
            let delay = self.faults.read(|faults| faults.dns.delay);
            if delay.is_zero() {
                let _ = socket.send_to(&answer, peer).await;
            } else {
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    sleep(delay).await;
                    let _ = socket.send_to(&answer, peer).await;
                });
            }
        }
    }

    async fn serve_tcp(
        self: Arc<Self>,
        listener: TcpListener,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors: others will close theirs.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let dns = Arc::clone(&self);
            let stop = stop.clone();
            tasks.spawn(async move {
                let _ = stop.run_until_cancelled(dns.serve_connection(stream)).await;
            });
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let length = timeout(IDLE, stream.read_u16()).await??;
            let mut request = vec![0; usize::from(length)];
            timeout(IDLE, stream.read_exact(&mut request)).await??;
            let Some(answer) = self.respond(&request, Transport::Tcp) else { return Ok(()) };
            let delay = self.faults.read(|faults| faults.dns.delay);
            if !delay.is_zero() {
                sleep(delay).await;
            }
            let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
            // One segment: some clients read the length and the message in one go.
            let mut framed = Vec::with_capacity(answer.len() + 2);
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(&answer);
            stream.write_all(&framed).await?;
        }
    }
}
