use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

/// A way to an HTTP server on loopback that counts requests of one method before it passes them on, so that the count is
/// right as soon as there is an answer. For servers that serve one request per connection.
#[derive(Debug)]
pub(crate) struct CountingProxy {
    port: u16,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl CountingProxy {
    /// Starts a proxy to `server` that counts requests of `method`.
    ///
    /// # Panics
    /// When no loopback port is free.
    pub(crate) fn start(server: u16, method: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), counted) = (client, Arc::clone(&counted)) else { continue };
                // A connection that breaks is the client's to report.
                thread::spawn(move || pass(client, server, method, &counted));
            }
        });
        Self { port, count, stop }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for CountingProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn pass(mut client: TcpStream, server: u16, method: &str, count: &AtomicU64) -> io::Result<()> {
    let mut start = vec![0; method.len()];
    client.read_exact(&mut start)?;
    if start == method.as_bytes() {
        count.fetch_add(1, Ordering::SeqCst);
    }
    let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
    upstream.set_nodelay(true)?;
    client.set_nodelay(true)?;
    upstream.write_all(&start)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    io::copy(&mut upstream, &mut client)?;
    client.shutdown(Shutdown::Both)
}
