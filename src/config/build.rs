//! Builds what a configuration names, offline, to let providers say what only they know.

use std::collections::BTreeMap;
use std::collections::HashMap;
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
        let mut targets: BTreeMap<&Name, Arc<dyn DeployTarget>> = BTreeMap::new();
        for (name, target) in &self.desired.targets {
            let Some(factory) = registry.target_factory(&target.kind) else { continue };
            match (factory.build)(&target.block, &context) {
                Ok(built) => drop(targets.insert(name, built)),
                Err(complaints) => nodes.complain(complaints, self.places.targets.get(name), &mut report),
            }
        }
        self.check_slots(&targets, &nodes, &mut report);
        report.finish(Arc::clone(&self.sources))
    }

    fn check_slots(
        &self,
        targets: &BTreeMap<&Name, Arc<dyn DeployTarget>>,
        nodes: &Nodes<'_>,
        report: &mut Report,
    ) {
        let mut slots: HashMap<(String, String), &Place> = HashMap::new();
        for certificate in self.desired.certificates.values() {
            for deployment in &certificate.deploy {
                let Some(target) = targets.get(&deployment.target) else { continue };
                let address = Address::Deployment(certificate.name.clone(), deployment.target.clone());
                let Some(place) = self.places.addresses.get(&address) else { continue };
                let slot = match target.slot(certificate.name.as_str(), &deployment.parameters) {
                    Ok(slot) => slot,
                    Err(complaints) => {
                        nodes.complain(complaints, Some(place), report);
                        continue;
                    }
                };
                // Targets written in place are one target when their blocks are the same.
                let identity = self
                    .desired
                    .targets
                    .get(&deployment.target)
                    .map_or_else(String::new, |target| format!("{} {}", target.kind, target.block));
                if let Some(first) = slots.get(&(identity.clone(), slot.location.clone())) {
                    let message = format!("two deployments go to one place, {}", quoted(&slot.location));
                    report.push(
                        Diagnostic::error("same-place", place.span, message)
                            .related(first.span, "the other one"),
                    );
                    continue;
                }
                slots.insert((identity, slot.location), place);
            }
        }
    }
}

/// The nodes of a tree by their identifiers.
struct Nodes<'a>(HashMap<u32, &'a Node>);

impl<'a> Nodes<'a> {
    fn new(root: &'a Node) -> Self {
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
        Self(nodes)
    }

    fn complain(&self, complaints: Vec<Complaint>, place: Option<&Place>, report: &mut Report) {
        let Some(block) = place.and_then(|place| self.0.get(&place.node)) else { return };
        for complaint in complaints {
            report.push(complained(&complaint, block));
        }
    }
}
