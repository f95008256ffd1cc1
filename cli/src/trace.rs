//! `coffer trace POD`: how long each phase of a start took.

use coffer_attestation::verdict::printable;
use coffer_node::config::Config;
use coffer_node::images::ToldImage;
use coffer_node::trace::{Span, Trace, find};
use serde_json::Value;

use crate::{Health, output};

/// Prints the newest trace of a pod.
pub(crate) fn run(config: &Config, pod: &str, json: bool) -> anyhow::Result<Health> {
    let trace = find(&config.run_dir, pod)?;
    if json {
        output::json(&trace)?;
        return Ok(health(&trace));
    }
    println!(
        "pod {}  trace {}  on {}",
        trace.key,
        trace.trace_id,
        trace.hypervisor.as_deref().unwrap_or("?")
    );
    let rows: Vec<Vec<String>> = trace.spans.iter().map(row).collect();
    output::table(&["PHASE", "CONTAINER", "START MS", "LENGTH MS"], &rows)?;
    if trace.dropped > 0 {
        println!("{} later phases were not kept", trace.dropped);
    }
    if !trace.images.is_empty() {
        println!();
        let rows: Vec<Vec<String>> = trace.images.iter().map(image).collect();
        output::table(&["CONTAINER", "IMAGE", "OUTCOME", "WHY", "SIGNED BY"], &rows)?;
    }
    if let Some(failure) = &trace.failure {
        println!("\nthe start failed: {failure}");
    }
    if let Some(end) = &trace.end {
        println!("\nthe machine ended by itself:{end}");
    }
    Ok(health(&trace))
}

fn health(trace: &Trace) -> Health {
    if trace.failure.is_some() || trace.end.is_some() { Health::Amiss } else { Health::Well }
}

fn row(span: &Span) -> Vec<String> {
    let phase = serde_json::to_value(span.phase).ok();
    let phase = phase.as_ref().and_then(|value| value.as_str()).unwrap_or("?").to_owned();
    let container = span.container.as_deref().unwrap_or("-").chars().take(13).collect();
    vec![phase, container, millis(span.start_us), millis(span.length_us)]
}

fn image(told: &ToldImage) -> Vec<String> {
    let outcome = serde_json::to_value(told.outcome).ok();
    let outcome = outcome.as_ref().and_then(|value| value.as_str()).unwrap_or("?").to_owned();
    let container = told.container.chars().take(13).collect();
    let why =
        told.reason.as_deref().or_else(|| told.judgement.as_ref()?.get("rule")?.as_str()).unwrap_or("-");
    let signers = told.judgement.as_ref().map(signers).unwrap_or_default();
    let signers = if signers.is_empty() { "-".to_owned() } else { signers.join(", ") };
    vec![container, printable(&told.image), outcome, printable(why), printable(&signers)]
}

/// Who met the requirements of a judgement.
fn signers(judgement: &Value) -> Vec<&str> {
    let requirements = judgement.get("requirements").and_then(Value::as_array);
    let found = requirements.into_iter().flatten().filter_map(|judged| judged.get("signers")?.as_array());
    let mut names: Vec<&str> = found.flatten().filter_map(|signer| signer.get("name")?.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn millis(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_met_a_requirement_is_named_once() {
        let one = serde_json::json!({"signers": [{"name": "b"}, {"name": "a"}]});
        let judgement = serde_json::json!({"requirements": [one, one, {"signers": []}]});
        assert_eq!(signers(&judgement), ["a", "b"]);
        assert!(signers(&serde_json::json!({"rule": "/default"})).is_empty());
    }

    #[test]
    fn microseconds_are_shown_as_milliseconds_with_three_places() {
        assert_eq!(millis(1_234_005), "1234.005");
    }
}
