//! Proxies of the environment.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::io::copy;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use crate::world::World;
use crate::world::no_panic;

const PASSWORD: &str = "hunter2-of-the-proxy";

/// A proxy that knows `CONNECT`, and counts it.
fn proxy() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let connected = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connected);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let count = Arc::clone(&count);
            thread::spawn(move || tunnel(&client, &count));
        }
    });
    (address, connected)
}

fn tunnel(client: &TcpStream, count: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let server = request.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    count.fetch_add(1, Ordering::SeqCst);
    let server = TcpStream::connect(server).ok()?;
    (&*client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let (mut up, mut down) = (server.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || {
        let _ = copy(&mut reader, &mut up);
        let _ = up.shutdown(Shutdown::Write);
    });
    let _ = copy(&mut &server, &mut down);
    let _ = down.shutdown(Shutdown::Both);
    Some(())
}

fn world(variable: &str, value: &str) -> World {
    let mut world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world.project.set(variable, value);
    world
}

#[test]
fn a_proxy_that_is_no_url_is_not_passed_by() {
    for value in ["not a url", &format!("ftp://user:{PASSWORD}@proxy:21"), "http://", PASSWORD] {
        let world = world("HTTPS_PROXY", value);
        let run = world.project.certplan(&["apply", "--auto-approve"]);
        no_panic(&run);
        assert_eq!(run.code, Some(3), "{value}: {run}");
        assert!(run.stderr.contains("`HTTPS_PROXY` names no proxy that can be used"), "{value}: {run}");
        assert!(!run.to_string().contains(PASSWORD), "{value}: {run}");
        assert_eq!((world.updates().len(), world.issued()), (0, 0), "{value}: {run}");
    }
    // Where nothing goes through it, it does not matter.
    let mut world = world("HTTP_PROXY", "not a url");
    world.project.set("ALL_PROXY", "socks5://127.0.0.1:1");
    world.project.set("NO_PROXY", "127.0.0.1");
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
}

#[test]
fn a_proxy_that_is_down_is_blamed_and_not_the_ca() {
    let world = world("https_proxy", &format!("http://user:{PASSWORD}@127.0.0.1:1"));
    let run = world.project.certplan(&["plan"]);
    no_panic(&run);
    let told = "through the proxy `127.0.0.1:1`, which the environment names: Connection refused";
    assert!(run.to_string().contains(told), "{run}");
    assert!(!run.to_string().contains(PASSWORD), "{run}");
}

#[test]
fn the_ca_is_reached_through_the_proxy_of_the_environment() {
    let (address, connected) = proxy();
    let mut world = world("HTTPS_PROXY", &format!("http://{address}"));
    world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!(world.issued(), 1);
    let through = connected.load(Ordering::SeqCst);
    assert!(through > 0, "it went past the proxy");
    world.project.set("NO_PROXY", "127.0.0.1,localhost");
    world.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    assert_eq!((world.issued(), connected.load(Ordering::SeqCst)), (2, through), "`NO_PROXY` counts");
}
