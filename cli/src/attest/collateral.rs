//! `coffer attest collateral`: carries Intel's answers to a verifier that has no network, as one file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use coffer_attestation::tdx::{Answers, issuer_chain};

use super::input;

/// Answers of Intel's service, each saved as it came, and the chains of their headers.
#[derive(Args)]
pub(crate) struct CollateralArguments {
    /// Answer of /tdx/certification/v4/tcb?fmspc=…, JSON
    #[arg(long, value_name = "FILE")]
    tcb_info: PathBuf,
    /// Its header TCB-Info-Issuer-Chain, percent-encoded as it came or PEM
    #[arg(long, value_name = "FILE")]
    tcb_info_chain: PathBuf,
    /// Answer of /tdx/certification/v4/qe/identity, JSON
    #[arg(long, value_name = "FILE")]
    qe_identity: PathBuf,
    /// Its header SGX-Enclave-Identity-Issuer-Chain, percent-encoded as it came or PEM
    #[arg(long, value_name = "FILE")]
    qe_identity_chain: PathBuf,
    /// Answer of /sgx/certification/v4/pckcrl?ca=platform&encoding=der (or ca=processor), DER
    #[arg(long, value_name = "FILE")]
    pck_crl: PathBuf,
    /// Its header SGX-PCK-CRL-Issuer-Chain, percent-encoded as it came or PEM
    #[arg(long, value_name = "FILE")]
    pck_crl_chain: PathBuf,
    /// Revocation list of Intel's root (IntelSGXRootCA.der), DER
    #[arg(long, value_name = "FILE")]
    root_crl: PathBuf,
    /// File to write, for `verify --collateral`
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes the file. Nothing in it is verified: `verify` does that each time.
pub(crate) fn write(arguments: &CollateralArguments) -> anyhow::Result<()> {
    let answers = Answers {
        tcb_info: &input::file(&arguments.tcb_info, "TCB info in JSON")?,
        tcb_info_issuers: &chain(&arguments.tcb_info_chain)?,
        qe_identity: &input::file(&arguments.qe_identity, "QE identity in JSON")?,
        qe_identity_issuers: &chain(&arguments.qe_identity_chain)?,
        pck_crl: &input::file(&arguments.pck_crl, "a revocation list in DER")?,
        pck_crl_issuers: &chain(&arguments.pck_crl_chain)?,
        root_crl: &input::file(&arguments.root_crl, "a revocation list in DER")?,
    };
    let file = answers.to_file().context("putting Intel's answers together")?;
    fs::write(&arguments.output, file).with_context(|| format!("writing {}", arguments.output.display()))
}

fn chain(path: &Path) -> anyhow::Result<String> {
    let bytes = input::file(path, "a certificate chain")?;
    let Some(decoded) = String::from_utf8(bytes).ok().as_deref().and_then(issuer_chain) else {
        bail!("{} is neither PEM nor a percent-encoded header", path.display());
    };
    Ok(decoded)
}
