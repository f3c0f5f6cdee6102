use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use aws_lc_rs::digest;
use certplan_provider::Deployed;
use certplan_provider::Fingerprint;
use certplan_provider::ProviderError;
use jiff::Timestamp;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawMode;
use rustix::fs::Stat;
use rustix::fs::fstat;
use rustix::fs::openat;
use rustix::fs::statat;
use rustix::io::Errno;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::SubjectAlternativeName;
use x509_parser::nom::Parser;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::prelude::X509CertificateParser;
use x509_parser::prelude::parse_x509_pem;
use zeroize::Zeroizing;

use crate::account::Owners;
use crate::failure::failed;
use crate::failure::shown;
use crate::folders::FOLDER;
use crate::place::PemFile;
use crate::place::Place;
use crate::store::Entry;
use crate::store::FOLDER_MODE;
use crate::store::PUBLIC_MODE;
use crate::store::entry;

/// How large a file may be to be read: a chain has a few kilobytes.
const LIMIT: usize = 1024 * 1024;

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Looks at places, one after the other: most are in one folder, which is opened once.
#[derive(Default)]
pub(crate) struct Looker {
    opened: Option<(PathBuf, OwnedFd)>,
}

impl Looker {
    /// Tells what is at a place. Writes nothing, takes no lock and reads no octet of a private key.
    pub(crate) fn look(&mut self, place: &Place) -> Result<Option<Deployed>, ProviderError> {
        if let Some((path, directory)) = &self.opened
            && *path == place.directory
        {
            return look_in(directory, place);
        }
        match openat(CWD, &place.directory, FOLDER - OFlags::NOFOLLOW, Mode::empty()) {
            Ok(directory) => {
                let seen = look_in(&directory, place);
                self.opened = Some((place.directory.clone(), directory));
                seen
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR) => {
                let refusal = format!("`{}` is not in a folder", shown(&place.location()));
                Ok(Some(Deployed {
                    deviations: vec![refusal.clone()],
                    refusal: Some(refusal),
                    ..Deployed::default()
                }))
            }
            Err(error) => Err(failed("open", &place.directory, error)),
        }
    }
}

fn look_in(directory: &OwnedFd, place: &Place) -> Result<Option<Deployed>, ProviderError> {
    match entry(directory, place)? {
        Entry::Absent => Ok(None),
        Entry::Foreign(what) => {
            let mut seen = Seen::foreign(directory, place);
            let foreign = format!("`{}` is {what} that certplan did not make", place.entry());
            seen.deviations.insert(0, foreign.clone());
            Ok(Some(Deployed { refusal: Some(foreign), ..seen.into_deployed(None) }))
        }
        Entry::Version(version) => {
            match openat(directory, place.folder_of(&version), FOLDER, Mode::empty()) {
                Ok(folder) => Ok(Some(Seen::version(&folder, place)?.into_deployed(Some(version)))),
                // A deployment that ends meanwhile takes the old version away: the link has the answer.
                Err(Errno::NOENT) if entry(directory, place)? != Entry::Version(version.clone()) => {
                    look_in(directory, place)
                }
                Err(Errno::NOENT) => {
                    let deviations = vec![format!("`{}` leads to a folder that is gone", place.entry())];
                    Ok(Some(Seen { leaf: None, deviations }.into_deployed(Some(version))))
                }
                Err(error) => Err(failed("open", &place.home().join(&version), error)),
            }
        }
    }
}

/// What was seen.
struct Seen {
    /// What is told of its certificate.
    leaf: Option<Deployed>,
    deviations: Vec<String>,
}

/// The file that the others are compared with.
struct Fullchain {
    octets: Zeroizing<Vec<u8>>,
    metadata: Stat,
    /// Where its first certificate ends.
    cut: usize,
}

impl Seen {
    /// Looks at something that is not ours, as far as it resembles what would be there.
    fn foreign(directory: &OwnedFd, place: &Place) -> Self {
        let path = match place.files().contains(&PemFile::Privkey) {
            true => format!("{}/{}", place.entry(), PemFile::Fullchain.name()),
            // One file with the key in it, of which only the beginning would be ours to read.
            false => return Self { leaf: None, deviations: Vec::new() },
        };
        let read = openat(directory, path, READ - OFlags::NOFOLLOW, Mode::empty())
            .ok()
            .and_then(|file| read(file).ok());
        Self { leaf: read.and_then(|(octets, _)| first_certificate(&octets)), deviations: Vec::new() }
    }

