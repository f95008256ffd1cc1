//! `coffer image policy`: which rule decides about an image, and what it asks for.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use coffer_attestation::verdict::printable;
use coffer_image::artefact::Reference;
use coffer_image::policy::{KeyFiles, Policy};
use serde_json::json;

use crate::attest::read_file;
use crate::{Health, output};

/// What can be asked of a policy.
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say in words what each image has to show
    Explain {
        /// Policy, in the form of containers-policy.json
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// Images' names; without one every rule is explained
        names: Vec<Reference>,
    },
    /// Check which rule decides about each image; exit code 3 if another does
    Test(TestArguments),
}

#[derive(Args)]
pub(crate) struct TestArguments {
    /// Policy, in the form of containers-policy.json
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// A name and the rule that should decide about it, as in app:v1=/default
    #[arg(required = true, value_name = "NAME=POINTER", value_parser = expectation)]
    expected: Vec<(Reference, String)>,
}

/// Files that a policy names, beside it or anywhere.
struct Beside<'a>(&'a Path);

impl KeyFiles for Beside<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        read_file(&self.0.join(path), "a key of the policy").map_err(|error| format!("{error:#}"))
    }
}

/// Reads a policy; files that it names by relative paths lie beside it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Policy> {
    let text = read_file(path, "a policy for images")?;
    let beside = path.parent().unwrap_or(Path::new("."));
    Policy::parse(&text, &Beside(beside)).with_context(|| format!("reading {}", path.display()))
}

/// Does what was asked for.
pub(crate) fn run(command: &PolicyCommand, json: bool) -> anyhow::Result<Health> {
    match command {
        PolicyCommand::Explain { policy, names } => explain(&read(policy)?, names, json),
        PolicyCommand::Test(arguments) => test(&read(&arguments.policy)?, &arguments.expected, json),
    }
}

fn explain(policy: &Policy, names: &[Reference], json: bool) -> anyhow::Result<Health> {
    let all: Vec<(String, &str, Vec<String>)> = if names.is_empty() {
        policy
            .rules()
            .map(|(scope, rule)| (scope.to_owned(), rule.pointer.as_str(), rule.explain()))
            .collect()
    } else {
        let of = |name: &Reference| {
            let rule = policy.rule_for(&name.clone().or_latest());
            (name.to_string(), rule.pointer.as_str(), rule.explain())
        };
        names.iter().map(of).collect()
    };
    if json {
        let entry = |(name, rule, needs): &(String, &str, Vec<String>)| json!({"name": name, "rule": rule, "needs": needs});
        output::json(&all.iter().map(entry).collect::<Vec<_>>())?;
        return Ok(Health::Well);
    }
    let rows = all
        .iter()
        .map(|(name, rule, needs)| vec![printable(name), printable(rule), printable(&needs.join(", and "))]);
    output::table(&["NAME", "RULE", "NEEDS"], &rows.collect::<Vec<_>>())?;
    Ok(Health::Well)
}

fn test(policy: &Policy, expected: &[(Reference, String)], json: bool) -> anyhow::Result<Health> {
    let found = |(name, wanted): &(Reference, String)| {
        let rule = policy.rule_for(&name.clone().or_latest()).pointer.clone();
        (name.to_string(), wanted.clone(), rule)
    };
    let all: Vec<(String, String, String)> = expected.iter().map(found).collect();
    let right = |(_, wanted, rule): &(String, String, String)| wanted == rule;
    if json {
        let entry = |one: &(String, String, String)| json!({"name": one.0, "expected": one.1, "rule": one.2, "right": right(one)});
        output::json(&all.iter().map(entry).collect::<Vec<_>>())?;
    } else {
        let row = |one: &(String, String, String)| {
            let said = if right(one) { "right" } else { "wrong" };
            vec![said.to_owned(), printable(&one.0), printable(&one.1), printable(&one.2)]
        };
        output::table(&["", "NAME", "EXPECTED", "RULE"], &all.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(if all.iter().all(right) { Health::Well } else { Health::Amiss })
}

fn expectation(text: &str) -> Result<(Reference, String), String> {
    let (name, pointer) = text.split_once('=').ok_or("write a name, =, and a JSON pointer")?;
    Ok((name.parse::<Reference>().map_err(|error| error.to_string())?, pointer.to_owned()))
}
