//! The options of signing without a key, and what they come to.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use coffer_attestation::time::UnixTime;

use super::confirm::Expected;
use super::services::{Log, Services, Version, address};
use super::sign::Keyless;
use super::token::{IdentityToken, VARIABLE};
use crate::attest::read_file;
use crate::registry::Transport;

#[derive(Args)]
pub(crate) struct KeylessArguments {
    /// Sign without a key: identity token (OpenID Connect) for the audience sigstore, in a file or, with -, on standard input
    /// [default without --key: SIGSTORE_ID_TOKEN]. Its name, often a mail address, becomes public in the log for ever
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    identity_token: Option<PathBuf>,
    /// Name that the certificate must have [default: the token's verified address, its subject, or its workflow]
    #[arg(long, value_name = "NAME", conflicts_with = "key")]
    identity: Option<String>,
    /// Services to sign with: Sigstore's signing configuration, version 0.2
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "fulcio", "rekor", "tsa"])]
    signing_config: Option<PathBuf>,
    /// Authority that gives the certificate
    #[arg(long, value_name = "URL", conflicts_with = "key", requires = "rekor")]
    fulcio: Option<String>,
    /// Transparency log
    #[arg(long, value_name = "URL", requires = "fulcio")]
    rekor: Option<String>,
    /// Version of the log at --rekor [default: 1]
    #[arg(long, value_name = "1|2", requires = "rekor", value_parser = clap::value_parser!(u8).range(1..=2))]
    rekor_version: Option<u8>,
    /// Authority that stamps times (RFC 3161); needed with a log of version 2
    #[arg(long, value_name = "URL", requires = "fulcio")]
    tsa: Option<String>,
    /// Attach only what holds under this trusted root; without it only what holds in itself is looked at
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    trusted_root: Option<PathBuf>,
}

impl KeylessArguments {
    /// Whether any of them, or the environment, asks for it.
    pub(crate) fn are_given(&self) -> bool {
        self.identity_token.is_some()
            || self.signing_config.is_some()
            || self.fulcio.is_some()
            || std::env::var_os(VARIABLE).is_some()
    }

    /// Reads and checks all that can be before anybody is asked.
    pub(crate) fn open(&self, transport: Transport, now: UnixTime) -> anyhow::Result<Keyless> {
        let token = IdentityToken::read(self.identity_token.as_deref(), now)?;
        let services = self.services(now)?;
        let holders = self.identity.clone().map_or_else(|| token.holders(), |name| vec![name]);
        let expected = Expected { holders, issuers: token.issuers() };
        let policy = match &self.trusted_root {
            Some(path) => {
                let root = read_file(path, "a trusted root")?;
                Some(expected.policy(&root).with_context(|| format!("reading {}", path.display()))?)
            }
            None => None,
        };
        Ok(Keyless { transport, token, services, expected, policy })
    }

    fn services(&self, now: UnixTime) -> anyhow::Result<Services> {
        if let Some(path) = &self.signing_config {
            let text = read_file(path, "a signing configuration")?;
            return Services::of_config(&text, now).with_context(|| format!("reading {}", path.display()));
        }
        let (Some(fulcio), Some(rekor)) = (&self.fulcio, &self.rekor) else {
            bail!(
                "no service is named to sign with, and none is asked unasked, for it would publish the token's name: give \
                 --signing-config FILE, or --fulcio URL and --rekor URL"
            );
        };
        let version = if self.rekor_version == Some(2) { Version::V2 } else { Version::V1 };
        let clocks = self.tsa.iter().map(|tsa| address(tsa)).collect::<Result<_, _>>()?;
        Services::new(fulcio, vec![Log::new(rekor, version)?], clocks)
    }
}