    /// Looks at a version of ours.
    fn version(folder: &OwnedFd, place: &Place) -> Result<Self, ProviderError> {
        let home = place.location();
        let mut deviations = Vec::new();
        let owners = Owners::of(place).unwrap_or_else(|error| {
            deviations.push(error.to_string());
            Owners::default()
        });
        let own = fstat(folder).map_err(|error| failed("look at", &home, error))?;
        if own.st_mode & 0o7777 != FOLDER_MODE {
            deviations
                .push(format!("mode of the folder is {:04o}, not {FOLDER_MODE:04o}", own.st_mode & 0o7777));
        }
        let chain = match open(folder, PemFile::Fullchain).and_then(read) {
            Ok((octets, metadata)) => Some(Fullchain { cut: first_end(&octets), octets, metadata }),
            // Nothing, or something else: it is told of below. So are a socket and a device without a driver.
            Err(Errno::NOENT | Errno::LOOP | NOT_A_FILE | Errno::NXIO | Errno::NODEV) => None,
            // A disk that lost it: to write it anew is what helps.
            Err(error @ Errno::IO) => {
                deviations.push(format!("fullchain.pem cannot be read: {error}"));
                None
            }
            Err(error) => return Err(failed("read", &home.join("fullchain.pem"), error)),
        };
        for file in place.files() {
            let name = file.name();
            let known = chain.as_ref().filter(|_| file == PemFile::Fullchain).map(|chain| chain.metadata);
            let metadata = match known.map_or_else(|| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW), Ok) {
                Ok(metadata) => metadata,
                Err(Errno::NOENT) => {
                    deviations.push(format!("{name} is missing"));
                    continue;
                }
                Err(error) => return Err(failed("look at", &home.join(name), error)),
            };
            if FileType::from_raw_mode(metadata.st_mode) != FileType::RegularFile {
                deviations.push(format!("{name} is not a regular file"));
                continue;
            }
            let mode = if file.is_secret() { place.secret_mode() } else { PUBLIC_MODE };
            compare(name, &metadata, mode, owners, &mut deviations);
            if let Some(chain) = &chain {
                compare_contents(folder, file, chain, &metadata, &mut deviations);
            }
        }
        let mut leaf = chain.as_ref().and_then(|chain| first_certificate(&chain.octets));
        if chain.is_some() && leaf.is_none() {
            deviations.push("fullchain.pem holds no certificate".to_owned());
        }
        if place.files() == [PemFile::Fullchain, PemFile::Combined]
            && deviations.iter().any(|deviation| deviation.starts_with("combined.pem holds"))
        {
            // What serves is the other file, and what it holds instead is not known without reading its key.
            leaf = None;
        }
        Ok(Self { leaf, deviations })
    }

    fn into_deployed(mut self, version: Option<String>) -> Deployed {
        self.deviations.dedup();
        Deployed { version, deviations: self.deviations, ..self.leaf.unwrap_or_default() }
    }
}

/// Compares who may do what with a file.
fn compare(name: &str, metadata: &Stat, mode: RawMode, owners: Owners, deviations: &mut Vec<String>) {
    let found = metadata.st_mode & 0o7777;
    if found != mode {
        deviations.push(format!("mode of {name} is {found:04o}, not {mode:04o}"));
    }
    if let Some(user) = owners.user
        && user.as_raw() != metadata.st_uid
    {
        deviations.push(format!("owner of {name} is {}, not {}", metadata.st_uid, user.as_raw()));
    }
    if let Some(group) = owners.group
        && group.as_raw() != metadata.st_gid
    {
        deviations.push(format!("group of {name} is {}, not {}", metadata.st_gid, group.as_raw()));
    }
}

