//! The kinds of DNS providers and deploy targets: one line per provider crate.

use certplan_provider::DnsFactory;
use certplan_provider::TargetFactory;

/// The DNS providers, by kind.
pub const DNS: &[DnsFactory] = &[
    #[cfg(feature = "powerdns")]
    certplan_powerdns::FACTORY,
    #[cfg(feature = "rfc2136")]
    certplan_rfc2136::FACTORY,
];

/// The deploy targets, by kind.
pub const TARGETS: &[TargetFactory] = &[
    #[cfg(feature = "files")]
    certplan_files::FACTORY,
];

/// The kinds that this build of certplan knows.
pub const BUILTIN: Registry = Registry { dns: DNS, targets: TARGETS };

/// A set of kinds: what is passed to everything that reads or builds blocks, so that tests bring their own.
#[derive(Debug, Clone, Copy)]
pub struct Registry {
    /// The DNS providers.
    pub dns: &'static [DnsFactory],
    /// The deploy targets.
    pub targets: &'static [TargetFactory],
}

impl Registry {
    /// The factory of a kind of DNS provider.
    pub fn dns_factory(&self, kind: &str) -> Option<&'static DnsFactory> {
        self.dns.iter().find(|factory| factory.kind == kind)
    }

    /// The factory of a kind of deploy target.
    pub fn target_factory(&self, kind: &str) -> Option<&'static TargetFactory> {
        self.targets.iter().find(|factory| factory.kind == kind)
    }
}
