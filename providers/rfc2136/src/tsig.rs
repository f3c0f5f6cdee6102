use std::fmt;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use certplan_provider::ProviderError;
use certplan_provider::Secret;
use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::TSigVerifier;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::TsigError;

use crate::config::Algorithm;

/// How far the clocks of both sides may differ, in seconds, as
/// [RFC 8945, section 10](https://www.rfc-editor.org/rfc/rfc8945#section-10) recommends.
const FUDGE: u16 = 300;

/// A TSIG key that signs requests and verifies responses.
pub(crate) struct Key {
    signer: TSigner,
    clock: fn() -> u64,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.signer.signer_name())
    }
}

/// A response that was read, before anyone believes it.
#[derive(Debug)]
pub(crate) struct Response {
    /// What it says.
    pub(crate) message: Message,
    /// Whether its signature is the key's.
    pub(crate) signed: bool,
}

impl Key {
    /// A key from a secret in base64.
    pub(crate) fn new(name: Name, algorithm: Algorithm, secret: &Secret) -> Result<Self, ProviderError> {
        Self::with_clock(name, algorithm, secret, unix_time)
    }

    fn with_clock(
        name: Name,
        algorithm: Algorithm,
        secret: &Secret,
        clock: fn() -> u64,
    ) -> Result<Self, ProviderError> {
        let octets = BASE64_STANDARD.decode(secret.expose().trim()).map_err(|_| {
            // The cause would quote an octet of the secret.
            ProviderError::auth(format!(
                "the secret of the TSIG key `{name}` is not base64: copy it from the server's key statement"
            ))
        })?;
        if octets.is_empty() {
            return Err(ProviderError::auth(format!("the secret of the TSIG key `{name}` is empty")));
        }
        let signer = TSigner::new(octets, algorithm.into(), name, FUDGE).map_err(|error| {
            ProviderError::invalid(format!("the algorithm `{algorithm}` is not supported")).with_source(error)
        })?;
        Ok(Self { signer, clock })
    }

    /// The key's name.
    pub(crate) fn name(&self) -> &Name {
        self.signer.signer_name()
    }

    /// Signs a request in place and returns what verifies the response.
    pub(crate) fn sign(&self, request: &mut Message) -> Result<TSigVerifier, ProviderError> {
        request
            .finalize(&self.signer, (self.clock)())
            .ok()
            .flatten()
            .ok_or_else(|| ProviderError::invalid("the request cannot be signed"))
    }

    /// Reads a response to a request with `id`.
    ///
    /// A refused signature is an error of its own, told before anything is verified: such a response has no signature
    /// ([RFC 8945, section 5.3.2](https://www.rfc-editor.org/rfc/rfc8945#section-5.3.2)), so that verifying first would
    /// only say that it is missing. A response whose signature is wrong is not believed in any way. One without a
    /// signature is returned as such when it reports a failure, for servers leave it out of those.
    pub(crate) fn open(
        &self,
        request: &Message,
        verifier: &mut TSigVerifier,
        octets: &[u8],
    ) -> Result<Response, ProviderError> {
        let message = Message::from_vec(octets).map_err(|error| {
            ProviderError::transient("the server's response is not a DNS message").with_source(error)
        })?;
        if message.id != request.id || message.op_code != request.op_code {
            return Err(ProviderError::transient("the server's response belongs to another request"));
        }
        let error = message.signature.as_ref().and_then(|record| record.data.error);
        if let (Some(error), Some(record)) = (error, &message.signature) {
            return Err(self.refused(error, &record.data));
        }
        if message.truncation {
            return Err(ProviderError::transient("the server's response is truncated, over TCP"));
        }
        if message.signature.is_none() {
            // NXDOMAIN is an answer too: that there is nothing at a name.
            if matches!(message.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
                return Err(ProviderError::auth(format!(
                    "the server's response is not signed, so it is not believed: does it know the TSIG key `{}`?",
                    self.name()
                )));
            }
            return Ok(Response { message, signed: false });
        }
        verifier.verify(octets).map_err(|error| {
            ProviderError::auth(format!(
                "the signature of the server's response does not fit the TSIG key `{}`, so it is not believed",
                self.name()
            ))
            .with_source(error)
        })?;
        Ok(Response { message, signed: true })
    }

    /// Says what to do about a signature that the server refused.
    fn refused(&self, error: TsigError, tsig: &TSIG) -> ProviderError {
        let (name, algorithm) = (self.name(), self.signer.algorithm().to_name());
        let message = match error {
            TsigError::BadKey => format!(
                "the server does not know the TSIG key `{name}` with the algorithm `{}`, or does not allow it here \
                 (BADKEY): name and algorithm must be as in its configuration, and in Knot an `acl` of the zone must name \
                 the key",
                algorithm.to_ascii().trim_end_matches('.')
            ),
            TsigError::BadSig => format!(
                "the server knows the TSIG key `{name}`, but with another secret (BADSIG): copy the secret again from \
                 its configuration"
            ),
            TsigError::BadTime => {
                let difference = server_time(tsig).map(|server| server.abs_diff((self.clock)()));
                let difference =
                    difference.map(|seconds| format!(" by {seconds} seconds")).unwrap_or_default();
                format!(
                    "the clocks of this host and of the server differ{difference}, and TSIG allows {FUDGE} (BADTIME): \
                     set the clock that is wrong"
                )
            }
            TsigError::BadTrunc => format!(
                "the server wants a signature of another length for the TSIG key `{name}` (BADTRUNC): allow full ones"
            ),
            other => {
                format!("the server refuses the TSIG key `{name}` (TSIG error {})", u16::from(other))
            }
        };
        ProviderError::auth(message)
    }
}