/// Compares a file with the chain, as far as that needs no key.
///
/// All files of a version are given one time when they are written, so that one that was replaced by hand is told from ours
/// without reading it: a key must not be read, and to read the rest twice would make the plan of a fleet a tenth slower.
fn compare_contents(
    folder: &OwnedFd,
    file: PemFile,
    chain: &Fullchain,
    metadata: &Stat,
    deviations: &mut Vec<String>,
) {
    let name = file.name();
    let Fullchain { octets: chain, metadata: written, cut } = chain;
    let same = match file {
        PemFile::Fullchain => true,
        PemFile::Cert => usize::try_from(metadata.st_size) == Ok(*cut),
        PemFile::Chain => usize::try_from(metadata.st_size) == Ok(chain[*cut..].trim_ascii_start().len()),
        // Exactly as much as is public; without the right to read it, only its date speaks.
        PemFile::Combined => match open(folder, file) {
            Ok(opened) => {
                let mut start = Zeroizing::new(vec![0; chain.len()]);
                File::from(opened).read_exact(&mut start).is_ok() && start == *chain
            }
            Err(error) => error == Errno::ACCESS,
        },
        PemFile::Privkey => true,
    };
    if !same {
        deviations.push(format!("{name} holds something else than fullchain.pem"));
    } else if (metadata.st_mtime, metadata.st_mtime_nsec) != (written.st_mtime, written.st_mtime_nsec) {
        deviations.push(format!("{name} was changed at another time than fullchain.pem"));
    }
}

fn open(folder: &OwnedFd, file: PemFile) -> Result<OwnedFd, Errno> {
    openat(folder, file.name(), READ, Mode::empty())
}

/// What [`read`] says of a folder or a FIFO.
const NOT_A_FILE: Errno = Errno::INVAL;

/// Reads a public file, of a size that one may have.
fn read(file: OwnedFd) -> Result<(Zeroizing<Vec<u8>>, Stat), Errno> {
    let metadata = fstat(&file)?;
    if FileType::from_raw_mode(metadata.st_mode) != FileType::RegularFile {
        return Err(NOT_A_FILE);
    }
    // Wiped, for somebody may have put a key into it.
    let size = usize::try_from(metadata.st_size).unwrap_or(0).min(LIMIT);
    let mut octets = Zeroizing::new(Vec::with_capacity(size));
    // No further than the size, which saves a read that only finds the end.
    File::from(file)
        .take(size as u64)
        .read_to_end(&mut octets)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok((octets, metadata))
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn first_certificate(pem: &[u8]) -> Option<Deployed> {
    // From there on: what stands before it, as somebody's key, is not decoded.
    let start = pem.windows(BEGIN.len()).position(|window| window == BEGIN)?;
    let der = parse_x509_pem(&pem[start..]).ok()?.1.contents;
    // All extensions but one say nothing of what is told here, and take the longest.
    let (_, leaf) = X509CertificateParser::new().with_deep_parse_extensions(false).parse(&der).ok()?;
    let mut serial = String::with_capacity(40);
    for octet in leaf.raw_serial() {
        let _ = write!(serial, "{octet:02x}");
    }
    Some(Deployed {
        fingerprint: Some(fingerprint(&der)),
        serial: Some(serial),
        not_after: Timestamp::from_second(leaf.validity().not_after.timestamp()).ok(),
        not_before: Timestamp::from_second(leaf.validity().not_before.timestamp()).ok(),
        names: Some(names(&leaf)),
        self_signed: leaf.issuer().as_raw() == leaf.subject().as_raw(),
        ..Deployed::default()
    })
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let extension = leaf.extensions().iter().find(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME);
    let Some((_, alternative)) =
        extension.and_then(|extension| SubjectAlternativeName::from_der(extension.value).ok())
    else {
        return Vec::new();
    };
    let dns = alternative.general_names.into_iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    dns.collect()
}

/// Where the first block of a PEM text ends, its newline included.
fn first_end(pem: &[u8]) -> usize {
    const END: &str = "-----END CERTIFICATE-----\n";
    // As text, whose search is many times faster than comparing at each octet.
    let text = std::str::from_utf8(pem)
        .unwrap_or_else(|error| std::str::from_utf8(&pem[..error.valid_up_to()]).unwrap_or_default());
    text.find(END).map_or(pem.len(), |at| at + END.len())
}

/// SHA-256 of a certificate.
pub(crate) fn fingerprint(der: &[u8]) -> Fingerprint {
    let mut octets = [0; 32];
    octets.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    Fingerprint::from_digest(octets)
}
