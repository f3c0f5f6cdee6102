//! What is known about public certification authorities before they are asked.

use std::time::Duration;

use url::Url;

/// A public CA.
#[derive(Debug)]
pub(crate) struct Ca {
    /// Its short name.
    pub(crate) name: &'static str,
    /// Its directory.
    pub(crate) directory: &'static str,
    /// Whether a new account needs an external account binding.
    pub(crate) binding: bool,
    /// Whether it runs Boulder: Let's Encrypt.
    pub(crate) boulder: bool,
}

const fn ca(name: &'static str, directory: &'static str, binding: bool) -> Ca {
    Ca { name, directory, binding, boulder: false }
}

/// The CAs that need no `directory:`.
pub(crate) const KNOWN: [Ca; 9] = [
    ca("actalis", "https://acme-api.actalis.com/acme/directory", true),
    ca("google", "https://dv.acme-v02.api.pki.goog/directory", true),
    ca("google-staging", "https://dv.acme-v02.test-api.pki.goog/directory", true),
    Ca { boulder: true, ..ca("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory", false) },
    Ca {
        boulder: true,
        ..ca("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory", false)
    },
    ca("sslcom", "https://acme.ssl.com/sslcom-dv-rsa", true),
    ca("sslcom-ecc", "https://acme.ssl.com/sslcom-dv-ecc", true),
    ca("sslcom-rsa", "https://acme.ssl.com/sslcom-dv-rsa", true),
    ca("zerossl", "https://acme.zerossl.com/v2/DV90", true),
];

impl Ca {
    /// The CA with a short name.
    pub(crate) fn by_name(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|ca| ca.name == name)
    }

    /// The CA with a directory.
    pub(crate) fn by_directory(directory: &Url) -> Option<&'static Self> {
        KNOWN.iter().find(|ca| ca.directory == directory.as_str())
    }

    /// How long certificates of a profile live, where that is known
    /// (<https://letsencrypt.org/docs/profiles/>).
    pub(crate) fn lifetime(&self, profile: Option<&str>) -> Option<Duration> {
        const HOUR: u64 = 3_600;
        if !self.boulder {
            return None;
        }
        match profile {
            None | Some("classic") => Some(Duration::from_secs(90 * 24 * HOUR)),
            Some("tlsserver") => Some(Duration::from_secs(45 * 24 * HOUR)),
            Some("shortlived") => Some(Duration::from_secs(160 * HOUR)),
            Some(_) => None,
        }
    }

    /// How many names a certificate of a profile holds at most, where that is known.
    pub(crate) fn most_names(&self, profile: Option<&str>) -> Option<usize> {
        match profile {
            _ if !self.boulder => None,
            Some("tlsserver" | "shortlived") => Some(25),
            _ => Some(100),
        }
    }
}
