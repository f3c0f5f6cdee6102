//! The sandbox's own keys and certificates: two roots, and one intermediate that both have signed.

use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SerialNumber;
use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::super::Profile;
use super::super::SandboxError;
use super::super::folder::Folder;
use crate::model::NameSet;

/// Long enough that neither a moved clock nor a folder kept for years meets its end.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The CA's keys and certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: [Authenticated; 2],
    /// The intermediate as each of the roots has signed it.
    intermediates: [Vec<u8>; 2],
}

struct Authenticated {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// What HTTPS is served with.
pub(super) struct ServerIdentity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Makes everything, or reads it from the folder where it was kept.
    pub(super) fn open(now: Timestamp, folder: Option<&Folder>) -> Result<Self, SandboxError> {
        if let Some(folder) = folder
            && let Some(kept) = Self::load(folder)?
        {
            return Ok(kept);
        }
        let make = |action| {
            move |error: rcgen::Error| SandboxError::Certificates { action, reason: error.to_string() }
        };
        let mut roots = Vec::new();
        let mark = hexadecimal(&random::<3>()?);
        for (index, label) in ["X1", "X2"].into_iter().enumerate() {
            let key = KeyPair::generate().map_err(make("make"))?;
            let params = authority_params(&format!("certplan sandbox root {label} {mark}"), now, 30)?;
            let der = params.self_signed(&key).map_err(make("make"))?.der().to_vec();
            if let Some(folder) = folder {
                keep(folder, &format!("root-{}", index + 1), &der, &key)?;
            }
            roots.push(Authenticated { der, issuer: Issuer::new(params, key) });
        }
        let key = KeyPair::generate().map_err(make("make"))?;
        let params = authority_params(&format!("certplan sandbox intermediate E1 {mark}"), now, 20)?;
        let mut intermediates = Vec::new();
        for (index, root) in roots.iter().enumerate() {
            let mut params = params.clone();
            params.serial_number = Some(serial_number()?);
            params.use_authority_key_identifier_extension = true;
            let der = params.signed_by(&key, &root.issuer).map_err(make("make"))?.der().to_vec();
            if let Some(folder) = folder {
                keep(folder, &format!("intermediate-{}", index + 1), &der, &key)?;
            }
            intermediates.push(der);
        }
        let made = |_| SandboxError::Certificates { action: "make", reason: "there are two".to_owned() };
        Ok(Self {
            issuer: Issuer::new(params, key),
            roots: roots.try_into().map_err(|_| made(()))?,
            intermediates: intermediates.try_into().map_err(|_| made(()))?,
        })
    }

