//! A plan for people, in the manner of Terraform.
//!
//! It is made from the [`PlanDocument`], so that a plan that was saved reads as it did then. What comes from outside is
//! escaped; colour is only an addition.

#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write;

use crate::cli::ui::escape_line;
use crate::model::Address;
use crate::model::Name;
use crate::plan::Cause;
use crate::plan::PlanDocument;
use crate::plan::ResourceChange;
use crate::plan::Severity;
use crate::plan::text::moment;
use crate::plan::text::relative;

/// From how many changes of one kind each gets one line.
const MANY: usize = 20;

/// A plan as text, ending in a newline.
pub(crate) fn text(plan: &crate::plan::Plan, color: bool) -> String {
    document(&PlanDocument::from(plan), color)
}

/// A plan as text from its document, ending in a newline.
pub(crate) fn document(plan: &PlanDocument, color: bool) -> String {
    let mut writer = Writer { plan, color, out: String::new() };
    writer.drift();
    writer.legend();
    writer.changes();
    writer.footer();
    writer.deferrals();
    writer.diagnostics();
    writer.out
}

struct Writer<'a> {
    plan: &'a PlanDocument,
    color: bool,
    out: String,
}

/// What changes have in common that get one line each: sign, reason and cause.
type Kind<'a> = (&'static str, &'a str, Cause);

/// A certificate's changes, or an account's, or a deployment's alone.
struct Block<'a> {
    head: &'a ResourceChange,
    deployments: Vec<&'a ResourceChange>,
}

impl<'a> Writer<'a> {
    /// What differs and is not what a change is about.
    fn drift(&mut self) {
        let changed: BTreeMap<&Address, &str> = self
            .plan
            .resource_changes
            .iter()
            .map(|change| (&change.address, change.action_reason.as_str()))
            .collect();
        let silent: Vec<_> = self
            .plan
            .resource_drift
            .iter()
            .filter(|drift| changed.get(&drift.address) != Some(&drift.action_reason.as_str()))
            .collect();
        if silent.is_empty() {
            return;
        }
        self.line("Changed outside of certplan since the last apply:\n");
        for drift in silent {
            let what = words::difference(&drift.action_reason, &drift.details);
            self.line(&format!("  {}: {what}", drift.address));
        }
        self.line("");
    }

    fn legend(&mut self) {
        let used: BTreeSet<&str> = self.plan.resource_changes.iter().map(symbol).collect();
        if used.is_empty() {
            return;
        }
        self.line("Apply will do the following:");
        for (sign, meaning) in [
            ("+", "create"),
            ("~", "change in place"),
            ("+/-", "create, then remove what it replaces"),
            ("-", "remove"),
            (".", "forget"),
            ("<", "import"),
        ] {
            if used.contains(sign) {
                let sign = self.paint_symbol(&format!("{sign:>3}"), sign);
                self.line(&format!("{sign} {meaning}"));
            }
        }
    }

    fn changes(&mut self) {
        let blocks = self.blocks();
        let mut groups: BTreeMap<Kind<'_>, usize> = BTreeMap::new();
        for block in blocks.iter().filter(|block| is_simple(block)) {
            *groups.entry(kind(block)).or_default() += 1;
        }
        let mut compact: BTreeMap<Kind<'_>, Vec<&Block<'_>>> = BTreeMap::new();
        for block in &blocks {
            if is_simple(block) && groups.get(&kind(block)).is_some_and(|count| *count > MANY) {
                compact.entry(kind(block)).or_default().push(block);
            } else {
                self.block(block);
            }
        }
        for blocks in compact.into_values() {
            self.compact(&blocks);
        }
    }

