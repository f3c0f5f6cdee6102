use std::fmt;
use std::net::SocketAddr;

use certplan_provider::Context;
use certplan_provider::ProviderError;
use futures::future;

use super::lookup::Alias;
use super::lookup::Lookup;
use super::lookup::LookupError;
use super::lookup::Path;
use super::providers::ConfiguredDns;
use super::providers::Providers;
use super::providers::depth;
use crate::model::ChallengeLocation;
use crate::model::Fqdn;
use crate::model::Name;
use crate::model::Propagation;
use crate::model::Zone;

/// Finds where the value for a challenge has to be written.
///
/// Follows CNAMEs from `_acme-challenge.<name>` to the name that holds the value and chooses the provider and zone
/// that can write it: the longest zone over all providers. A zone's own servers are asked along the `propagation` of
/// its provider. Names in nobody's zone are asked for at the resolvers of the provider in whose zone the way to them
/// began, else at those of all providers, and at the system's where none of these answers.
///
/// Where `propagation` is `provider` or `wait`, DNS as seen from here may be another one than the CA's: a question
/// without an answer is then a [`Note`], and the name itself is taken.
///
/// A wildcard CNAME answers for `_acme-challenge` too, which nobody meant. It does so only until something stands at
/// the name itself: where that can be written, it is, with a note.
pub async fn locate(
    context: &Context,
    providers: &Providers,
    lookup: &dyn Lookup,
    challenge: &Fqdn,
) -> Result<Located, LocateError> {
    let mut walk = Walk {
        context,
        providers,
        lookup,
        chain: vec![challenge.clone()],
        notes: Vec::new(),
        resolvers: resolvers(providers, None),
    };
    loop {
        let name = walk.end().clone();
        let choice = walk.choose(&name).await?;
        if let Some(best) = choice.best() {
            walk.resolvers = resolvers(providers, Some(&best.provider));
        }
        match walk.alias(&name, &choice).await? {
            Alias::Delegated(child) => {
                return Err(match choice.best() {
                    Some(best) => LocateError::DelegatedAway {
                        chain: walk.chain,
                        provider: best.provider.clone(),
                        zone: best.zone.name.clone(),
                        child,
                    },
                    None => LocateError::ForeignZone { chain: walk.chain },
                });
            }
            Alias::To(target) => {
                if walk.chain.len() == 1 && walk.is_wildcard(&name, &target, &choice).await {
                    return walk.beside_wildcard(&name, &target, choice).await;
                }
                walk.follow(&target)?;
            }
            Alias::Missing => return walk.arrive(choice, true),
            Alias::None => return walk.arrive(choice, false),
        }
    }
}

/// Where a challenge's value goes, and what is worth knowing about the way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The place.
    pub location: ChallengeLocation,
    /// Remarks for the user.
    pub notes: Vec<Note>,
}

/// A remark about the way to a challenge's place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A provider could not say whether it has a zone for the name; another has one.
    ProviderSilent {
        /// The provider.
        provider: Name,
        /// What it said.
        reason: String,
    },
    /// DNS could not be asked for a CNAME, so that the name itself is used.
    Unresolved {
        /// The name.
        name: Fqdn,
        /// Why not.
        reason: String,
    },
    /// A wildcard CNAME answers for the name until the value is written there.
    WildcardBypassed {
        /// The name.
        name: Fqdn,
        /// Where the wildcard leads.
        target: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProviderSilent { provider, reason } => {
                write!(f, "DNS provider `{provider}` could not tell its zones and is left out: {reason}")
            }
            Self::Unresolved { name, reason } => {
                write!(
                    f,
                    "`{name}` is used as it is, because DNS could not be asked for a CNAME there: {reason}"
                )
            }
            Self::WildcardBypassed { name, target } => write!(
                f,
                "a wildcard CNAME to `{}` answers for `{name}`; the value is written at `{name}` itself, where it \
                 takes precedence",
                target.escape_debug()
            ),
        }
    }
}

