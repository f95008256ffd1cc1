//! `--tee snp`: what is asked for on the command line, and the evidence that is put together from it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use coffer_attestation::snp::{Evidence, Expectations, Tcb, TrustedRoots, appraise, coco};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Appraisal;
use coffer_attestation::x509::{Certificate, RevocationList};

use super::input;
use super::shared::SharedArguments;

/// Evidence of AMD SEV-SNP and what is expected of it.
#[derive(Args)]
#[command(next_help_heading = "SEV-SNP")]
pub(crate) struct SnpArguments {
    /// Attestation report: 1184 bytes as the firmware wrote them
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// VCEK or VLEK certificate that signed the report
    #[arg(long, value_name = "FILE")]
    vek: Option<PathBuf>,
    /// ASK or ASVK and ARK certificates [default: AMD's, which are built in]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Revocation list of AMD's root
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    /// Expected launch digest, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    measurement: Option<[u8; 48]>,
    /// Expected host data, 32 bytes: the digest of the initdata
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<32>)]
    host_data: Option<[u8; 32]>,
    /// Expected digest of the key that signed the id block, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    id_key_digest: Option<[u8; 48]>,
    /// Expected digest of the key that signed the id key, 48 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<48>)]
    author_key_digest: Option<[u8; 48]>,
    /// Oldest firmware, as boot_loader=4,tee=0,snp=24,microcode=219 and fmc=0 on Turin, which needs it
    #[arg(long, value_name = "VERSIONS", value_parser = minimum)]
    min_tcb: Option<Tcb>,
    /// Expected privilege level of the code that asked for the report
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(0..=3))]
    vmpl: Option<u32>,
    /// Least security version that the owner gave the image
    #[arg(long, value_name = "NUMBER")]
    min_guest_svn: Option<u32>,
    /// Expected family of the image, 16 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<16>)]
    family_id: Option<[u8; 16]>,
    /// Expected id of the image, 16 bytes
    #[arg(long, value_name = "HEX", value_parser = input::hex_bytes::<16>)]
    image_id: Option<[u8; 16]>,
    /// Expected cloud provider that the VLEK was made for
    #[arg(long, value_name = "NAME")]
    cloud_provider: Option<String>,
    /// Contraindicate evidence that no revocation list speaks for
    #[arg(long)]
    require_crl: bool,
}

impl SnpArguments {
    /// Puts the evidence together and judges it.
    pub(crate) fn judge(&self, shared: &SharedArguments, at: UnixTime) -> anyhow::Result<Appraisal> {
        let vek = match &self.vek {
            Some(path) => Some(input::certificate(path, "a VCEK or VLEK certificate")?),
            None => None,
        };
        let mut evidence = match (&self.report, &shared.evidence) {
            (Some(path), None) => {
                let vek = vek.context(
                    "--vek is missing: give the VCEK or VLEK certificate of the chip that made the report",
                )?;
                let report = input::file(path, "an attestation report")?;
                Evidence { report, vek, authorities: Vec::new(), revocation: Vec::new() }
            }
            (None, Some(path)) => {
                let bytes = input::file(path, "SNP evidence in JSON")?;
                coco::parse(&bytes, vek)
                    .with_context(|| format!("reading evidence from {}", path.display()))?
            }
            _ => anyhow::bail!("give either --report with --vek, or --evidence with a JSON file"),
        };
        if let Some(given) = self.authorities()? {
            evidence.authorities = given;
        }
        evidence.revocation.extend(self.revocation()?);
        Ok(appraise(&evidence, &self.expectations(shared), &roots(shared)?, at))
    }

    /// The authorities that the operator gave.
    pub(crate) fn authorities(&self) -> anyhow::Result<Option<Vec<Certificate>>> {
        let read = |path| input::certificates(path, "the ASK and ARK certificates");
        self.ca.as_deref().map(read).transpose()
    }

    /// The revocation list that the operator gave.
    pub(crate) fn revocation(&self) -> anyhow::Result<Vec<RevocationList>> {
        self.crl.iter().map(|path| input::revocation_list(path)).collect()
    }

    /// What is expected of the report.
    pub(crate) fn expectations(&self, shared: &SharedArguments) -> Expectations {
        Expectations {
            report_data: shared.report_data,
            measurement: self.measurement,
            host_data: self.host_data,
            id_key_digest: self.id_key_digest,
            author_key_digest: self.author_key_digest,
            minimum_tcb: self.min_tcb,
            vmpl: self.vmpl,
            minimum_guest_svn: self.min_guest_svn,
            family_id: self.family_id,
            image_id: self.image_id,
            cloud_provider: self.cloud_provider.clone(),
            revocation_list: self.require_crl,
        }
    }
}

/// AMD's roots, and the simulated one if the operator named it.
pub(crate) fn roots(shared: &SharedArguments) -> anyhow::Result<TrustedRoots> {
    let simulated = shared.simulated_root()?;
    Ok(simulated.map_or_else(TrustedRoots::amd, |root| TrustedRoots::amd().and_simulated(root)))
}

/// Reads `boot_loader=4,tee=0,snp=24,microcode=219`, with `fmc=` if there is one.
pub(crate) fn minimum(text: &str) -> Result<Tcb, String> {
    let (mut fmc, mut boot_loader, mut tee, mut snp, mut microcode) = (None, None, None, None, None);
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=NUMBER"))?;
        let value: u8 = value.parse().map_err(|_| format!("{value:?} is not a number from 0 to 255"))?;
        let place = match name {
            "fmc" => &mut fmc,
            "boot_loader" => &mut boot_loader,
            "tee" => &mut tee,
            "snp" => &mut snp,
            "microcode" => &mut microcode,
            _ => return Err(format!("{name:?} is none of fmc, boot_loader, tee, snp, microcode")),
        };
        if place.replace(value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    match (boot_loader, tee, snp, microcode) {
        (Some(boot_loader), Some(tee), Some(snp), Some(microcode)) => {
            Ok(Tcb { fmc, boot_loader, tee, snp, microcode })
        }
        _ => Err("boot_loader, tee, snp and microcode are all needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimum_names_every_component() {
        let expected = Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 };
        assert_eq!(minimum("boot_loader=4,tee=0,snp=24,microcode=219"), Ok(expected));
    }

    #[test]
    fn a_minimum_without_microcode_is_refused() {
        assert!(minimum("boot_loader=4,tee=0,snp=24").is_err());
    }

    #[test]
    fn a_component_given_twice_is_refused() {
        assert_eq!(minimum("tee=0,tee=1"), Err("tee is given twice".to_owned()));
    }
}
