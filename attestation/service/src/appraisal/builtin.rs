//! The policy that is always there: an affirming verdict, no debugging, and a guest whose every value its owner pinned.

use std::collections::BTreeSet;

use coffer_attestation::handshake::{Images, Submodule, Tee, TrustVector};
use coffer_attestation::verdict::{Appraisal, Check, Checks, Claims, Outcome, Verdict};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::evidence::Judged;
use super::reference::{Firmware, Reference, References};
use super::registers::{self, Registers};

const POLICY: &str = "builtin-1";

/// Evidence that was held against the reference values.
#[derive(Debug, Clone, PartialEq)]
pub struct Appraised {
    hardware: Verdict,
    tee: Tee,
    appraisal: Appraisal,
    reference: Option<Reference>,
    images: Option<Images>,
    /// Policies that were asked beyond the built-in one.
    policies: Vec<String>,
}

/// A guest that its owner knows. Only [`Appraised::admit`] makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    reference: Reference,
    appraisal: Appraisal,
}

/// A guest that is given nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest is {verdict}: {}", first_of(reasons))]
pub struct Refused {
    /// The verdict.
    pub verdict: Verdict,
    /// Every check that did not pass.
    pub reasons: Vec<Check>,
}

/// Holds judged evidence against what is known.
pub fn appraise(judged: Judged, references: &References) -> Appraised {
    let hardware = judged.appraisal.verdict();
    let (mut checks, claims) = judged.appraisal.into_parts();
    let outcome = match hardware {
        Verdict::Affirming => Outcome::Passed,
        Verdict::Warning => Outcome::Warned,
        Verdict::Contraindicated => Outcome::Contraindicated,
        Verdict::Invalid => Outcome::Failed,
    };
    checks.record("hardware-verdict", outcome, Verdict::Affirming, hardware);
    let seen = Seen::of(judged.tee, &claims);
    let debug = seen.debug.map_or("unknown", |debug| if debug { "on" } else { "off" });
    hold(&mut checks, "no-debug", seen.debug == Some(false), "off", debug);
    let reference = find(&mut checks, judged.tee, &seen, references);
    Appraised {
        hardware,
        tee: judged.tee,
        appraisal: Appraisal::new(checks, claims),
        reference,
        images: judged.images,
        policies: Vec::new(),
    }
}

/// What the evidence says about what references speak of.
struct Seen {
    debug: Option<bool>,
    measurement: Option<String>,
    initdata: Option<String>,
    firmware: Option<Firmware>,
    registers: Registers,
}

impl Seen {
    fn of(tee: Tee, claims: &Claims) -> Self {
        let registers = registers::seen(tee, claims);
        let at = |[outer, inner]: [&str; 2]| claims.get(outer).and_then(|value| value.get(inner));
        let text = |path| at(path).and_then(Value::as_str).map(str::to_owned);
        match tee {
            Tee::Snp => Self {
                debug: at(["policy", "debug_allowed"]).and_then(Value::as_bool),
                measurement: text(["report", "measurement"]),
                initdata: text(["report", "host_data"]),
                firmware: at(["tcb", "reported"]).and_then(firmware),
                registers,
            },
            Tee::AzSnpVtpm => Self {
                debug: at(["policy", "debug_allowed"]).and_then(Value::as_bool),
                measurement: text(["report", "measurement"]),
                // The virtual TPM holds it, as a register that was extended once.
                initdata: at(["vtpm", "pcrs"])
                    .and_then(|pcrs| pcrs.get("pcr08"))
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                firmware: at(["tcb", "reported"]).and_then(firmware),
                registers,
            },
            Tee::Tdx => Self {
                debug: at(["report", "debug"]).and_then(Value::as_bool),
                measurement: text(["report", "mr_td"]),
                initdata: text(["report", "mr_config_id"]),
                firmware: None,
                registers,
            },
            Tee::Sample => Self { debug: None, measurement: None, initdata: None, firmware: None, registers },
        }
    }
}

/// The versions as the claims of a report name them.
fn firmware(claim: &Value) -> Option<Firmware> {
    let part = |name| claim.get(name).and_then(Value::as_u64).and_then(|value| u8::try_from(value).ok());
    Some(Firmware {
        // Null on processors without one.
        fmc: part("fmc").unwrap_or(0),
        boot_loader: part("boot_loader")?,
        tee: part("tee")?,
        snp: part("snp")?,
        microcode: part("microcode")?,
    })
}

impl Firmware {
    fn is_at_least(self, other: Firmware) -> bool {
        let parts = |one: Firmware| [one.fmc, one.boot_loader, one.tee, one.snp, one.microcode];
        parts(self).iter().zip(parts(other)).all(|(mine, theirs)| *mine >= theirs)
    }

