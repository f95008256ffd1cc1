//! `coffer reference make`: a reference out of what `coffer measure --json` computed of a guest image, ready to be signed.
//!
//! ```text
//! coffer measure --tee snp --guest DIR … --json |
//!   coffer reference make --name web --tenant acme --initdata web.toml --min-tcb … - |
//!   coffer reference sign --key KEY -
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use coffer_attestation::handshake::InitData;
use coffer_attestation::snp::Tcb;
use serde_json::Value;
use toml::Table;

/// What a reference says beside the measurement.
#[derive(Args)]
pub(crate) struct MakeArguments {
    /// What the guest is called
    #[arg(long)]
    name: String,
    /// Whose secrets it may be given; may be repeated
    #[arg(long, required = true)]
    tenant: Vec<String>,
    /// Initdata that it may be given; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    initdata: Vec<PathBuf>,
    /// SNP: oldest firmware, as boot_loader=4,tee=0,snp=24,microcode=219 and fmc=0 on Turin
    #[arg(long, value_name = "VERSIONS", value_parser = crate::attest::minimum_firmware)]
    min_tcb: Option<Tcb>,
    /// Give a secret only while every image that was let run in the guest has this signer, as acme/db/password=SIGNER; SIGNER as
    /// coffer image verify names it; acme/db/*, acme/* and * are more secrets; may be repeated
    #[arg(long, value_name = "SECRETS=SIGNER", value_parser = secrets_and_signer)]
    images_signed_by: Vec<(String, String)>,
    /// What coffer measure printed with --json; - is standard input
    pub(super) measured: PathBuf,
}

/// The list with that one reference, in TOML.
pub(super) fn list(arguments: &MakeArguments, measured: &[u8]) -> anyhow::Result<String> {
    let measured: Value =
        serde_json::from_slice(measured).context("this is not what coffer measure prints with --json")?;
    let text = |name: &str| measured.get(name).and_then(Value::as_str);
    let tee =
        text("tee").context("what was measured has no \"tee\": take the output of coffer measure --json")?;
    let measurement = text("measurement").context("what was measured has no \"measurement\"")?;
    let mut reference = Table::new();
    let mut put = |name: &str, value: toml::Value| reference.insert(name.to_owned(), value);
    put("name", arguments.name.clone().into());
    put("tee", tee.into());
    put("tenants", arguments.tenant.clone().into());
    put("measurement", measurement.into());
    put("initdata", digests(tee, &arguments.initdata)?.into());
    match (tee, arguments.min_tcb) {
        ("snp", Some(least)) => drop(put("minimum_tcb", firmware(least).into())),
        ("snp", None) => bail!("a reference of SNP needs the oldest firmware: give --min-tcb"),
        ("tdx", None) => drop(put("registers", registers(&measured)?.into())),
        ("tdx", Some(_)) => bail!("--min-tcb is for SNP: Intel's own status judges TDX"),
        _ => bail!("coffer measure computes snp and tdx, this is {tee:?}"),
    }
    if !arguments.images_signed_by.is_empty() {
        put("images_signed_by", signers(&arguments.images_signed_by).into());
    }
    let list = Table::from_iter([("reference".to_owned(), vec![reference].into())]);
    toml::to_string(&list).context("writing the list")
}

fn secrets_and_signer(text: &str) -> Result<(String, String), String> {
    let (secrets, signer) = text.split_once('=').ok_or("this is not SECRETS=SIGNER")?;
    let empty = secrets.is_empty() || signer.is_empty();
    if empty {
        Err("this is not SECRETS=SIGNER".to_owned())
    } else {
        Ok((secrets.to_owned(), signer.to_owned()))
    }
}

/// Every signer of each kind of secrets.
fn signers(named: &[(String, String)]) -> Table {
    let mut all = BTreeMap::<&str, Vec<String>>::new();
    for (secrets, signer) in named {
        all.entry(secrets).or_default().push(signer.clone());
    }
    all.into_iter().map(|(secrets, signers)| (secrets.to_owned(), signers.into())).collect()
}

/// Digest of each initdata, of the length that the hardware's field has.
fn digests(tee: &str, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let digest = |file: &PathBuf| {
        let told = || file.display().to_string();
        let body = std::fs::read_to_string(file).with_context(told)?;
        let read = InitData::parse("toml", body).with_context(told)?;
        let digest = match tee {
            "tdx" => hex::encode(read.field::<48>().with_context(told)?),
            _ => hex::encode(read.field::<32>().with_context(told)?),
        };
        Ok(digest)
    };
    files.iter().map(digest).collect()
}

