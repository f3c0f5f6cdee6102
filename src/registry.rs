//! The kinds of DNS providers and deploy targets: one line per provider crate.

use certplan_provider::DnsFactory;
use certplan_provider::TargetFactory;

/// The DNS providers, by kind.
pub const DNS: &[DnsFactory] = &[];

/// The deploy targets, by kind.
pub const TARGETS: &[TargetFactory] = &[];