    fn text(self) -> String {
        let Firmware { fmc, boot_loader, tee, snp, microcode } = self;
        format!("fmc={fmc},boot_loader={boot_loader},tee={tee},snp={snp},microcode={microcode}")
    }
}

fn hold(checks: &mut Checks, name: &'static str, holds: bool, expected: impl ToString, found: impl ToString) {
    let outcome = if holds { Outcome::Passed } else { Outcome::Contraindicated };
    checks.record(name, outcome, expected.to_string(), found.to_string());
}

/// Finds the reference that the guest boots as, and records what of it does not hold or is missing. One launch digest may be
/// pinned by several references with other initdata: the first that holds whole is taken, else the first at all.
fn find(checks: &mut Checks, tee: Tee, seen: &Seen, references: &References) -> Option<Reference> {
    let found = seen.measurement.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut alike = launched_alike(tee, seen, references).peekable();
    let first = alike.peek().copied();
    let Some(reference) = alike.find(|reference| holds_whole(tee, seen, reference)).or(first) else {
        let pinned: Vec<&str> = (references.reference.iter())
            .filter(|reference| reference.tee == tee.name() && reference.measurement.is_some())
            .map(|reference| reference.name.as_str())
            .collect();
        let expected = if pinned.is_empty() {
            format!("the reference value measurement of some {} guest, which is missing", tee.name())
        } else {
            format!("the measurement of one of: {}", pinned.join(", "))
        };
        hold(checks, "reference-measurement", false, expected, found);
        return None;
    };
    hold(checks, "reference-measurement", true, &found, &found);
    hold_against(checks, tee, seen, reference);
    Some(reference.clone())
}

/// Every reference that the guest of these claims is, as if each were the only one. A token names the first of them.
pub fn all_that_hold<'a>(
    tee: Tee,
    claims: &Claims,
    references: &'a References,
) -> impl Iterator<Item = &'a Reference> {
    let seen = Seen::of(tee, claims);
    let alike: Vec<&Reference> = launched_alike(tee, &seen, references).collect();
    alike.into_iter().filter(move |reference| holds_whole(tee, &seen, reference))
}

/// Those whose launch digest is the guest's.
fn launched_alike<'a>(
    tee: Tee,
    seen: &Seen,
    references: &'a References,
) -> impl Iterator<Item = &'a Reference> {
    let alike = move |reference: &&Reference| {
        reference.tee == tee.name()
            && reference.measurement.is_some()
            && reference.measurement == seen.measurement
    };
    references.reference.iter().filter(alike)
}

fn holds_whole(tee: Tee, seen: &Seen, reference: &Reference) -> bool {
    let mut tried = Checks::default();
    hold_against(&mut tried, tee, seen, reference);
    tried.verdict() == Verdict::Affirming
}

fn hold_against(checks: &mut Checks, tee: Tee, seen: &Seen, reference: &Reference) {
    let missing =
        |value: &str| format!("the reference value {value} of {:?}, which is missing", reference.name);
    match &reference.signed_by {
        Some(by) if by.revoked => {
            hold(checks, "reference-signer", false, "a signer that was not revoked", by.text());
        }
        Some(by) => hold(checks, "reference-signer", true, by.text(), by.text()),
        None => hold(checks, "reference-signer", true, "nobody, as insecure-unsigned-references", "nobody"),
    }
    let found = seen.initdata.clone().unwrap_or_else(|| "unknown".to_owned());
    let pinned: Vec<String> = reference.initdata.iter().map(|digest| as_carried(tee, digest)).collect();
    let expected = if pinned.is_empty() { missing("initdata") } else { pinned.join(" or ") };
    hold(checks, "reference-initdata", pinned.contains(&found), expected, found);
    hold_registers(checks, tee, &seen.registers, reference);
    if tee == Tee::Tdx {
        // Intel's status of the platform is part of the verdict on the hardware.
        return;
    }
    let expected = reference.minimum_tcb.map_or_else(|| missing("minimum_tcb"), Firmware::text);
    let holds = reference.minimum_tcb.zip(seen.firmware).is_some_and(|(least, has)| has.is_at_least(least));
    let found = seen.firmware.map_or_else(|| "unknown".to_owned(), Firmware::text);
    hold(checks, "reference-tcb", holds, expected, found);
}

/// Each register that the kind of evidence needs or that the reference names.
fn hold_registers(checks: &mut Checks, tee: Tee, seen: &Registers, reference: &Reference) {
    let named = reference.registers.keys().map(String::as_str);
    let all: BTreeSet<&str> = registers::required(tee).iter().copied().chain(named).collect();
    for register in all {
        let (pinned, found) = (reference.registers.get(register), seen.get(register));
        let expected = match pinned {
            Some(value) => format!("{register} {value}"),
            None => format!("the reference value {register} of {:?}, which is missing", reference.name),
        };
        let text = found.map_or("unknown", String::as_str);
        let holds = pinned.is_some() && pinned == found;
        hold(checks, "reference-registers", holds, expected, format!("{register} {text}"));
    }
}