fn firmware(least: Tcb) -> Table {
    let Tcb { fmc, boot_loader, tee, snp, microcode } = least;
    let parts = [("boot_loader", boot_loader), ("tee", tee), ("snp", snp), ("microcode", microcode)]
        .map(|(n, v)| (n, Some(v)));
    let all = parts.into_iter().chain([("fmc", fmc)]);
    all.filter_map(|(name, value)| Some((name.to_owned(), i64::from(value?).into()))).collect()
}

/// RTMR0 to RTMR2; one that was not computed is named with the reason.
fn registers(measured: &Value) -> anyhow::Result<Table> {
    let register = |name: &str| {
        let value = measured.get(name).and_then(Value::as_str);
        let reason = measured.pointer(&format!("/not_computed/{name}")).and_then(Value::as_str);
        let value = value.with_context(|| {
            format!(
                "a reference of TDX pins {name}, which was not computed: {}",
                reason.unwrap_or("no reason is told")
            )
        })?;
        Ok((name.to_owned(), value.into()))
    };
    ["rtmr0", "rtmr1", "rtmr2"].into_iter().map(register).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(initdata: &str) -> (tempfile::NamedTempFile, MakeArguments) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), initdata).expect("written");
        let made = MakeArguments {
            name: "web \"1\"".to_owned(),
            tenant: vec!["acme".to_owned()],
            initdata: vec![file.path().to_owned()],
            min_tcb: Some(Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 }),
            images_signed_by: Vec::new(),
            measured: "-".into(),
        };
        (file, made)
    }

    const SHA256: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";

    #[test]
    fn a_reference_of_snp_says_what_was_measured_and_given() {
        let (_file, made) = arguments(SHA256);
        let list = list(&made, br#"{"tee":"snp","measurement":"abcd","vcpus":1}"#).expect("a list");
        let read: Table = list.parse().expect("TOML");
        let one = &read["reference"][0];
        assert_eq!((one["name"].as_str(), one["measurement"].as_str()), (Some("web \"1\""), Some("abcd")));
        assert_eq!(one["minimum_tcb"]["microcode"].as_integer(), Some(219));
        assert_eq!(one["initdata"][0].as_str().map(str::len), Some(64));
    }

    #[test]
    fn a_reference_names_the_signers_that_secrets_ask_for() {
        let (_file, mut made) = arguments(SHA256);
        let given = ["acme/db/*=P-256 00", "acme/db/*=CN=x, O=y", "*=P-384 11"];
        made.images_signed_by = given.map(|text| secrets_and_signer(text).expect("two parts")).to_vec();
        let list = list(&made, br#"{"tee":"snp","measurement":"abcd"}"#).expect("a list");
        let read: Table = list.parse().expect("TOML");
        let rule = &read["reference"][0]["images_signed_by"];
        assert_eq!(rule["acme/db/*"].as_array().map(Vec::len), Some(2));
        assert_eq!(
            (rule["acme/db/*"][1].as_str(), rule["*"][0].as_str()),
            (Some("CN=x, O=y"), Some("P-384 11"))
        );
        assert!(secrets_and_signer("acme/db/*").is_err() && secrets_and_signer("*=").is_err());
    }

    #[test]
    fn a_reference_of_snp_without_the_oldest_firmware_is_refused() {
        let (_file, mut made) = arguments(SHA256);
        made.min_tcb = None;
        let error = list(&made, br#"{"tee":"snp","measurement":"abcd"}"#).expect_err("refused");
        assert!(error.to_string().contains("--min-tcb"), "{error}");
    }

    #[test]
    fn a_reference_of_tdx_needs_every_register_and_a_digest_that_fills_the_field() {
        let (_file, mut made) = arguments(&SHA256.replace("256", "384"));
        made.min_tcb = None;
        let whole = br#"{"tee":"tdx","measurement":"ab","rtmr0":"0a","rtmr1":"1a","rtmr2":"2a"}"#;
        let read: Table = list(&made, whole).expect("a list").parse().expect("TOML");
        assert_eq!(read["reference"][0]["registers"]["rtmr2"].as_str(), Some("2a"));
        let part = br#"{"tee":"tdx","measurement":"ab","rtmr1":"1a","rtmr2":"2a","not_computed":{"rtmr0":"give --memory"}}"#;
        let error = list(&made, part).expect_err("refused").to_string();
        assert!(error.contains("rtmr0") && error.contains("give --memory"), "{error}");
        let (_file, mut short) = arguments(SHA256);
        short.min_tcb = None;
        assert!(list(&short, whole).is_err());
    }
}
