//! `--tee az-snp-vtpm` and `--tee az-tdx-vtpm`: the virtual TPM's part of the command line; the report's part is that of
//! `--tee snp`, the quote's part that of `--tee tdx`.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use clap::Args;
use coffer_attestation::azure::{
    PCR_COUNT, VtpmExpectations, appraise_snp, appraise_tdx, parse_snp, parse_tdx,
};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Appraisal;

use super::input;
use super::shared::SharedArguments;
use super::snp::{SnpArguments, roots};
use super::tdx::{self, TdxArguments};

/// What is expected of a virtual TPM.
#[derive(Args)]
#[command(next_help_heading = "Virtual TPM of Azure")]
pub(crate) struct VtpmArguments {
    /// Expected extra data of the TPM's quote: the challenge, of any length
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    quote_data: Option<Bytes>,
    /// Expected value of a PCR of the SHA-256 bank, as 8=HEX; may be given for several
    #[arg(long, value_name = "N=HEX", value_parser = pcr)]
    pcr: Vec<(usize, [u8; 32])>,
}

/// Bytes of any length, as one value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl VtpmArguments {
    /// Reads the evidence and judges it.
    pub(crate) fn judge(
        &self,
        snp: &SnpArguments,
        shared: &SharedArguments,
        at: UnixTime,
    ) -> anyhow::Result<Appraisal> {
        let json = self.json(shared)?;
        let mut evidence = parse_snp(&json).context("reading the evidence of an Azure SNP machine")?;
        if let Some(given) = snp.authorities()? {
            evidence.authorities = given;
        }
        evidence.revocation = snp.revocation()?;
        let expected = snp.expectations(shared);
        Ok(appraise_snp(&evidence, &self.expectations()?, &expected, &roots(shared)?, at))
    }

    /// Reads the evidence of a TDX machine and judges it.
    pub(crate) fn judge_tdx(
        &self,
        tdx: &TdxArguments,
        shared: &SharedArguments,
        at: UnixTime,
    ) -> anyhow::Result<Appraisal> {
        let json = self.json(shared)?;
        let mut evidence = parse_tdx(&json).context("reading the evidence of an Azure TDX machine")?;
        evidence.collateral = tdx.collateral()?;
        let (expected, roots) = (tdx.expectations(shared), tdx::roots(shared)?);
        Ok(appraise_tdx(&evidence, &self.expectations()?, &expected, &roots, at))
    }

    fn json(&self, shared: &SharedArguments) -> anyhow::Result<Vec<u8>> {
        let path = shared
            .evidence
            .as_ref()
            .context("--evidence is missing: give the JSON that the machine's attestation agent hands out")?;
        ensure!(
            shared.report_data.is_none(),
            "an Azure machine's challenge is in its TPM's quote and not in the report: use --quote-data"
        );
        input::file(path, "evidence of an Azure machine in JSON")
    }

    fn expectations(&self) -> anyhow::Result<VtpmExpectations> {
        let mut pcrs = BTreeMap::new();
        for (number, value) in &self.pcr {
            ensure!(
                pcrs.insert(*number, *value).is_none(),
                "PCR {number} is given twice: a PCR has one value"
            );
        }
        Ok(VtpmExpectations { quote_data: self.quote_data.as_ref().map(|bytes| bytes.0.clone()), pcrs })
    }
}

fn bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes).map_err(|err| format!("it is not hexadecimal: {err}"))
}

fn pcr(text: &str) -> Result<(usize, [u8; 32]), String> {
    let (number, value) = text.split_once('=').ok_or("it is not N=HEX")?;
    let number = number.parse().ok().filter(|number| *number < PCR_COUNT);
    let number = number.ok_or_else(|| format!("a PCR's number is below {PCR_COUNT}"))?;
    Ok((number, input::hex_bytes(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcr_is_named_by_its_number() {
        assert_eq!(pcr(&format!("8={}", "ab".repeat(32))), Ok((8, [0xab; 32])));
    }

    #[test]
    fn a_pcr_that_is_given_twice_is_refused() {
        let twice = VtpmArguments { quote_data: None, pcr: vec![(8, [1; 32]), (9, [1; 32]), (8, [2; 32])] };
        let refused = twice.expectations().expect_err("two values");
        assert_eq!(refused.to_string(), "PCR 8 is given twice: a PCR has one value");
    }

    #[test]
    fn a_pcr_that_no_tpm_has_is_refused() {
        assert_eq!(pcr(&format!("24={}", "ab".repeat(32))), Err("a PCR's number is below 24".to_owned()));
    }
}