/// An initdata digest as the evidence shows it: Azure's guests extend a register, which was zero, with it.
fn as_carried(tee: Tee, digest: &str) -> String {
    match tee {
        Tee::AzSnpVtpm => {
            let digest = hex::decode(digest).unwrap_or_default();
            hex::encode(Sha256::new().chain_update([0; 32]).chain_update(digest).finalize())
        }
        Tee::Snp | Tee::Tdx | Tee::Sample => digest.to_owned(),
    }
}

impl Appraised {
    /// Every check, of the hardware and of the policy, and the verdict that follows.
    pub fn appraisal(&self) -> &Appraisal {
        &self.appraisal
    }

    /// The reference whose measurement the guest has; whether the rest of it holds is in the checks.
    pub fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// Who signed that reference, for logs and tokens.
    pub fn signer(&self) -> Value {
        self.reference.as_ref().map_or(Value::Null, |reference| match &reference.signed_by {
            Some(by) => json!(by),
            None => json!("nobody: insecure-unsigned-references"),
        })
    }

    /// The images that the guest has admitted; none if it judges none.
    pub fn images(&self) -> Option<&Images> {
        self.images.as_ref()
    }

    /// The kind of evidence.
    pub fn tee(&self) -> Tee {
        self.tee
    }

    /// Adds what the operator's policies said: `asked` names each.
    #[must_use]
    pub fn hold_policy(self, allowed: bool, asked: &[String]) -> Self {
        let (mut checks, claims) = self.appraisal.into_parts();
        hold(&mut checks, "appraisal-policy", allowed, "every policy says yes", asked.join(", "));
        let policies = asked.to_vec();
        Self { appraisal: Appraisal::new(checks, claims), policies, ..self }
    }

    /// What a token says of the guest.
    pub fn submodule(&self) -> Submodule {
        let outcome = |names: &[&str]| {
            let of_these = self.appraisal.checks().iter().filter(|check| names.contains(&check.name));
            let passed = |check: &Check| check.result == Outcome::Passed;
            let (mut count, mut all) = (0, true);
            of_these.for_each(|check| (count, all) = (count + 1, all && passed(check)));
            if count > 0 && all { Verdict::Affirming } else { Verdict::Contraindicated }
        };
        let verdict = self.appraisal.verdict();
        let reasons: Vec<&Check> = self.appraisal.reasons().collect();
        let reference = self.reference.as_ref();
        Submodule {
            status: Submodule::status_of(verdict).to_owned(),
            vector: TrustVector::new(
                self.hardware,
                outcome(&["no-debug", "reference-initdata"]),
                outcome(&["reference-measurement", "reference-registers"]),
            ),
            policy: std::iter::once(POLICY)
                .chain(self.policies.iter().map(String::as_str))
                .collect::<Vec<_>>()
                .join(","),
            evidence: json!({
                self.tee.name(): self.appraisal.claims(),
                "coffer": {
                    "tee": self.tee.name(),
                    "verdict": verdict,
                    "reasons": reasons,
                    "reference": reference.map(|reference| &reference.name),
                    "signer": self.signer(),
                    "reference_digest": reference.map(Reference::digest),
                    "measurement": reference.map(|reference| &reference.measurement),
                    "tenants": reference.map(|reference| &reference.tenants),
                    "images": self.images,
                },
            }),
        }
    }

    /// Admits the guest if every check passed.
    ///
    /// # Errors
    /// [`Refused`], with every reason.
    pub fn admit(self) -> Result<Admitted, Refused> {
        let verdict = self.appraisal.verdict();
        match self.reference {
            Some(reference) if verdict == Verdict::Affirming => {
                Ok(Admitted { reference, appraisal: self.appraisal })
            }
            _ => Err(Refused { verdict, reasons: self.appraisal.reasons().cloned().collect() }),
        }
    }
}

impl Admitted {
    /// The reference that the guest is.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Whether it may be given secrets of `tenant`.
    pub fn may_have_secrets_of(&self, tenant: &str) -> bool {
        self.reference.is_for(tenant)
    }

    /// Why it was admitted.
    pub fn appraisal(&self) -> &Appraisal {
        &self.appraisal
    }
}

fn first_of(reasons: &[Check]) -> String {
    reasons.first().map_or_else(String::new, |check| {
        format!("{} must be {}, and is {}", check.name, check.expected, check.found)
    })
}
