use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use certplan_provider::Complaint;
use certplan_provider::ProviderError;
use certplan_provider::Slot;
use rustix::fs::RawMode;
use serde::Deserialize;
use serde::Serialize;

use crate::block::FilesBlock;
use crate::block::FilesParameters;
use crate::block::Format;
use crate::block::Layout;
use crate::block::check_account;
use crate::block::check_formats;
use crate::block::checked_directory;
use crate::block::checked_name;
use crate::block::parse_mode;

/// The folder within the target's folder that holds the versions.
pub(crate) const OURS: &str = ".certplan";

/// Where one certificate goes and how: the normalised parameters of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The target's folder, absolute.
    pub(crate) directory: PathBuf,
    /// The name in it.
    pub(crate) name: String,
    pub(crate) layout: Layout,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// The mode of files that hold the key, as four octal digits.
    pub(crate) mode: String,
    /// Sorted, without duplicates; empty in the layout `haproxy`, which has one format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) formats: Vec<Format>,
}

/// A file of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PemFile {
    Cert,
    Chain,
    Combined,
    Fullchain,
    Privkey,
}

impl PemFile {
    /// All that there are.
    pub(crate) const ALL: [Self; 5] =
        [Self::Cert, Self::Chain, Self::Combined, Self::Fullchain, Self::Privkey];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cert => "cert.pem",
            Self::Chain => "chain.pem",
            Self::Combined => "combined.pem",
            Self::Fullchain => "fullchain.pem",
            Self::Privkey => "privkey.pem",
        }
    }

    /// Whether the private key is in it.
    pub(crate) const fn is_secret(self) -> bool {
        matches!(self, Self::Combined | Self::Privkey)
    }
}

impl Place {
    /// Combines a target's block with the parameters of a deployment.
    pub(crate) fn new(
        block: &FilesBlock,
        directory: &Path,
        certificate: &str,
        parameters: FilesParameters,
    ) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let name = parameters.name.unwrap_or_else(|| certificate.to_owned());
        if let Err(complaint) = checked_name(&name) {
            complaints.push(complaint);
        }
        check_account("/owner", parameters.owner.as_deref(), &mut complaints);
        check_account("/group", parameters.group.as_deref(), &mut complaints);
        check_formats(block.layout, parameters.formats.as_deref(), &mut complaints);
        let group = parameters.group.or_else(|| block.group.clone());
        let default_mode = if group.is_some() { "0640" } else { "0600" };
        let mode = parameters.mode.as_deref().or(block.mode.as_deref()).unwrap_or(default_mode);
        let mode = parse_mode(mode).unwrap_or_else(|complaint| {
            complaints.push(complaint);
            0
        });
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let mut formats = match block.layout {
            Layout::Certbot => {
                parameters.formats.or_else(|| block.formats.clone()).unwrap_or_else(|| vec![Format::Pem])
            }
            Layout::Haproxy => Vec::new(),
        };
        formats.sort_unstable();
        formats.dedup();
        Ok(Self {
            directory: directory.to_owned(),
            name,
            layout: block.layout,
            owner: parameters.owner.or_else(|| block.owner.clone()),
            group,
            mode: format!("{mode:04o}"),
            formats,
        })
    }

    /// Reads a slot back, which may come from state: it is checked like input.
    pub(crate) fn from_slot(slot: &Slot) -> Result<Self, ProviderError> {
        let shown = slot.location.escape_debug().to_string();
        let broken = |what: &str| ProviderError::invalid(format!("the slot `{shown}` {what}"));
        let place = Self::deserialize(&slot.parameters)
            .map_err(|error| broken("has parameters that are not of this target").with_source(error))?;
        let mut complaints = Vec::new();
        check_account("/owner", place.owner.as_deref(), &mut complaints);
        check_account("/group", place.group.as_deref(), &mut complaints);
        let directory =
            place.directory.to_str().ok_or_else(|| broken("has a directory that is not UTF-8"))?;
        complaints.extend(checked_directory(directory).err());
        complaints.extend(checked_name(&place.name).err());
        complaints.extend(parse_mode(&place.mode).err());
        if let Some(complaint) = complaints.first() {
            return Err(broken(&format!("is not valid: {}", complaint.message)));
        }
        if !place.directory.is_absolute() || place.directory != lexical(&place.directory) {
            return Err(broken("has a directory that is not an absolute path"));
        }
        if slot.location != place.location().to_string_lossy() {
            return Err(broken("is not where its parameters say"));
        }
        Ok(place)
    }

    /// The slot of this place.
    pub(crate) fn into_slot(self) -> Result<Slot, Vec<Complaint>> {
        let location =
            self.location().to_str().map(ToOwned::to_owned).ok_or_else(|| {
                vec![Complaint::new("", "the path of the configuration's folder is not UTF-8")]
            })?;
        let parameters =
            serde_json::to_value(self).map_err(|error| vec![Complaint::new("", error.to_string())])?;
        Ok(Slot { location, parameters })
    }

    /// The name of the symbolic link in the target's folder.
    pub(crate) fn entry(&self) -> String {
        match self.layout {
            Layout::Certbot => self.name.clone(),
            Layout::Haproxy => format!("{}.pem", self.name),
        }
    }

    /// The path of the symbolic link.
    pub(crate) fn location(&self) -> PathBuf {
        self.directory.join(self.entry())
    }

    /// The folder that holds the versions.
    pub(crate) fn home(&self) -> PathBuf {
        self.directory.join(OURS).join(self.entry())
    }

    /// The folder of a version, from the target's folder.
    pub(crate) fn folder_of(&self, version: &str) -> String {
        format!("{OURS}/{}/{version}", self.entry())
    }

    /// What the symbolic link says for a version.
    pub(crate) fn link_to(&self, version: &str) -> String {
        let folder = self.folder_of(version);
        match self.layout {
            Layout::Certbot => folder,
            Layout::Haproxy => format!("{folder}/{}", PemFile::Combined.name()),
        }
    }

    /// The version that a symbolic link leads to; `None` when the link is not ours.
    pub(crate) fn version_of<'a>(&self, link: &'a str) -> Option<&'a str> {
        let rest =
            link.strip_prefix(OURS)?.strip_prefix('/')?.strip_prefix(&self.entry())?.strip_prefix('/')?;
        let version =
            rest.strip_suffix(PemFile::Combined.name()).and_then(|v| v.strip_suffix('/')).unwrap_or(rest);
        sequence(version).map(|_| version)
    }

    /// The mode of files that hold the key.
    pub(crate) fn secret_mode(&self) -> RawMode {
        // Both ways to make a place check the mode; the fallback is the strictest that serves.
        parse_mode(&self.mode).unwrap_or(0o600)
    }

    /// The files of a version. The chain is always among them, so that looking needs no file with the key.
    pub(crate) fn files(&self) -> Vec<PemFile> {
        match self.layout {
            Layout::Haproxy => vec![PemFile::Fullchain, PemFile::Combined],
            Layout::Certbot => {
                let mut files = vec![PemFile::Fullchain];
                if self.formats.contains(&Format::Pem) {
                    files.extend([PemFile::Cert, PemFile::Chain, PemFile::Privkey]);
                }
                if self.formats.contains(&Format::Combined) {
                    files.push(PemFile::Combined);
                }
                files
            }
        }
    }
}

