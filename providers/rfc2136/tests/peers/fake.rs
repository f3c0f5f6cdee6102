//! A server that answers as a test tells it: for what real servers do only on their worst days.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use certplan_test_support::TsigKey;
use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::TSigResponseContext;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// What the server does with one request.
pub(crate) enum Act {
    /// Sends a message.
    Answer(Vec<u8>),
    /// Sends a message and closes the connection.
    AnswerAndClose(Vec<u8>),
    /// Closes the connection without a word.
    Close,
    /// Sends these octets as they are, without a length before them, and closes the connection.
    Raw(Vec<u8>),
    /// Says nothing.
    Silence,
}

/// What a server has seen so far.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicUsize,
    pub(crate) requests: AtomicUsize,
}

/// Starts a server on the port that is returned.
pub(crate) async fn start(
    act: impl Fn(&Message, &[u8]) -> Act + Send + Sync + 'static,
) -> (u16, Arc<Counts>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, act) = (Arc::new(Counts::default()), Arc::new(act));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, Arc::clone(&act), Arc::clone(&count)));
        }
    });
    (port, seen)
}

async fn serve<F: Fn(&Message, &[u8]) -> Act>(mut stream: TcpStream, act: Arc<F>, seen: Arc<Counts>) {
    while let Ok(length) = stream.read_u16().await {
        let mut octets = vec![0; usize::from(length)];
        if stream.read_exact(&mut octets).await.is_err() {
            return;
        }
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let request = Message::from_vec(&octets).unwrap();
        let act = act(&request, &octets);
        let closes = matches!(act, Act::AnswerAndClose(_));
        match act {
            Act::Answer(answer) | Act::AnswerAndClose(answer) => {
                let length = u16::try_from(answer.len()).unwrap();
                let _ = stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await;
                if closes {
                    return;
                }
            }
            Act::Close => return,
            Act::Raw(octets) => {
                let _ = stream.write_all(&octets).await;
                return;
            }
            Act::Silence => std::future::pending().await,
        }
    }
}

/// A response with a code, not signed.
pub(crate) fn response(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::error_msg(request.id, request.op_code, code);
    response.metadata.authoritative = true;
    response.queries.clone_from(&request.queries);
    response
}

/// A response signed with a key, as the answer to a request.
pub(crate) fn signed(request: &Message, mut response: Message, key: &TsigKey) -> Vec<u8> {
    let secret = BASE64_STANDARD.decode(&key.secret).unwrap();
    let name = Name::from_ascii(&key.name).unwrap();
    let signer = TSigner::new(secret, TsigAlgorithm::HmacSha256, name, 300).unwrap();
    let asked = &request.signature.as_ref().unwrap().data;
    let context = TSigResponseContext::new(request.id, asked.time, signer, asked.mac.clone(), None);
    let signature = context.sign(&response.to_vec().unwrap()).unwrap();
    response.set_signature(signature);
    response.to_vec().unwrap()
}
