//! How often each decision was made, for Prometheus. Labels come from fixed sets: nothing that a stranger sends is one.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    event: String,
    outcome: String,
}

/// The counters.
pub struct Counters {
    registry: Registry,
    decisions: Family<Labels, Counter>,
}

impl Default for Counters {
    fn default() -> Self {
        let (mut registry, decisions) = (Registry::with_prefix("coffer_verifier"), Family::default());
        registry.register("decisions", "Decisions by event and outcome", decisions.clone());
        Self { registry, decisions }
    }
}

impl Counters {
    /// Counts one. Both are names of this program.
    pub(super) fn count(&self, event: &str, outcome: &str) {
        let labels = Labels { event: event.to_owned(), outcome: outcome.to_owned() };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Counts a client that wanted more than its share.
    pub fn over_limit(&self) {
        self.count("request", "over-limit");
    }

    /// All of them in Prometheus' text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