    fn load(folder: &Folder) -> Result<Option<Self>, SandboxError> {
        let read = |name: &str| -> Result<Option<Authenticated>, SandboxError> {
            let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
            let (Some(certificate_text), Some(key_text)) = (folder.read(&certificate)?, folder.read(&key)?)
            else {
                return Ok(None);
            };
            let wrong = |file: &str, reason: String| SandboxError::FolderContent {
                path: folder.path_of(file),
                reason,
            };
            let der = CertificateDer::from_pem_slice(certificate_text.as_bytes())
                .map_err(|error| wrong(&certificate, error.to_string()))?;
            let key_pair = KeyPair::from_pem(&key_text).map_err(|error| wrong(&key, error.to_string()))?;
            let issuer = Issuer::from_ca_cert_der(&der, key_pair)
                .map_err(|error| wrong(&certificate, error.to_string()))?;
            Ok(Some(Authenticated { der: der.to_vec(), issuer }))
        };
        let (Some(first), Some(second)) = (read("root-1")?, read("root-2")?) else { return Ok(None) };
        let (Some(intermediate), Some(cross)) = (read("intermediate-1")?, read("intermediate-2")?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            roots: [first, second],
            intermediates: [intermediate.der, cross.der],
            issuer: intermediate.issuer,
        }))
    }

    /// The roots as PEM, that of the default chain first.
    pub(super) fn roots(&self) -> [String; 2] {
        [pem(&self.roots[0].der), pem(&self.roots[1].der)]
    }

    /// The certificate of the HTTPS endpoints, from the first root.
    pub(super) fn server_identity(
        &self,
        now: Timestamp,
        hosts: &[String],
    ) -> Result<ServerIdentity, SandboxError> {
        let fail =
            |error: rcgen::Error| SandboxError::Certificates { action: "make", reason: error.to_string() };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::new(hosts).map_err(fail)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "certplan sandbox");
        validity(&mut params, before(now), after(now, 10));
        params.serial_number = Some(serial_number()?);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.roots[0].issuer).map_err(fail)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|reason| SandboxError::Certificates { action: "make", reason: reason.to_owned() })?;
        Ok(ServerIdentity { chain: vec![certificate.der().clone()], key: private })
    }

    /// Issues a certificate for a public key.
    pub(super) fn issue(
        &self,
        names: &NameSet,
        key: &SubjectPublicKeyInfo,
        is_rsa: bool,
        profile: &Profile,
        not_before: Timestamp,
        lifetime: Duration,
    ) -> Result<Vec<u8>, SandboxError> {
        let fail = |error: rcgen::Error| SandboxError::Certificates {
            action: "issue with",
            reason: error.to_string(),
        };
        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(texts.clone()).map_err(fail)?;
        params.distinguished_name = DistinguishedName::new();
        if profile.common_name
            && let Some(name) = texts.iter().find(|name| name.len() <= 64)
        {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        validity(&mut params, not_before, saturating_add(not_before, lifetime));
        params.serial_number = Some(serial_number()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if is_rsa && profile.common_name {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(key, &self.issuer).map_err(fail)?;
        Ok(certificate.der().to_vec())
    }

    /// A certificate's chain in PEM: 0 is the default one, 1 the one to the other root.
    pub(super) fn chain(&self, leaf: &[u8], index: usize) -> Option<String> {
        self.intermediates.get(index).map(|intermediate| pem(leaf) + &pem(intermediate))
    }
}

fn keep(folder: &Folder, name: &str, der: &[u8], key: &KeyPair) -> Result<(), SandboxError> {
    folder.write(&format!("{name}.key"), key.serialize_pem().as_bytes())?;
    folder.write(&format!("{name}.pem"), pem(der).as_bytes())
}

fn authority_params(
    common_name: &str,
    now: Timestamp,
    years: u32,
) -> Result<CertificateParams, SandboxError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, "not trusted by anyone");
    params.serial_number = Some(serial_number()?);
    validity(&mut params, before(now), after(now, years));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn validity(params: &mut CertificateParams, not_before: Timestamp, not_after: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let moment = |timestamp: Timestamp| {
        epoch + Duration::from_secs(u64::try_from(timestamp.as_second()).unwrap_or_default())
    };
    params.not_before = moment(not_before);
    params.not_after = moment(not_after);
}

/// Two years back, for clients whose clock was moved.
fn before(now: Timestamp) -> Timestamp {
    now.saturating_sub(2 * YEAR).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn after(now: Timestamp, years: u32) -> Timestamp {
    saturating_add(now, years * YEAR)
}

/// Adds and stays within what certificates can say, the year 9999.
pub(super) fn saturating_add(timestamp: Timestamp, duration: Duration) -> Timestamp {
    timestamp.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

/// A positive serial number of 20 octets, 158 of its bits random.
fn serial_number() -> Result<SerialNumber, SandboxError> {
    let mut octets = random::<20>()?;
    octets[0] = octets[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&octets))
}

fn random<const N: usize>() -> Result<[u8; N], SandboxError> {
    let mut octets = [0; N];
    rand::fill(&mut octets).map_err(|_| SandboxError::Certificates {
        action: "make",
        reason: "there is no randomness".to_owned(),
    })?;
    Ok(octets)
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// A certificate as PEM.
pub(super) fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