    /// Deployments go with the change of their certificate, when it has one.
    fn blocks(&self) -> Vec<Block<'a>> {
        let mut with_change: BTreeMap<&Name, Vec<&ResourceChange>> = BTreeMap::new();
        for change in &self.plan.resource_changes {
            if let Address::Certificate(name) = &change.address {
                with_change.entry(name).or_default();
            }
        }
        let mut blocks = Vec::new();
        for change in &self.plan.resource_changes {
            match &change.address {
                Address::Deployment(name, _) if with_change.contains_key(name) => {
                    with_change.entry(name).or_default().push(change);
                }
                _ => blocks.push(Block { head: change, deployments: Vec::new() }),
            }
        }
        for block in &mut blocks {
            if let Address::Certificate(name) = &block.head.address {
                block.deployments = with_change.remove(name).unwrap_or_default();
            }
        }
        blocks
    }

    fn block(&mut self, block: &Block<'_>) {
        let head = block.head;
        let heading = match &head.previous_address {
            Some(previous) if head.action_reason == "move_because_renamed" => {
                format!("{previous} has moved to {}", head.address)
            }
            Some(previous) => format!("{} (moved from {previous}) {}", head.address, words::will_be(head)),
            None => format!("{} {}", head.address, words::will_be(head)),
        };
        let heading = self.bold(&format!("# {heading}"));
        self.line(&format!("\n  {heading}"));
        self.line(&format!("  # {}: {}", head.cause, words::why(head, self.plan.timestamp)));
        for also in words::also(head) {
            self.line(&format!("  # also: {also}"));
        }
        let sign = self.sign(head);
        self.line(&format!("  {sign} {}", head.address));
        for (sign, line) in words::attributes(head) {
            let sign = self.paint_symbol(sign, sign);
            self.line(&format!("      {sign} {line}"));
        }
        for deployment in &block.deployments {
            self.deployment(deployment, head);
        }
    }

    fn deployment(&mut self, change: &ResourceChange, head: &ResourceChange) {
        let sign = self.sign(change);
        let place = match change.details.changed.get("location") {
            Some(moved) => words::changed_text(moved),
            None => words::location(change),
        };
        let follows = match change.action_reason.as_str() {
            "redeploy_because_reissued" => true,
            "create_because_new" => head.change.before.is_null(),
            reason => reason == head.action_reason,
        };
        let why = if follows {
            String::new()
        } else {
            format!(" ({}: {})", change.cause, words::why(change, self.plan.timestamp))
        };
        self.line(&format!("      {sign} {}{place}{why}", change.address));
    }

    fn compact(&mut self, blocks: &[&Block<'_>]) {
        let Some(first) = blocks.first() else { return };
        let heading =
            format!("# {} certificates {} ({})", blocks.len(), words::will_be(first.head), first.head.cause);
        let heading = self.bold(&heading);
        self.line(&format!("\n  {heading}"));
        for block in blocks {
            let sign = self.sign(block.head);
            let targets: Vec<&str> = block
                .deployments
                .iter()
                .filter_map(|change| match &change.address {
                    Address::Deployment(_, target) => Some(target.as_str()),
                    _ => None,
                })
                .collect();
            let to = if targets.is_empty() { String::new() } else { format!(", to {}", targets.join(", ")) };
            let what = words::in_short(block.head, self.plan.timestamp);
            self.line(&format!("  {sign} {}: {what}{to}", block.head.address));
        }
    }

    fn footer(&mut self) {
        let plan = self.plan;
        let count = |key: &str| plan.summary.get(key).copied().unwrap_or_default();
        if plan.resource_changes.is_empty() {
            let quiet =
                !plan.errored && plan.deferred.is_empty() && plan.left_out.values().all(|count| *count == 0);
            let mut text = if quiet {
                let state = match plan.certificates {
                    0 => "there is nothing in the selection that is to be kept".to_owned(),
                    1 => "the certificate is as it should be".to_owned(),
                    count => format!("{count} certificates are as they should be"),
                };
                format!("{} {}.", self.bold("No changes."), capitalised(&state))
            } else if plan.errored {
                self.bold(&format!("{}, and nothing else to do now.", self.obstacles()))
            } else {
                self.bold("Nothing to do now.")
            };
            if let Some(next) = &plan.next_renewal {
                let _ = write!(
                    text,
                    " The next renewal is that of certificate/{}, {} ({}).",
                    next.certificate,
                    relative(next.at, plan.timestamp),
                    moment(next.at)
                );
            }
            self.line(&text);
        } else {
            let mut parts = Vec::new();
            if count("import") > 0 {
                parts.push(format!("{} to import", count("import")));
            }
            parts.push(format!("{} to add", count("add")));
            parts.push(format!("{} to change", count("change")));
            parts.push(format!("{} to remove", count("remove")));
            if count("forget") > 0 {
                parts.push(format!("{} to forget", count("forget")));
            }
            let label = self.bold("Plan:");
            self.line(&format!("\n{label} {}.", parts.join(", ")));
        }
        for (key, one, many, left) in [
            ("renewals", "renewal is due", "renewals are due", "left to the schedule"),
            (
                "config",
                "change of the configuration",
                "changes of the configuration",
                "left to an apply without `--only`",
            ),
            ("drift", "repair", "repairs", "left to an apply without `--only`"),
            (
                "unreviewed",
                "change is not in the saved plan",
                "changes are not in the saved plan",
                "left to the next",
            ),
        ] {
            match plan.left_out.get(key).copied().unwrap_or_default() {
                0 => {}
                1 => self.line(&format!("1 {one}, {left}.")),
                count => self.line(&format!("{count} {many}, {left}.")),
            }
        }
        if !plan.refreshed {
            self.line("Targets, endpoints and CAs were not looked at (`--refresh=false`).");
        }
    }

    /// How much stands in the way: `2 errors, 1 refusal`.
    fn obstacles(&self) -> String {
        let errors = self.plan.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        let (refusals, errors): (Vec<_>, Vec<_>) = errors.partition(|diagnostic| diagnostic.refused);
        let counts = [(errors.len(), "error"), (refusals.len(), "refusal")];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let texts =
            counts.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
        texts.collect::<Vec<_>>().join(", ")
    }

    fn deferrals(&mut self) {
        if self.plan.deferred.is_empty() {
            return;
        }
        let heading = self.bold("Deferred:");
        self.line(&format!("\n{heading}"));
        for deferral in &self.plan.deferred {
            let until =
                format!("{} ({})", relative(deferral.until, self.plan.timestamp), moment(deferral.until));
            self.line(&format!(
                "  {} can go on {until}: {}",
                deferral.address,
                escape_line(&deferral.message)
            ));
        }
    }

    fn diagnostics(&mut self) {
        for severity in [Severity::Warning, Severity::Error] {
            for diagnostic in
                self.plan.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity)
            {
                let (label, color) = match severity {
                    Severity::Error if diagnostic.refused => ("Refused:", "31"),
                    Severity::Error => ("Error:", "31"),
                    Severity::Warning => ("Warning:", "33"),
                };
                let label = self.paint(label, color);
                let about =
                    diagnostic.address.as_ref().map(|address| format!("{address}: ")).unwrap_or_default();
                self.line(&format!("\n{label} {about}{}", escape_line(&diagnostic.summary)));
                for line in diagnostic.detail.iter().flat_map(|help| help.lines()) {
                    self.line(&format!("  {}", escape_line(line)));
                }
            }
        }
    }

    fn sign(&self, change: &ResourceChange) -> String {
        self.paint_symbol(symbol(change), symbol(change))
    }

    fn paint_symbol(&self, text: &str, sign: &str) -> String {
        let color = match sign {
            "+" => "32",
            "-" => "31",
            "~" | "+/-" => "33",
            _ => return text.to_owned(),
        };
        self.paint(text, color)
    }

    fn bold(&self, text: &str) -> String {
        self.paint(text, "1")
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }
}

fn symbol(change: &ResourceChange) -> &'static str {
    let actions: Vec<&str> = change.change.actions.iter().map(String::as_str).collect();
    match actions[..] {
        ["create"] => "+",
        ["create", "delete"] => "+/-",
        ["delete"] => "-",
        ["forget"] => ".",
        ["no-op"] => "<",
        _ => "~",
    }
}

fn kind<'b>(block: &Block<'b>) -> Kind<'b> {
    (symbol(block.head), block.head.action_reason.as_str(), block.head.cause)
}

/// Whether one line says all that there is to say: many certificates are renewed or created like each other.
fn is_simple(block: &Block<'_>) -> bool {
    let head = block.head;
    let details = &head.details;
    matches!(head.address, Address::Certificate(_))
        && (head.action_reason.starts_with("renew_because") || head.action_reason == "create_because_new")
        && head.also.is_empty()
        && head.risks.is_empty()
        && head.previous_address.is_none()
        && details.changed.is_empty()
        && details.added_names.is_empty()
        && details.removed_names.is_empty()
        && details.operation.is_none()
        && block.deployments.iter().all(|change| {
            matches!(change.action_reason.as_str(), "create_because_new" | "redeploy_because_reissued")
        })
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