/// The server's time in a BADTIME response
/// ([RFC 8945, section 5.2.3](https://www.rfc-editor.org/rfc/rfc8945#section-5.2.3)).
fn server_time(tsig: &TSIG) -> Option<u64> {
    let octets: [u8; 6] = tsig.other.as_slice().try_into().ok()?;
    Some(octets.into_iter().fold(0, |time, octet| (time << 8) | u64::from(octet)))
}

/// Seconds since 1970: a signature holds the moment at which it was made, not the one at which the run began.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

#[cfg(test)]
mod tests {
    use certplan_provider::Context;
    use certplan_provider::ProviderErrorKind;
    use certplan_test_support::Bind;
    use certplan_test_support::TsigKey;
    use certplan_test_support::ZoneFile;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::RData;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::RecordType;
    use hickory_proto::rr::TSigResponseContext;
    use hickory_proto::rr::rdata::TXT;
    use proptest::prelude::*;

    use super::*;
    use crate::connection::Connections;
    use crate::connection::Kind;
    use crate::message;

    fn key(clock: fn() -> u64) -> Key {
        let secret = Secret::new(TsigKey::new("hmac-sha256").secret);
        Key::with_clock(Name::from_ascii("certplan-key.").unwrap(), Algorithm::HmacSha256, &secret, clock)
            .unwrap()
    }

    /// Asks BIND a question that is signed and verified by these clocks.
    async fn ask(sign: fn() -> u64, verify: fn() -> u64) -> Option<Result<Response, ProviderError>> {
        let bind = Bind::start(&[ZoneFile::new("example.test")], &TsigKey::new("hmac-sha256"))?;
        let address = format!("127.0.0.1:{}", bind.port()).parse().unwrap();
        let connections = Connections::new(crate::config::ServerAddress::Address(address));
        let name = Name::from_ascii("example.test.").unwrap();
        let mut request = message::question(&name, RecordType::SOA);
        let mut verifier = key(sign).sign(&mut request).unwrap();
        let context = Context::new(Default::default(), Default::default());
        let octets = message::encode(&request).unwrap();
        let (answer, _) = connections.exchange(&context, &octets, Kind::Question).await.unwrap();
        Some(key(verify).open(&request, &mut verifier, &answer))
    }

    #[tokio::test]
    async fn a_clock_that_is_a_day_off_is_told_with_the_difference() {
        let yesterday = || unix_time() - 86_400;
        let Some(result) = ask(yesterday, yesterday).await else { return };
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Auth);
        assert!(error.to_string().contains("differ by 864"), "{error}");
    }

    #[tokio::test]
    async fn a_clock_that_is_minutes_off_is_good_enough() {
        let Some(result) = ask(|| unix_time() - 250, || unix_time() - 250).await else { return };
        assert!(result.unwrap().signed);
    }

    #[test]
    fn a_secret_that_is_not_base64_is_not_quoted() {
        for text in ["not base64!", "====", "t0ps3cret-t0ps3cret"] {
            let name = Name::from_ascii("k.").unwrap();
            let error = Key::new(name, Algorithm::HmacSha256, &Secret::new(text.to_owned())).unwrap_err();
            assert_eq!(error.kind(), ProviderErrorKind::Auth);
            assert!(!format!("{error} {error:?}").contains(text), "{error}");
        }
    }

    /// A signed question, what verifies its answer, and the answer.
    fn exchange() -> (Message, TSigVerifier, Message, Vec<u8>) {
        let key = key(|| 1_800_000_000);
        let name = Name::from_ascii("x.example.test.").unwrap();
        let mut request = message::question(&name, RecordType::TXT);
        let verifier = key.sign(&mut request).unwrap();
        let mut response = Message::response(request.id, OpCode::Query);
        response.add_queries(request.queries.clone());
        let data = RData::TXT(TXT::new(vec!["value".to_owned()]));
        response.add_answer(Record::from_rdata(name, 60, data));
        let mac = request.signature.as_ref().unwrap().data.mac.clone();
        let context = TSigResponseContext::new(request.id, 1_800_000_000, key.signer, mac, None);
        let signature = context.sign(&response.to_vec().unwrap()).unwrap();
        let mut signed = response.clone();
        signed.set_signature(signature);
        (request, verifier, response, signed.to_vec().unwrap())
    }

    #[test]
    fn an_answer_that_is_signed_is_believed() {
        let (request, mut verifier, response, octets) = exchange();
        let opened = key(|| 1_800_000_000).open(&request, &mut verifier, &octets).unwrap();
        assert!(opened.signed);
        assert_eq!(opened.message.answers, response.answers);
    }

    proptest! {
        #[test]
        fn whoever_changes_an_answer_changes_nothing_that_is_believed(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (request, mut verifier, response, mut octets) = exchange();
            for (index, octet) in changes {
                let length = octets.len();
                octets[index.index(length)] = octet;
            }
            if let Some(cut) = cut {
                octets.truncate(cut.index(octets.len()));
            }
            if let Ok(opened) = key(|| 1_800_000_000).open(&request, &mut verifier, &octets)
                && opened.signed
            {
                prop_assert_eq!(opened.message.response_code, response.response_code);
                prop_assert_eq!(opened.message.authoritative, response.authoritative);
                prop_assert_eq!(opened.message.answers, response.answers);
            }
        }

        #[test]
        fn no_octets_of_a_server_panic(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let (request, mut verifier, _, _) = exchange();
            let mut octets = octets;
            if let Some(id) = octets.get_mut(..2) {
                id.copy_from_slice(&request.id.to_be_bytes());
            }
            let opened = key(|| 1_800_000_000).open(&request, &mut verifier, &octets);
            prop_assert!(!opened.is_ok_and(|opened| opened.signed));
        }
    }
}
