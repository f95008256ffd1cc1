//! Holds a new signature against the code that nodes and guests verify it with, before anybody sees it.

use anyhow::{Context, anyhow, ensure};
use base64ct::{Base64, Encoding};
use coffer_attestation::time::UnixTime;
use coffer_image::artefact::{Attached, Evidence, Subject};
use coffer_image::judge::judge;
use coffer_image::policy::{NoFiles, Policy};
use coffer_image::signing::check_made;
use serde_json::{Value, json};

use super::token::SKEW;

/// Who should turn out to have signed.
pub(super) struct Expected {
    pub(super) holders: Vec<String>,
    pub(super) issuers: Vec<String>,
}

impl Expected {
    /// The policy that wants a signature of them, under the trusted root `root`.
    pub(super) fn policy(&self, root: &[u8]) -> anyhow::Result<Policy> {
        let of =
            |subject| self.issuers.iter().map(move |issuer| json!({"issuer": issuer, "subject": subject}));
        let identities: Vec<Value> = self.holders.iter().flat_map(of).collect();
        let policy = json!({"default": [{
            "type": "keyless",
            "identities": identities,
            "trustedRootData": Base64::encode_string(root),
            "signedIdentity": {"type": "matchDigest"},
        }]});
        Ok(Policy::parse(policy.to_string().as_bytes(), &NoFiles)?)
    }
}

/// Without a trusted root: that all of it can be read, is of one piece, and of these bytes by this certificate.
pub(super) fn in_itself(bundle: &[u8]) -> anyhow::Result<()> {
    check_made(bundle).map_err(|why| anyhow!("the new signature does not hold, and was not attached: {why}"))
}

/// That `policy` admits `image` because of `bundle`, now. Clocks of others may be a little ahead.
pub(super) fn by_policy(
    policy: &Policy,
    image: &Subject,
    bundle: &[u8],
    now: UnixTime,
) -> anyhow::Result<()> {
    let mut evidence = Evidence::default();
    evidence.add(Attached::Bundle(bundle.to_vec())).context("the new signature is none that is judged")?;
    let judgement = judge(policy, image.clone(), &evidence, UnixTime(now.0.saturating_add(SKEW)));
    let refused = judgement.into_admitted().err();
    ensure!(
        refused.is_none(),
        "the new signature does not hold under the trusted root, and was not attached: {}",
        refused.map(|refused| refused.reason).unwrap_or_default()
    );
    Ok(())
}
