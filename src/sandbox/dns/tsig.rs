use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::LowerName;
use hickory_proto::rr::Name;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig;
use hickory_proto::rr::rdata::tsig::TsigError;

use super::super::SandboxError;
use super::super::TsigAlgorithm;
use super::super::TsigKey;
use super::zone::text_of_name;
use super::zone::wire_name;

/// How far the clocks of client and server may be apart, in seconds, in our own signatures.
const FUDGE: u16 = 300;

/// The keys that the server knows.
#[derive(Clone, Default)]
pub(super) struct Keys(BTreeMap<LowerName, TSigner>);

/// What a message's signature is worth.
pub(super) enum Check {
    /// There is none.
    Unsigned,
    /// It is good.
    Good(Signed),
    /// It is not, and this is what the response has to say.
    Bad { error: &'static str, code: ResponseCode, response: Option<Signed> },
}

/// How to sign the response to a signed request.
pub(super) struct Signed {
    name: Name,
    signature: TSIG,
    /// The key and the request's code; an error about the key or code itself is not signed.
    with: Option<(TSigner, Vec<u8>)>,
}

impl Keys {
    pub(super) fn new(keys: &[TsigKey]) -> Result<Self, SandboxError> {
        let mut known = BTreeMap::new();
        for key in keys {
            let invalid = |reason: String| SandboxError::Option {
                reason: format!("the TSIG key `{}` cannot be used: {reason}", key.name),
            };
            let secret =
                STANDARD.decode(&key.secret).map_err(|_| invalid("its secret is not base64".to_owned()))?;
            let algorithm = match key.algorithm {
                TsigAlgorithm::HmacSha256 => tsig::TsigAlgorithm::HmacSha256,
                TsigAlgorithm::HmacSha384 => tsig::TsigAlgorithm::HmacSha384,
                TsigAlgorithm::HmacSha512 => tsig::TsigAlgorithm::HmacSha512,
            };
            let name = wire_name(key.name.as_str())?;
            let signer = TSigner::new(secret, algorithm, name.clone(), FUDGE)
                .map_err(|error| invalid(error.to_string()))?;
            if known.insert(LowerName::new(&name), signer).is_some() {
                return Err(invalid("there are two of that name".to_owned()));
            }
        }
        Ok(Self(known))
    }

    /// Checks a request's signature in the order of [RFC 8945, section 5.2](https://www.rfc-editor.org/rfc/rfc8945#section-5.2):
    /// key, code, time.
    pub(super) fn check(&self, message: &Message, octets: &[u8], now: u64) -> Check {
        let Some(record) = message.signature() else { return Check::Unsigned };
        let given = &record.data;
        let unsigned = |error: TsigError| Signed {
            name: record.name.clone(),
            signature: TSIG::new(
                given.algorithm.clone(),
                given.time,
                given.fudge,
                Vec::new(),
                given.oid,
                Some(error),
                Vec::new(),
            ),
            with: None,
        };
        let key = self.0.get(&LowerName::new(&record.name));
        let Some(key) = key.filter(|key| *key.algorithm() == given.algorithm) else {
            return Check::Bad {
                error: "BADKEY",
                code: ResponseCode::NotAuth,
                response: Some(unsigned(TsigError::BadKey)),
            };
        };
        let full = output_length(&given.algorithm);
        if given.mac.len() > full || given.mac.len() < (full / 2).max(10) {
            return Check::Bad { error: "FORMERR", code: ResponseCode::FormErr, response: None };
        }
        if given.mac.len() < full {
            return Check::Bad {
                error: "BADTRUNC",
                code: ResponseCode::NotAuth,
                response: Some(unsigned(TsigError::BadTrunc)),
            };
        }
        let is_good = tsig::signed_bitmessage_to_buf(octets, None, true)
            .is_ok_and(|(signed, _)| key.verify(&signed, &given.mac).is_ok());
        if !is_good {
            return Check::Bad {
                error: "BADSIG",
                code: ResponseCode::NotAuth,
                response: Some(unsigned(TsigError::BadSig)),
            };
        }
        let with = Some((key.clone(), given.mac.clone()));
        if now.abs_diff(given.time) > u64::from(given.fudge) {
            // Section 5.2.3: the client's time, and the server's as other data; signed, because the key is good.
            let signature = TSIG::new(
                given.algorithm.clone(),
                given.time,
                given.fudge,
                Vec::new(),
                given.oid,
                Some(TsigError::BadTime),
                now.to_be_bytes()[2..].to_vec(),
            );
            return Check::Bad {
                error: "BADTIME",
                code: ResponseCode::NotAuth,
                response: Some(Signed { name: record.name.clone(), signature, with }),
            };
        }
        let signature =
            TSIG::new(given.algorithm.clone(), now, FUDGE, Vec::new(), given.oid, None, Vec::new());
        Check::Good(Signed { name: record.name.clone(), signature, with })
    }
}

impl Signed {
    /// The key's name.
    pub(super) fn key_name(&self) -> String {
        text_of_name(&self.name)
    }

    /// Signs a response, or puts the error on it.
    pub(super) fn sign(self, mut response: Message) -> Result<Vec<u8>, String> {
        let unsigned = response.to_vec().map_err(|error| error.to_string())?;
        let mut signature = self.signature;
        if let Some((key, request_mac)) = self.with {
            let to_sign = key
                .encode_response_tbs(&request_mac, &unsigned, &signature)
                .map_err(|error| error.to_string())?;
            let mac = key.sign(&to_sign).map_err(|error| error.to_string())?;
            signature = signature.set_mac(mac);
        }
        response.set_signature(Box::new(tsig::make_tsig_record(self.name, signature)));
        response.to_vec().map_err(|error| error.to_string())
    }
}

/// The length of an algorithm's whole code in octets; the server has keys of no other algorithms.
const fn output_length(algorithm: &tsig::TsigAlgorithm) -> usize {
    match algorithm {
        tsig::TsigAlgorithm::HmacSha256 => 32,
        tsig::TsigAlgorithm::HmacSha384 => 48,
        _ => 64,
    }
}
