//! `renew`.

use std::time::Duration;

use super::Converter;
use super::blocks::seconds;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::quoted;
use crate::config::node::Node;
use crate::model::RenewBefore;

impl Converter<'_> {
    /// Reads `renew`; says at most once per place what is wrong with it for a lifetime.
    pub(super) fn renew(
        &mut self,
        block: &Node,
        lifetime: Option<Duration>,
        said: bool,
    ) -> Option<RenewBefore> {
        let (text, span) = block.text_of("before")?;
        if let Some((numerator, denominator)) = text.split_once('/') {
            let fraction: (u32, u32) = (numerator.parse().ok()?, denominator.parse().ok()?);
            if (fraction.0 == 0 || fraction.0 >= fraction.1) && !said {
                let message = format!("{} is not a part of the lifetime", quoted(text));
                let help = "a fraction lies between 0 and 1, for example `1/3`";
                self.push(Diagnostic::error("renew", span, message).help(help));
            }
            return Some(RenewBefore::Fraction(fraction.0, fraction.1));
        }
        let before = Duration::from_secs(seconds(text)?);
        match lifetime {
            _ if said => {}
            Some(lifetime) if before >= lifetime => {
                let message = format!(
                    "{} before the end never comes: certificates of this issuer and profile live for {}",
                    quoted(text),
                    days(lifetime)
                );
                let help = "use a fraction, which fits every lifetime: `1/3`";
                self.push(Diagnostic::error("renew", span, message).help(help));
            }
            Some(lifetime) if before > lifetime / 3 * 2 => {
                let message = format!(
                    "{} before the end renews early in a lifetime of {}",
                    quoted(text),
                    days(lifetime)
                );
                let help =
                    "that counts against the CA's rate limits; a third of the lifetime is usual: `1/3`";
                self.push(Diagnostic::warning("renew", span, message).help(help));
            }
            Some(_) => {}
            None => {
                let message =
                    format!("whether {} fits is not known before the first certificate", quoted(text));
                let help = "it is clamped to the real lifetime; a fraction such as `1/3` fits every lifetime";
                self.push(Diagnostic::warning("renew", span, message).help(help));
            }
        }
        Some(RenewBefore::Duration(before))
    }
}

fn days(lifetime: Duration) -> String {
    let hours = lifetime.as_secs() / 3_600;
    if hours.is_multiple_of(24) { format!("{} days", hours / 24) } else { format!("{hours} hours") }
}
