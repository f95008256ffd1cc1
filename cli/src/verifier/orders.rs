//! Orders: each becomes one request, and the answer is printed.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use coffer_attestation::dsse::{Envelope, PrivateKey, REFERENCES, SignerKey, SignerKeyError};
use coffer_attestation::time::UnixTime;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::connection::{VerifierArguments, escaped};
use super::made::{self, MakeArguments};
use crate::{Health, output};

/// What can be done with secrets. Nobody can read one.
#[derive(Subcommand)]
pub(crate) enum SecretCommand {
    /// Keep a secret as a new version
    Put {
        /// TENANT/TYPE/TAG
        path: String,
        /// File with the secret; - is standard input
        file: PathBuf,
        /// From when on it is not given out, as in 2027-01-01T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires: Option<UnixTime>,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Names, versions and expiries of a tenant's secrets
    List {
        /// Tenant
        tenant: String,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Delete every version of a secret
    Delete {
        /// TENANT/TYPE/TAG
        path: String,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
}

/// What can be done with policies.
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Put a policy in force
    Put {
        #[command(flatten)]
        place: PolicyPlace,
        /// File with Rego; - is standard input
        file: PathBuf,
        /// Only if this is the newest version; 0 is none
        #[arg(long)]
        expected: Option<u64>,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Every version of a policy
    Get {
        #[command(flatten)]
        place: PolicyPlace,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Take a policy out of force
    Delete {
        #[command(flatten)]
        place: PolicyPlace,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Ask a policy what was asked lately, without any effect; exit code 3 if it decides otherwise
    Test {
        #[command(flatten)]
        place: PolicyPlace,
        /// File with Rego; - is standard input
        file: PathBuf,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
}

/// Which policy.
#[derive(Args)]
pub(crate) struct PolicyPlace {
    /// appraisal or release
    purpose: String,
    /// Tenant, or * for all
    name: String,
}

/// What can be done with reference values.
#[derive(Subcommand)]
pub(crate) enum ReferenceCommand {
    /// Make a list of one reference out of what coffer measure computed of a guest image; no verifier is asked
    Make(MakeArguments),
    /// Sign a list of references, so that verifiers believe it that know the key; no verifier is asked
    Sign {
        /// Private key on P-256 or P-384, in PEM (PKCS #8)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// File with [[reference]] tables in TOML; - is standard input
        file: PathBuf,
    },
    /// Print by which name a key that signs is revoked: its SHA-256
    Signer {
        /// The key, public or private, in PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Add or replace one
    Put {
        /// File with a signed list of one reference; - is standard input
        file: PathBuf,
        /// Only if this is the newest version; 0 is none
        #[arg(long)]
        expected: Option<u64>,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Which are in force, and every version of those that operators added
    List {
        #[command(flatten)]
        verifier: VerifierArguments,
    },
    /// Take one away: its guests are not known any more
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        verifier: VerifierArguments,
    },
}

/// What is revoked; without any, what was.
#[derive(Args)]
pub(crate) struct RevokeArguments {
    /// sandbox, measurement, signer, token, certificate or operator
    #[arg(requires = "name")]
    kind: Option<String>,
    /// Which one, as the audit log names it
    name: Option<String>,
    #[command(flatten)]
    verifier: VerifierArguments,
}

impl SecretCommand {
    pub(crate) fn run(self) -> anyhow::Result<Health> {
        let path = |path: &str| {
            let names: Vec<String> = path.split('/').map(escaped).collect();
            format!("/kbs/v0/resource/{}", names.join("/"))
        };
        shown(match self {
            SecretCommand::Put { path: to, file, expires, verifier } => {
                let until = expires
                    .map_or_else(String::new, |time| format!("?expires={}", escaped(&time.to_string())));
                verifier.ask("POST", &format!("{}{until}", path(&to)), &Zeroizing::new(read(&file)?))
            }
            SecretCommand::List { tenant, verifier } => {
                verifier.ask("GET", &format!("/coffer/v1/secrets/{}", escaped(&tenant)), b"")
            }
            SecretCommand::Delete { path: of, verifier } => verifier.ask("DELETE", &path(&of), b""),
        }?)
    }
}

impl PolicyPlace {
    fn path(&self) -> String {
        format!("/coffer/v1/policies/{}/{}", escaped(&self.purpose), escaped(&self.name))
    }
}

impl PolicyCommand {
    pub(crate) fn run(self) -> anyhow::Result<Health> {
        match self {
            PolicyCommand::Put { place, file, expected, verifier } => {
                let path = format!("{}{}", place.path(), only_if(expected));
                shown(verifier.ask("PUT", &path, &read(&file)?)?)
            }
            PolicyCommand::Get { place, verifier } => shown(verifier.ask("GET", &place.path(), b"")?),
            PolicyCommand::Delete { place, verifier } => shown(verifier.ask("DELETE", &place.path(), b"")?),
            PolicyCommand::Test { place, file, verifier } => {
                let said = verifier.ask("POST", &format!("{}/test", place.path()), &read(&file)?)?;
                let same = said.get("changed") == Some(&json!(0));
                shown(said)?;
                Ok(if same { Health::Well } else { Health::Amiss })
            }
        }
    }
}

impl ReferenceCommand {
    pub(crate) fn run(self) -> anyhow::Result<Health> {
        const PATH: &str = "/coffer/v1/references";
        shown(match self {
            ReferenceCommand::Make(arguments) => {
                let list = made::list(&arguments, &read(&arguments.measured)?)?;
                write!(std::io::stdout(), "{list}")?;
                return Ok(Health::Well);
            }
            ReferenceCommand::Sign { key, file } => return sign(&key, &file),
            ReferenceCommand::Signer { key } => {
                writeln!(std::io::stdout(), "{}", either_key(&key)?.id())?;
                return Ok(Health::Well);
            }
            ReferenceCommand::Put { file, expected, verifier } => {
                verifier.ask("PUT", &format!("{PATH}{}", only_if(expected)), &read(&file)?)
            }
            ReferenceCommand::List { verifier } => verifier.ask("GET", PATH, b""),
            ReferenceCommand::Delete { name, verifier } => {
                verifier.ask("DELETE", &format!("{PATH}/{}", escaped(&name)), b"")
            }
        }?)
    }
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKey> {
    let pem = Zeroizing::new(String::from_utf8(read(path)?).context("the key is no PEM file")?);
    PrivateKey::from_pem(&pem).with_context(|| format!("the key {}", path.display()))
}

/// The public half of whichever it is.
fn either_key(path: &Path) -> anyhow::Result<SignerKey> {
    let pem = Zeroizing::new(String::from_utf8(read(path)?).context("the key is no PEM file")?);
    let key = SignerKey::from_pem(&pem).or_else(|error| match error {
        SignerKeyError::Label { .. } => PrivateKey::from_pem(&pem)?.signer(),
        other => Err(other),
    });
    key.with_context(|| format!("the key {}", path.display()))
}

/// Writes an envelope to standard output.
fn sign(key: &Path, file: &Path) -> anyhow::Result<Health> {
    let text = String::from_utf8(read(file)?).context("the references are no text")?;
    let table: toml::Table = toml::from_str(&text).context("the references are no TOML")?;
    let known = table.keys().all(|name| name == "reference");
    anyhow::ensure!(
        known && !table.is_empty(),
        "a list of references has tables [[reference]] and nothing else"
    );
    let signed = Envelope::sign(REFERENCES, text.as_bytes(), &private_key(key)?)?;
    writeln!(std::io::stdout(), "{signed}")?;
    Ok(Health::Well)
}

impl RevokeArguments {
    pub(crate) fn run(self) -> anyhow::Result<Health> {
        const PATH: &str = "/coffer/v1/revocations";
        shown(match (self.kind, self.name) {
            (Some(kind), Some(name)) => {
                let body = json!({ "kind": kind, "name": name }).to_string();
                self.verifier.ask("POST", PATH, body.as_bytes())
            }
            _ => self.verifier.ask("GET", PATH, b""),
        }?)
    }
}

fn only_if(expected: Option<u64>) -> String {
    expected.map_or_else(String::new, |version| format!("?expected={version}"))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("reading standard input")?;
        return Ok(bytes);
    }
    std::fs::read(file).with_context(|| format!("reading {}", file.display()))
}

/// Prints an answer. It is JSON: there is nothing that a table would show better.
fn shown(answer: Value) -> anyhow::Result<Health> {
    output::json(&answer)?;
    Ok(Health::Well)
}
