//! `coffer attest verify`: chooses the kind of evidence, judges, prints.

use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Verdict};

use super::azure::VtpmArguments;
use super::collateral::{self, CollateralArguments};
use super::given::Given;
use super::shared::SharedArguments;
use super::snp::SnpArguments;
use super::table;
use super::tdx::TdxArguments;
use crate::{Health, output};

/// What can be done with evidence.
#[derive(Subcommand)]
pub(crate) enum AttestCommand {
    /// Judge evidence; exit code 0 if it is affirming or a warning, 3 if it is not
    Verify(Box<VerifyArguments>),
    /// Put Intel's answers about a TDX platform together into one file, for a verifier without a network
    Collateral(CollateralArguments),
}

#[derive(Args)]
pub(crate) struct VerifyArguments {
    /// Kind of the evidence
    #[arg(long)]
    tee: Tee,
    /// Judge as of this time, in UTC, as in 2026-11-21T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<UnixTime>,
    #[command(flatten)]
    shared: SharedArguments,
    #[command(flatten)]
    snp: Given<SnpArguments>,
    #[command(flatten)]
    vtpm: Given<VtpmArguments>,
    #[command(flatten)]
    tdx: Given<TdxArguments>,
}

/// Kinds of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tee {
    /// AMD SEV-SNP
    Snp,
    /// AMD SEV-SNP behind the virtual TPM of an Azure machine
    AzSnpVtpm,
    /// Intel TDX
    Tdx,
    /// Intel TDX behind the virtual TPM of an Azure machine
    AzTdxVtpm,
}

/// Does what was asked for.
pub(crate) fn run(command: AttestCommand, json: bool) -> anyhow::Result<Health> {
    let arguments = match command {
        AttestCommand::Verify(arguments) => arguments,
        AttestCommand::Collateral(arguments) => {
            return collateral::write(&arguments).map(|()| Health::Well);
        }
    };
    let at = arguments.at.unwrap_or_else(|| SystemTime::now().into());
    let appraisal = judge(&arguments, at)?;
    if json {
        output::json(&appraisal)?;
    } else {
        table::print(&appraisal, at)?;
    }
    match appraisal.verdict() {
        Verdict::Affirming | Verdict::Warning => Ok(Health::Well),
        Verdict::Contraindicated | Verdict::Invalid => Ok(Health::Amiss),
    }
}

fn judge(arguments: &VerifyArguments, at: UnixTime) -> anyhow::Result<Appraisal> {
    let VerifyArguments { tee, shared, snp, vtpm, tdx, .. } = arguments;
    let kind = tee.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    match tee {
        Tee::Snp => {
            vtpm.refuse_all(&kind)?;
            tdx.refuse_all(&kind)?;
            snp.options.judge(shared, at)
        }
        Tee::AzSnpVtpm => {
            tdx.refuse_all(&kind)?;
            snp.refuse_some(&kind, &["report", "vek", "vmpl"])?;
            vtpm.options.judge(&snp.options, shared, at)
        }
        Tee::Tdx => {
            snp.refuse_all(&kind)?;
            vtpm.refuse_all(&kind)?;
            tdx.options.judge(shared, at)
        }
        Tee::AzTdxVtpm => {
            snp.refuse_all(&kind)?;
            tdx.refuse_some(&kind, &["quote", "ccel"])?;
            vtpm.options.judge_tdx(&tdx.options, shared, at)
        }
    }
}
