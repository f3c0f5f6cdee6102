//! Builds what a configuration names, offline, to let providers say what only they know.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use certplan_provider::BuildContext;
use certplan_provider::Complaint;
use certplan_provider::DeployTarget;
use certplan_provider::SecretResolver;

use super::Loaded;
use super::convert::Place;
use super::convert::complained;
use super::diagnostic::Diagnostic;
use super::diagnostic::Diagnostics;
use super::diagnostic::Report;
use super::diagnostic::quoted;
use super::node::Content;
use super::node::Node;
use crate::model::Address;
use crate::model::Name;
use crate::registry::Registry;

impl Loaded {
    /// Builds every DNS provider and target and reads the parameters of every deployment, without network and without
    /// resolving a secret: what they complain about, at its place.
    ///
    /// Two deployments to one place of one target are an error too: they would overwrite each other for ever.
    pub fn check_providers(
        &self,
        registry: &Registry,
        secrets: &Arc<dyn SecretResolver>,
        user_agent: &str,
    ) -> Diagnostics {
        let context =
            BuildContext::new(Arc::clone(secrets), self.desired.base.clone(), user_agent.to_owned());
        let mut report = Report::default();
        let nodes = Nodes::new(&self.root);
        for (name, provider) in &self.desired.dns {
            if let Some(factory) = registry.dns_factory(&provider.kind)
                && let Err(complaints) = (factory.build)(&provider.block, &context)
            {
                nodes.complain(complaints, self.places.dns.get(name), &mut report);
            }
        }
        let mut targets: BTreeMap<&Name, Built> = BTreeMap::new();
        for (name, target) in &self.desired.targets {
            let Some(factory) = registry.target_factory(&target.kind) else { continue };
            match (factory.build)(&target.block, &context) {
                Ok(built) => {
                    let identity = format!("{} {}", target.kind, target.block);
                    targets.insert(name, Built { target: built, identity });
                }
                Err(complaints) => nodes.complain(complaints, self.places.targets.get(name), &mut report),
            }
        }
        self.check_slots(&targets, &nodes, &mut report);
        report.finish(Arc::clone(&self.sources))
    }

    fn check_slots(&self, targets: &BTreeMap<&Name, Built>, nodes: &Nodes<'_>, report: &mut Report) {
        let mut slots: HashMap<(&str, String), &Place> =
            HashMap::with_capacity(self.desired.certificates.len());
        for certificate in self.desired.certificates.values() {
            for deployment in &certificate.deploy {
                let Some(Built { target, identity }) = targets.get(&deployment.target) else { continue };
                let address = Address::Deployment(certificate.name.clone(), deployment.target.clone());
                let Some(place) = self.places.addresses.get(&address) else { continue };
                let slot = match target.slot(certificate.name.as_str(), &deployment.parameters) {
                    Ok(slot) => slot,
                    Err(complaints) => {
                        nodes.complain(complaints, Some(place), report);
                        continue;
                    }
                };
                match slots.entry((identity, slot.location)) {
                    Entry::Vacant(free) => {
                        free.insert(place);
                    }
                    Entry::Occupied(taken) => {
                        let message = format!("two deployments go to one place, {}", quoted(&taken.key().1));
                        report.push(
                            Diagnostic::error("same-place", place.span, message)
                                .related(taken.get().span, "the other one"),
                        );
                    }
                }
            }
        }
    }
}

/// A target, and what tells it from others: those written in place are one when their blocks are the same.
struct Built {
    target: Arc<dyn DeployTarget>,
    identity: String,
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

    fn complain(&self, complaints: Vec<Complaint>, place: Option<&Place>, report: &mut Report) {
        let nodes = self.by_id.get_or_init(|| Self::gather(self.root));
        let Some(block) = place.and_then(|place| nodes.get(&place.node)) else { return };
        for complaint in complaints {
            report.push(complained(&complaint, block));
        }
    }
}
