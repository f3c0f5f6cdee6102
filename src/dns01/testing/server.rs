use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::script::Script;

/// A DNS server on a free loopback port, over UDP and TCP, that does as its script says.
#[derive(Debug)]
pub(in crate::dns01) struct DnsServer {
    address: SocketAddr,
    pub(in crate::dns01) script: Arc<Mutex<Script>>,
    /// Its tasks end when it is dropped.
    _tasks: JoinSet<()>,
}

impl DnsServer {
    pub(in crate::dns01) async fn start() -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&script)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&script)));
        Self { address, script, _tasks: tasks }
    }

    pub(in crate::dns01) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::dns01) fn add(&self, owner: &str, kind: &str, value: &str) {
        self.script.lock().unwrap().add(owner, kind, value);
    }

    pub(in crate::dns01) fn fail(&self, code: ResponseCode) {
        self.script.lock().unwrap().code = Some(code);
    }

    /// How many questions it got.
    pub(in crate::dns01) fn questions(&self) -> usize {
        self.script.lock().unwrap().log.len()
    }

    pub(in crate::dns01) fn was_asked(&self, owner: &str, record_type: RecordType) -> bool {
        self.script.lock().unwrap().log.contains(&(owner.to_owned(), record_type))
    }
}

/// One port for both.
async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

async fn serve_udp(socket: UdpSocket, script: Arc<Mutex<Script>>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        for reply in replies(&script, &buffer[..length], true) {
            socket.send_to(&reply, peer).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let script = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut octets = vec![0; usize::from(length)];
                stream.read_exact(&mut octets).await.unwrap();
                for reply in replies(&script, &octets, false) {
                    stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            }
        });
    }
}

fn replies(script: &Mutex<Script>, request: &[u8], udp: bool) -> Vec<Vec<u8>> {
    let request = Message::from_vec(request).unwrap();
    let mut script = script.lock().unwrap();
    if script.silent {
        return Vec::new();
    }
    let mut answer = script.answer(&request.queries[0]);
    answer.metadata.id = request.metadata.id;
    if script.no_edns && request.edns.is_some() {
        answer.metadata.response_code = ResponseCode::FormErr;
        answer.answers.clear();
    }
    if script.truncate && udp {
        answer.metadata.truncation = true;
        answer.answers.clear();
    }
    if script.wrong_question {
        let mut other = answer.clone();
        other.queries[0].set_query_type(RecordType::MX);
        return vec![other.to_vec().unwrap()];
    }
    if script.wrong_id {
        // A forgery first, then the truth.
        let mut forged = answer.clone();
        forged.metadata.id = request.metadata.id.wrapping_add(1);
        forged.answers.clear();
        return vec![forged.to_vec().unwrap(), vec![1, 2, 3], answer.to_vec().unwrap()];
    }
    vec![answer.to_vec().unwrap()]
}