/// A provider's zone that a name can be written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The provider.
    pub provider: Name,
    /// Its zone.
    pub zone: Zone,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` of provider `{}` (zone id `{}`)",
            self.zone.name,
            self.provider,
            self.zone.id.escape_debug()
        )
    }
}

/// The zones that a name can be written in, the longest first, and the providers that could not tell.
struct Choice {
    candidates: Vec<Candidate>,
    failures: Vec<(Name, ProviderError)>,
}

impl Choice {
    fn best(&self) -> Option<&Candidate> {
        self.candidates.first()
    }

    /// The candidates that are as good as the best.
    fn equals(&self) -> &[Candidate] {
        let Some(best) = self.best() else { return &[] };
        let count = self.candidates.iter().take_while(|other| other.zone.name == best.zone.name).count();
        &self.candidates[..count]
    }
}

/// A walk along CNAMEs.
struct Walk<'a> {
    context: &'a Context,
    providers: &'a Providers,
    lookup: &'a dyn Lookup,
    chain: Vec<Fqdn>,
    notes: Vec<Note>,
    /// The configured resolvers for names in nobody's zone.
    resolvers: Vec<SocketAddr>,
}

impl Walk<'_> {
    fn end(&self) -> &Fqdn {
        // The chain starts with the challenge's name and only grows.
        &self.chain[self.chain.len() - 1]
    }

    async fn choose(&self, name: &Fqdn) -> Result<Choice, LocateError> {
        let mut choice = Choice { candidates: Vec::new(), failures: Vec::new() };
        let asked = self.providers.iter().map(|(provider, configured)| async move {
            (provider, configured.zones_for(self.context, name).await)
        });
        // All at once: one that does not answer delays no other.
        for (provider, answer) in future::join_all(asked).await {
            match answer {
                Ok(zones) => choice
                    .candidates
                    .extend(zones.into_iter().map(|zone| Candidate { provider: provider.clone(), zone })),
                Err(error) => choice.failures.push((provider.clone(), error)),
            }
        }
        choice.candidates.sort_by_key(|candidate| std::cmp::Reverse(depth(&candidate.zone.name)));
        Ok(choice)
    }

    async fn alias(&mut self, name: &Fqdn, choice: &Choice) -> Result<Alias, LocateError> {
        let (path, tolerant) = self.path(choice);
        match self.lookup.alias(name, path).await {
            Ok(alias) => Ok(alias),
            Err(error) if tolerant => {
                self.notes.push(Note::Unresolved { name: name.clone(), reason: error.to_string() });
                Ok(Alias::None)
            }
            Err(source) => Err(LocateError::Lookup { chain: self.chain.clone(), source }),
        }
    }

    /// Whom to ask about a name, and whether its silence is no error.
    fn path<'b>(&'b self, choice: &'b Choice) -> (Path<'b>, bool) {
        let owner = choice.best().and_then(|best| Some((best, self.providers.get(&best.provider)?)));
        let Some((best, configured)) = owner else {
            let resolvers = (!self.resolvers.is_empty()).then_some(self.resolvers.as_slice());
            return (Path::Resolvers { zone: None, resolvers, allow_private: false }, false);
        };
        let zone = &best.zone.name;
        let allow_private = configured.allow_private_servers;
        match &configured.propagation {
            Propagation::Authoritative => (Path::Authoritative { zone, allow_private }, false),
            Propagation::Resolvers(resolvers) => {
                let resolvers = Some(resolvers.as_slice());
                (Path::Resolvers { zone: Some(zone), resolvers, allow_private }, false)
            }
            Propagation::Provider | Propagation::Wait(_) => {
                (Path::Resolvers { zone: Some(zone), resolvers: None, allow_private }, true)
            }
        }
    }

    /// Whether a CNAME is a wildcard's: then a name that nobody can have made has the same.
    async fn is_wildcard(&self, name: &Fqdn, target: &str, choice: &Choice) -> bool {
        let Some(sibling) = name.parent().and_then(|parent| parent.prepend(&random_label()).ok()) else {
            return false;
        };
        let (path, _) = self.path(choice);
        matches!(self.lookup.alias(&sibling, path).await, Ok(Alias::To(other)) if same(&other, target))
    }

    async fn beside_wildcard(
        mut self,
        name: &Fqdn,
        target: &str,
        choice: Choice,
    ) -> Result<Located, LocateError> {
        let capture =
            |hides| LocateError::WildcardCapture { name: name.clone(), target: target.to_owned(), hides };
        let Some(best) = choice.best() else { return Err(capture(None)) };
        // A wildcard answers only for names that do not exist, and a name exists as soon as something is below it
        // (RFC 4592, section 2.2.2): if the host lives by a wildcard further up, the value would hide it.
        if let Some(host) = name.parent().filter(|host| *host != best.zone.name) {
            let (path, _) = self.path(&choice);
            let at_host = self.lookup.alias(&host, path).await;
            if matches!(at_host, Ok(Alias::To(other)) if same(&other, target))
                && self.is_wildcard(&host, target, &choice).await
            {
                return Err(capture(Some(host)));
            }
        }
        self.notes.push(Note::WildcardBypassed { name: name.clone(), target: target.to_owned() });
        self.arrive(choice, false)
    }

    fn follow(&mut self, target: &str) -> Result<(), LocateError> {
        let next = Fqdn::new(target).map_err(|_| LocateError::InvalidTarget {
            chain: self.chain.clone(),
            target: target.to_owned(),
        })?;
        let returns = self.chain.contains(&next);
        self.chain.push(next);
        if returns {
            return Err(LocateError::Loop { chain: self.chain.clone() });
        }
        if self.chain.len() > MAX_HOPS + 1 {
            return Err(LocateError::TooManyHops { chain: self.chain.clone() });
        }
        Ok(())
    }

    fn arrive(mut self, mut choice: Choice, missing: bool) -> Result<Located, LocateError> {
        let equals = choice.equals();
        if equals.len() > 1 {
            return Err(LocateError::Ambiguous { chain: self.chain, candidates: equals.to_vec() });
        }
        if choice.candidates.is_empty() {
            if let Some((provider, source)) = choice.failures.pop() {
                return Err(LocateError::Provider { chain: self.chain, provider, source });
            }
            return Err(match (self.chain.len(), missing) {
                (1, _) => LocateError::NoZone {
                    name: self.end().clone(),
                    providers: self.providers.keys().cloned().collect(),
                },
                (_, true) => LocateError::Dangling { chain: self.chain },
                (_, false) => LocateError::ForeignZone { chain: self.chain },
            });
        }
        let Candidate { provider, zone } = choice.candidates.swap_remove(0);
        self.notes.extend(
            choice
                .failures
                .into_iter()
                .map(|(provider, error)| Note::ProviderSilent { provider, reason: error.to_string() }),
        );
        Ok(Located { location: ChallengeLocation { chain: self.chain, provider, zone }, notes: self.notes })
    }
}

/// The resolvers that the configuration has: those of one provider, or when it has none, of all.
fn resolvers(providers: &Providers, owner: Option<&Name>) -> Vec<SocketAddr> {
    let of = |configured: &ConfiguredDns| match &configured.propagation {
        Propagation::Resolvers(resolvers) => resolvers.clone(),
        _ => Vec::new(),
    };
    let own = owner.and_then(|owner| providers.get(owner)).map(of).unwrap_or_default();
    if !own.is_empty() {
        return own;
    }
    let mut all = Vec::new();
    for resolver in providers.values().flat_map(of) {
        if !all.contains(&resolver) {
            all.push(resolver);
        }
    }
    all
}

/// How many CNAMEs are followed.
const MAX_HOPS: usize = 8;

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'))
}

fn random_label() -> String {
    let mut octets = [0; 8];
    // Without randomness the label is still one that nobody has made.
    let _ = aws_lc_rs::rand::fill(&mut octets);
    format!("certplan-{:016x}", u64::from_be_bytes(octets))
}

fn arrows(chain: &[Fqdn]) -> String {
    chain.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" -> ")
}

fn names<T: ToString>(names: &[T]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn pin(candidates: &[Candidate]) -> &'static str {
    if candidates.windows(2).all(|pair| pair[0].provider == pair[1].provider) {
        "one account holds the zone twice: remove one, or pin the zone's id in the provider's block"
    } else {
        "list the zone under `zones:` of the provider that is to write it, and under `zones:` of the other only what \
         that one is to write"
    }
}

/// Why no place for a challenge's value was found. The text shows the way that was gone and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// Two zones are equally good.
    #[error("{} can be written in {}: {}", arrows(chain), names(candidates), pin(candidates))]
    Ambiguous {
        /// The names on the way.
        chain: Vec<Fqdn>,
        /// The zones.
        candidates: Vec<Candidate>,
    },
    /// A CNAME leads to a name that does not exist, in a zone that no provider has.
    #[error(
        "{} ends at a name that does not exist, and no DNS provider has a zone for it: point the CNAME into a zone of \
         a configured provider, or remove it",
        arrows(chain)
    )]
    Dangling {
        /// The names on the way.
        chain: Vec<Fqdn>,
    },
    /// The provider's zone delegates the name to other servers.
    #[error(
        "{} is in zone `{zone}` of provider `{provider}`, which delegates `{child}` to other name servers: add a \
         provider that can write `{child}`",
        arrows(chain)
    )]
    DelegatedAway {
        /// The names on the way.
        chain: Vec<Fqdn>,
        /// The provider.
        provider: Name,
        /// Its zone.
        zone: Fqdn,
        /// The zone below it.
        child: Fqdn,
    },
    /// A CNAME leads into a zone that no provider has.
    #[error(
        "{} leads into a zone that no DNS provider of the configuration can write: add a provider for it, or point the \
         CNAME into a zone of a configured one",
        arrows(chain)
    )]
    ForeignZone {
        /// The names on the way.
        chain: Vec<Fqdn>,
    },
    /// A CNAME leads to what is no usable name.
    #[error("{} has a CNAME to `{}`, which is no host name: correct it", arrows(chain), target.escape_debug())]
    InvalidTarget {
        /// The names on the way.
        chain: Vec<Fqdn>,
        /// The target.
        target: String,
    },
    /// DNS could not be asked.
    #[error(
        "cannot find out whether {} has a CNAME; if this network cannot ask the zone's name servers, set `propagation` \
         for the provider",
        arrows(chain)
    )]
    Lookup {
        /// The names on the way.
        chain: Vec<Fqdn>,
        /// Why not.
        #[source]
        source: LookupError,
    },
    /// CNAMEs lead in a circle.
    #[error("{} is a loop of CNAMEs: remove one of them", arrows(chain))]
    Loop {
        /// The names on the way; the last is there twice.
        chain: Vec<Fqdn>,
    },
    /// No provider has a zone for the name.
    #[error(
        "no DNS provider has a zone for `{name}` (asked: {}): add one under `dns:`, give its credential access to the \
         zone, or delegate the name with a CNAME into a zone of a configured provider",
        names(providers)
    )]
    NoZone {
        /// The name.
        name: Fqdn,
        /// The providers.
        providers: Vec<Name>,
    },
    /// A provider could not tell its zones, and no other has one.
    #[error("DNS provider `{provider}` cannot tell whether it has a zone for {}", arrows(chain))]
    Provider {
        /// The names on the way.
        chain: Vec<Fqdn>,
        /// The provider.
        provider: Name,
        /// Why not.
        #[source]
        source: ProviderError,
    },
    /// More than eight CNAMEs in a row.
    #[error("{} are more than {MAX_HOPS} CNAMEs in a row: shorten the chain", arrows(chain))]
    TooManyHops {
        /// The names on the way.
        chain: Vec<Fqdn>,
    },
    /// A wildcard CNAME answers for the name, and writing the name itself is not possible.
    #[error(
        "`{name}` -> `{}` comes from a wildcard CNAME: {}",
        target.escape_debug(),
        match hides {
            Some(host) => format!(
                "`{host}` itself lives by that wildcard and would vanish while a value is at `{name}`; give `{host}` \
                 records of its own first"
            ),
            None => format!(
                "no DNS provider can write `{name}` itself; add one for its zone, or make a CNAME at `{name}` into a \
                 zone of a configured provider"
            ),
        }
    )]
    WildcardCapture {
        /// The name.
        name: Fqdn,
        /// Where the wildcard leads.
        target: String,
        /// The host name that a value would hide.
        hides: Option<Fqdn>,
    },
}

#[cfg(test)]
mod tests;
