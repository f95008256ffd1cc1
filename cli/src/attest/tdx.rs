//! `--tee tdx`: what is asked for on the command line, and the evidence that is put together from it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use coffer_attestation::tdx::{Evidence, Expectations, TrustedRoots, appraise, coco};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Appraisal;

use super::input;
use super::shared::SharedArguments;

/// Evidence of Intel TDX and what is expected of it.
#[derive(Args)]
#[command(next_help_heading = "TDX")]
pub(crate) struct TdxArguments {
    /// Quote of version 4 or 5
    #[arg(long, value_name = "FILE")]
    quote: Option<PathBuf>,
    /// Intel's TCB info, QE identity and revocation lists in one JSON file; without it nothing is affirmed
    #[arg(long, value_name = "FILE")]
    collateral: Option<PathBuf>,
    /// Event log that the guest's CCEL table points to
    #[arg(long, value_name = "FILE")]
    ccel: Option<PathBuf>,
    /// Expected measurement of the initial contents, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    mr_td: Option<[u8; 48]>,
    /// Expected run-time measurement register 0, 48 bytes: firmware and its configuration
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    rtmr0: Option<[u8; 48]>,
    /// Expected run-time measurement register 1, 48 bytes: what the firmware loads
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    rtmr1: Option<[u8; 48]>,
    /// Expected run-time measurement register 2, 48 bytes: kernel, initrd, command line
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    rtmr2: Option<[u8; 48]>,
    /// Expected run-time measurement register 3, 48 bytes: what runs in the guest
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    rtmr3: Option<[u8; 48]>,
    /// Expected configuration by the host, 48 bytes: the digest of the initdata
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    mr_config_id: Option<[u8; 48]>,
    /// Expected owner, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    mr_owner: Option<[u8; 48]>,
    /// Expected configuration by the owner, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    mr_owner_config: Option<[u8; 48]>,
    /// Expected measurement of the TDX module, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    mr_seam: Option<[u8; 48]>,
    /// Expected digest of the bound service TDs, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    mr_service_td: Option<[u8; 48]>,
    /// Least number of Intel's evaluation that the collateral must be of
    #[arg(long, value_name = "NUMBER")]
    tcb_evaluation: Option<u32>,
    /// Expected attributes of the trust domain, all 64 bits in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = input::hex_u64)]
    td_attributes: Option<u64>,
    /// Expected CPU state that the trust domain may use (XFAM), all 64 bits in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = input::hex_u64)]
    xfam: Option<u64>,
}

/// Quote and event log, read.
struct Files {
    quote: Vec<u8>,
    event_log: Option<Vec<u8>>,
}

impl TdxArguments {
    /// Puts the evidence together and judges it.
    pub(crate) fn judge(&self, shared: &SharedArguments, at: UnixTime) -> anyhow::Result<Appraisal> {
        let files = self.files(shared)?;
        let collateral = self.collateral()?;
        let evidence = Evidence {
            quote: &files.quote,
            collateral: collateral.as_deref(),
            event_log: files.event_log.as_deref(),
        };
        Ok(appraise(&evidence, &self.expectations(shared), &roots(shared)?, at))
    }

    fn files(&self, shared: &SharedArguments) -> anyhow::Result<Files> {
        let log = self.ccel.as_deref().map(|path| input::file(path, "an event log")).transpose()?;
        match (&self.quote, &shared.evidence) {
            (Some(path), None) => Ok(Files { quote: input::file(path, "a TDX quote")?, event_log: log }),
            (None, Some(path)) => {
                let given = from_json(path)?;
                if log.is_some() && given.event_log.is_some() {
                    bail!("{} has an event log of its own: leave --ccel out", path.display());
                }
                Ok(Files { quote: given.quote, event_log: log.or(given.event_log) })
            }
            _ => bail!("give either --quote, or --evidence with a JSON file"),
        }
    }

    /// The collateral, if a file with it is named.
    pub(crate) fn collateral(&self) -> anyhow::Result<Option<Vec<u8>>> {
        self.collateral.as_deref().map(|path| input::file(path, "TDX collateral")).transpose()
    }

    /// What is expected of the domain.
    pub(crate) fn expectations(&self, shared: &SharedArguments) -> Expectations {
        Expectations {
            report_data: shared.report_data,
            mr_td: self.mr_td,
            rtmr: [self.rtmr0, self.rtmr1, self.rtmr2, self.rtmr3],
            mr_config_id: self.mr_config_id,
            mr_owner: self.mr_owner,
            mr_owner_config: self.mr_owner_config,
            mr_seam: self.mr_seam,
            mr_service_td: self.mr_service_td,
            tcb_evaluation: self.tcb_evaluation,
            td_attributes: self.td_attributes,
            xfam: self.xfam,
        }
    }
}

/// Intel's root, and the simulated one if the operator named it.
pub(crate) fn roots(shared: &SharedArguments) -> anyhow::Result<TrustedRoots> {
    let simulated = shared.simulated_root()?;
    Ok(simulated.map_or_else(TrustedRoots::intel, |root| TrustedRoots::intel().and_simulated(&root)))
}

fn from_json(path: &Path) -> anyhow::Result<Files> {
    let bytes = input::file(path, "TDX evidence in JSON")?;
    let given = coco::parse(&bytes).with_context(|| format!("reading evidence from {}", path.display()))?;
    Ok(Files { quote: given.quote, event_log: given.event_log })
}
