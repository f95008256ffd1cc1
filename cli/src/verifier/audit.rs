//! `coffer audit`: what a verifier decided, and whether its log is whole.

use std::path::PathBuf;

use anyhow::{Context, bail};
use base64ct::{Base64, Encoding};
use clap::{Args, Subcommand};
use coffer_attestation::audit::{Checkpoint, Hash, leaf_hash, verify, verify_inclusion};
use coffer_attestation::verdict::printable;
use serde_json::{Value, json};

use super::connection::{VerifierArguments, escaped};
use crate::Health;

/// What can be done with the log.
#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Print entries, one a line, each behind its number
    Query(QueryArguments),
    /// Check every byte of a log's file; exit code 3 if any was changed
    Verify {
        /// The log
        log: PathBuf,
        /// A signed checkpoint that the log must begin with
        #[arg(long, value_name = "FILE", requires = "key")]
        checkpoint: Option<PathBuf>,
        /// The key that checkpoints are signed with, in base64, as the verifier says when it starts
        #[arg(long, value_name = "BASE64")]
        key: Option<String>,
    },
    /// Have it proven that an entry is in the log, and check the proof
    Prove {
        /// The entry's number
        number: u64,
        /// The key that checkpoints are signed with, in base64, as the verifier says when it starts
        #[arg(long, value_name = "BASE64")]
        log_key: String,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Print a signed checkpoint of the log as it is now, to keep somewhere else
    Checkpoint {
        #[command(flatten)]
        verifier: VerifierArguments,
    },
}

/// Which entries.
#[derive(Args)]
pub(crate) struct QueryArguments {
    /// From this number on
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// attest, release, put, delete, …
    #[arg(long)]
    event: Option<String>,
    /// token, released or refused
    #[arg(long)]
    outcome: Option<String>,
    /// Path of a secret
    #[arg(long)]
    path: Option<String>,
    /// Who did it
    #[arg(long)]
    operator: Option<String>,
    /// Which guest
    #[arg(long)]
    sandbox: Option<String>,
    #[command(flatten)]
    verifier: VerifierArguments,
}

impl AuditCommand {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<Health> {
        match self {
            AuditCommand::Query(query) => query.run(),
            AuditCommand::Verify { log, checkpoint, key } => {
                let bytes = std::fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
                let checkpoint = match (checkpoint, key) {
                    (Some(file), Some(key)) => {
                        let signed = std::fs::read_to_string(&file);
                        Some(believed(&signed.with_context(|| format!("reading {}", file.display()))?, &key)?)
                    }
                    _ => None,
                };
                check(&bytes, checkpoint.as_ref(), json)
            }
            AuditCommand::Prove { number, log_key, verifier } => {
                let proven = verifier.ask("GET", &format!("/coffer/v1/audit/{number}/proof"), b"")?;
                prove(number, &proven, &log_key)
            }
            AuditCommand::Checkpoint { verifier } => {
                let said = verifier.ask("GET", "/coffer/v1/audit/checkpoint", b"")?;
                print!("{}", printed_lines(text(&said, "checkpoint")?));
                Ok(Health::Well)
            }
        }
    }
}

impl QueryArguments {
    fn run(self) -> anyhow::Result<Health> {
        let named = [
            ("event", &self.event),
            ("outcome", &self.outcome),
            ("path", &self.path),
            ("operator", &self.operator),
            ("sandbox", &self.sandbox),
        ];
        let mut query = format!("from={}&limit={}", self.from, self.limit);
        for (name, value) in named {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        let said = self.verifier.ask("GET", &format!("/coffer/v1/audit?{query}"), b"")?;
        let entries = said.get("entries").and_then(Value::as_array).context("the answer has no entries")?;
        for entry in entries {
            let number = entry.get("number").and_then(Value::as_u64).context("an entry has no number")?;
            println!("{number} {}", printable(text(entry, "entry")?));
        }
        if let Some(next) = said.get("next").and_then(Value::as_u64) {
            eprintln!("there are more: go on with --from {next}");
        }
        Ok(Health::Well)
    }
}

fn check(log: &[u8], checkpoint: Option<&Checkpoint>, as_json: bool) -> anyhow::Result<Health> {
    let (health, said) = match verify(log, checkpoint) {
        Ok(whole) => (Health::Well, json!({ "whole": true, "entries": whole.leaves.len() })),
        Err(damages) => {
            let places: Vec<String> = damages.iter().map(ToString::to_string).collect();
            (Health::Amiss, json!({ "whole": false, "damages": places }))
        }
    };
    match (as_json, said.get("entries"), said.get("damages").and_then(Value::as_array)) {
        (true, _, _) => println!("{said}"),
        (false, Some(entries), _) if checkpoint.is_some() => {
            println!("whole: {entries} entries, beginning with those of the checkpoint");
        }
        (false, Some(entries), _) => {
            println!("whole: {entries} entries; without a checkpoint nobody says how many there should be");
        }
        (false, None, damages) => damages.into_iter().flatten().for_each(|damage| {
            println!("{}", damage.as_str().unwrap_or_default());
        }),
    }
    Ok(health)
}

fn prove(number: u64, proven: &Value, key: &str) -> anyhow::Result<Health> {
    let entry = text(proven, "entry")?;
    let checkpoint = believed(text(proven, "checkpoint")?, key)?;
    let hashes = proven.get("proof").and_then(Value::as_array).context("the answer has no proof")?;
    let proof: Option<Vec<Hash>> =
        hashes.iter().map(|hash| hex::decode(hash.as_str()?).ok()?.try_into().ok()).collect();
    let proof = proof.context("the proof has a hash that is not 32 bytes in hexadecimal")?;
    verify_inclusion(leaf_hash(entry.as_bytes()), (number, checkpoint.size), &proof, &checkpoint.root)
        .context("the verifier's proof does not hold")?;
    println!("{}", printable(entry));
    println!("is entry {number} of the {} that were there at {}", checkpoint.size, checkpoint.at);
    Ok(Health::Well)
}

fn believed(signed: &str, key: &str) -> anyhow::Result<Checkpoint> {
    let Ok(key) = Base64::decode_vec(key) else { bail!("the key of checkpoints is not in base64") };
    Ok(Checkpoint::verify_by(signed, &key)?)
}

fn text<'a>(of: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    of.get(name).and_then(Value::as_str).with_context(|| format!("the answer has no {name}"))
}

fn printed_lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}