/// The number of a version from its folder's name, `000007-3f2a1b9c0d4e`; `None` when it is no version of ours.
pub(crate) fn sequence(version: &str) -> Option<u64> {
    let (number, fingerprint) = version.split_once('-')?;
    let ours = number.len() >= 6
        && number.bytes().all(|b| b.is_ascii_digit())
        && fingerprint.len() == 12
        && fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
    if ours { number.parse().ok() } else { None }
}

/// A path without `.` components and trailing slashes.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(block: serde_json::Value, parameters: serde_json::Value) -> Result<Place, Vec<Complaint>> {
        let block = FilesBlock::read(&block).unwrap();
        Place::new(&block, Path::new("/srv/tls"), "shop", Complaint::read(&parameters).unwrap())
    }

    #[test]
    fn parameters_override_the_block() {
        let block = json!({ "directory": "/srv/tls", "owner": "root", "group": "ssl-cert" });
        let plain = place(block.clone(), json!({})).unwrap();
        assert_eq!((plain.name.as_str(), plain.mode.as_str()), ("shop", "0640"));
        let other =
            place(block, json!({ "name": "shop.example.com", "owner": "web", "mode": "600" })).unwrap();
        assert_eq!(other.location(), Path::new("/srv/tls/shop.example.com"));
        assert_eq!((other.owner.as_deref(), other.mode.as_str()), (Some("web"), "0600"));
        assert_eq!(other.group.as_deref(), Some("ssl-cert"));
    }

    #[test]
    fn a_slot_is_read_back_as_it_was() {
        let place = place(json!({ "directory": "/srv/tls", "layout": "haproxy" }), json!({})).unwrap();
        let slot = place.clone().into_slot().unwrap();
        assert_eq!(slot.location, "/srv/tls/shop.pem");
        assert_eq!(Place::from_slot(&slot).unwrap(), place);
    }

    #[test]
    fn a_forged_slot_is_refused() {
        let good = place(json!({ "directory": "/srv/tls" }), json!({})).unwrap().into_slot().unwrap();
        for (pointer, forged) in [
            ("name", json!("../../etc")),
            ("name", json!("other")),
            ("directory", json!("/srv/tls/../../etc")),
            ("directory", json!("srv")),
            ("mode", json!("0666")),
            ("owner", json!("a:b")),
        ] {
            let mut slot = good.clone();
            slot.parameters[pointer] = forged.clone();
            assert!(Place::from_slot(&slot).is_err(), "{pointer}: {forged}");
        }
        assert!(Place::from_slot(&good).is_ok());
    }

    #[test]
    fn only_links_into_our_own_folder_are_ours() {
        let place = place(json!({ "directory": "/srv/tls" }), json!({})).unwrap();
        let version = "000001-0123456789ab";
        assert_eq!(place.version_of(&place.link_to(version)), Some(version));
        assert_eq!(place.version_of(".certplan/shop/000001-0123456789ab/combined.pem"), Some(version));
        for foreign in [
            "../../archive/shop",
            ".certplan/other/000001-0123456789ab",
            ".certplan/shop/../../x",
            ".certplan/shop/000001-0123456789ab/../..",
            "/srv/tls/.certplan/shop/000001-0123456789ab",
            ".certplan/shop/",
        ] {
            assert_eq!(place.version_of(foreign), None, "{foreign}");
        }
    }
}
