//! Builds what a configuration names, offline, to let providers say what only they know.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use certplan_provider::BuildContext;
use certplan_provider::Complaint;
use certplan_provider::DeployTarget;
use certplan_provider::Secret;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::Unresolved;

use super::convert::Place;
use super::convert::Places;
use super::convert::complained;
use super::diagnostic::Diagnostic;
use super::diagnostic::Report;
use super::diagnostic::quoted;
use super::node::Content;
use super::node::Node;
use crate::model::Address;
use crate::model::Desired;
use crate::model::Name;
use crate::model::StateBackend;
use crate::registry::Registry;

/// Builds every DNS provider and target and reads the parameters of every deployment, without network and without
/// resolving a secret: what they complain about goes to the report, at its place.
///
/// Two deployments to one place are an error too, whatever targets lead there: they would overwrite each other for ever.
pub(super) fn check(
    desired: &Desired,
    places: &Places,
    root: &Node,
    registry: &Registry,
    report: &mut Report,
) {
    let context = BuildContext::new(Arc::new(NoSecrets), desired.base.clone(), "certplan".to_owned());
    let nodes = Nodes::new(root);
    for (name, provider) in &desired.dns {
        if let Some(place) = places.dns.get(name)
            && let Some(factory) = registry.dns_factory(&provider.kind)
            && let Err(complaints) = (factory.build)(&provider.block, &context)
        {
            nodes.complain(complaints, place, report);
        }
    }
    let mut targets: BTreeMap<&Name, Built> = BTreeMap::new();
    for (name, target) in &desired.targets {
        let Some(place) = places.targets.get(name) else { continue };
        let Some(factory) = registry.target_factory(&target.kind) else { continue };
        match (factory.build)(&target.block, &context) {
            Ok(built) => {
                targets.insert(name, Built { target: built, kind: factory.kind });
            }
            Err(complaints) => nodes.complain(complaints, place, report),
        }
    }
    check_slots(desired, places, &targets, &nodes, report);
}

fn check_slots(
    desired: &Desired,
    places: &Places,
    targets: &BTreeMap<&Name, Built>,
    nodes: &Nodes<'_>,
    report: &mut Report,
) {
    let StateBackend::Local { path: state } = &desired.state;
    let state = std::path::absolute(desired.base.join(state)).unwrap_or_default();
    let mut slots: HashMap<(&str, String), &Place> = HashMap::with_capacity(desired.certificates.len());
    for certificate in desired.certificates.values() {
        for deployment in &certificate.deploy {
            let Some(Built { target, kind }) = targets.get(&deployment.target) else { continue };
            let address = Address::Deployment(certificate.name.clone(), deployment.target.clone());
            let Some(place) = places.addresses.get(&address) else { continue };
            let slot = match target.slot(certificate.name.as_str(), &deployment.parameters) {
                Ok(slot) => slot,
                Err(complaints) => {
                    nodes.complain(complaints, place, report);
                    continue;
                }
            };
            if Path::new(&slot.location).starts_with(&state) {
                let message = format!("{} is in the folder of state", quoted(&slot.location));
                report.push(Diagnostic::error("in-state", place.span, message).help(
                    "state may be copied and committed, and private keys must not: choose another folder",
                ));
            }
            match slots.entry((*kind, slot.location)) {
                Entry::Vacant(free) => {
                    free.insert(place);
                }
                Entry::Occupied(taken) => {
                    let message = format!("two deployments go to one place, {}", quoted(&taken.key().1));
                    report.push(
                        Diagnostic::error("same-place", place.span, message)
                            .help("a place holds one certificate: give one of them another place")
                            .related(taken.get().span, "the other one"),
                    );
                }
            }
        }
    }
}

/// Resolves nothing: what is built here is only looked at.
#[derive(Debug)]
struct NoSecrets;

impl SecretResolver for NoSecrets {
    fn resolve(&self, reference: &SecretRef) -> Result<Secret, Unresolved> {
        Err(Unresolved { reference: reference.clone(), reason: "is not read while validating".to_owned() })
    }
}

/// A target and its kind, within which a location is one place.
struct Built {
    target: Arc<dyn DeployTarget>,
    kind: &'static str,
}

/// The nodes of a tree by their identifiers, gathered when the first one is asked for.
struct Nodes<'a> {
    root: &'a Node,
    by_id: OnceCell<HashMap<u32, &'a Node>>,
}

impl<'a> Nodes<'a> {
    const fn new(root: &'a Node) -> Self {
        Self { root, by_id: OnceCell::new() }
    }

    fn gather(root: &'a Node) -> HashMap<u32, &'a Node> {
        let mut nodes = HashMap::new();
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            match &node.content {
                Content::List(items) => open.extend(items),
                Content::Map(entries) => open.extend(entries.iter().map(|entry| &entry.value)),
                // No provider reads a block that is not a map.
                Content::Scalar { .. } => continue,
            }
            nodes.insert(node.id, node);
        }
        nodes
    }

    fn complain(&self, complaints: Vec<Complaint>, place: &Place, report: &mut Report) {
        let nodes = self.by_id.get_or_init(|| Self::gather(self.root));
        let Some(block) = nodes.get(&place.node) else { return };
        for complaint in complaints {
            report.push(complained(&complaint, block));
        }
    }
}
