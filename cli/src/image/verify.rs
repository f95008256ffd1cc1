//! `coffer image verify`: judges an image of a directory or a registry, and prints why.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::Args;
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::printable;
use coffer_image::artefact::Reference;
use coffer_image::judge::{Decision, Judged, Judgement, judge};

use super::policy::read;
use super::source::ImageArguments;
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Policy, in the form of containers-policy.json
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Name under which the image would run, as in registry.example.com/app:v1 [default: its name in the registry]
    #[arg(long)]
    name: Option<Reference>,
    /// Judge as of this time, in UTC, as in 2026-11-21T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<UnixTime>,
}

/// Judges and prints.
pub(crate) fn run(arguments: &VerifyArguments, json: bool) -> anyhow::Result<Health> {
    let policy = read(&arguments.policy)?;
    let source = arguments.image.open()?;
    let name = arguments.name.clone().or(source.name.clone());
    let name = name.context("say under which --name the image would run")?;
    let subject = source.layout.image(source.wanted.as_deref(), name, arguments.image.platform())?;
    let objects = source.layout.attached(&subject);
    let left_out = [source.left_out.clone(), objects.left_out.clone()].concat();
    for why in &objects.left_out {
        eprintln!("coffer: left out, of what is attached to the image: {}", printable(why));
    }
    let at = arguments.at.unwrap_or_else(|| SystemTime::now().into());
    let judgement = judge(&policy, subject, &objects.evidence(), at);
    if json {
        output::json(&judgement)?;
    } else {
        print(&judgement)?;
    }
    Ok(match judgement.decision() {
        Decision::Admitted => Health::Well,
        Decision::Refused if left_out.is_empty() => Health::Amiss,
        Decision::Refused => {
            bail!("not all that is attached to the image could be had: {}", left_out.join("; "))
        }
    })
}

fn print(judgement: &Judgement) -> anyhow::Result<()> {
    let said = match judgement.decision() {
        Decision::Admitted => "admitted",
        Decision::Refused => "refused",
    };
    println!("{said} by {}", printable(judgement.rule()));
    let all = judgement.requirements().iter().flat_map(|judged| &judged.signers);
    let signers: BTreeSet<&str> = all.map(|signer| signer.name.as_str()).collect();
    signers.iter().for_each(|signer| println!("signed by {}", printable(signer)));
    println!();
    let rows: Vec<Vec<String>> = judgement.requirements().iter().flat_map(rows).collect();
    output::table(&["REQUIREMENT", "TYPE", "MET", "WHY"], &rows)?;
    for judged in judgement.requirements().iter().flat_map(|judged| std::iter::once(judged).chain(&judged.of))
    {
        for attempt in &judged.attempts {
            println!("\n{} against {}:", printable(&attempt.signature), printable(&judged.pointer));
            for check in attempt.appraisal.checks() {
                let (expected, found) = (printable(&check.expected), printable(&check.found));
                println!(
                    "  {:<16} {:<8} expected {expected}; found {found}",
                    check.name,
                    check.result.to_string()
                );
            }
        }
    }
    Ok(())
}

fn rows(judged: &Judged) -> Vec<Vec<String>> {
    let row = |judged: &Judged| {
        let met = if judged.met { "yes" } else { "no" };
        vec![printable(&judged.pointer), judged.kind.to_owned(), met.to_owned(), printable(&judged.reason)]
    };
    std::iter::once(judged).chain(&judged.of).map(row).collect()
}
