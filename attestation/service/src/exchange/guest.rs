//! Which guest it is: what evidence says of its identity, and what a token says of it later.

use coffer_attestation::handshake::{Ear, Images, Tee, TeeKey, canonical};
use coffer_attestation::verdict::Claims;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::secrets::Revocation;

/// By what one running guest is told from all others, and by what it can be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The processor's name for this launch (SNP's report id), or the digest of the guest's key.
    pub(super) sandbox: String,
    /// What was launched.
    pub(super) measurement: Option<String>,
    /// Who signed it, as far as the hardware says.
    pub(super) signers: Vec<String>,
}

/// What a token affirms.
pub(super) struct Guest {
    pub(super) tee: String,
    pub(super) reference: String,
    /// Of every value of the reference, as it was when the token was made.
    pub(super) reference_digest: String,
    pub(super) identity: Identity,
    /// Of the evidence.
    pub(super) claims: Claims,
    /// Those that it had admitted when the token was made; none if it judges none.
    pub(super) images: Option<Images>,
    pub(super) token: String,
    pub(super) key: TeeKey,
}

impl Identity {
    /// Reads it from the claims of evidence that verified.
    pub(super) fn of(tee: Tee, claims: &Claims, key: &Value) -> Self {
        let report = |name| claims.get("report").and_then(|report| report.get(name));
        let text = |name| report(name).and_then(Value::as_str).map(str::to_owned);
        let of_key = || hex::encode(Sha256::digest(canonical(key).unwrap_or_default()));
        let digest = |name| text(name).filter(|digest| digest.bytes().any(|digit| digit != b'0'));
        let author = report("author_key_enabled").and_then(Value::as_bool) == Some(true);
        let (launch, measurement, signers) = match tee {
            Tee::Snp => {
                let author = author.then(|| digest("author_key_digest")).flatten();
                (digest("report_id"), text("measurement"), [digest("id_key_digest"), author])
            }
            Tee::AzSnpVtpm => (None, text("measurement"), [digest("id_key_digest"), None]),
            Tee::Tdx => (None, text("mr_td"), [digest("mr_owner"), None]),
            Tee::Sample => (None, None, [None, None]),
        };
        let signers = signers.into_iter().flatten().collect();
        Self { sandbox: launch.unwrap_or_else(of_key), measurement, signers }
    }

    /// For logs and tokens.
    pub(super) fn to_json(&self) -> Value {
        json!({ "sandbox": self.sandbox, "measurement": self.measurement, "signers": self.signers })
    }

    /// Everything that can be revoked to reach it.
    pub(super) fn names(&self) -> impl Iterator<Item = (Revocation, &str)> {
        let measurement = self.measurement.as_deref().map(|name| (Revocation::Measurement, name));
        let signers = self.signers.iter().map(|name| (Revocation::Signer, name.as_str()));
        std::iter::once((Revocation::Sandbox, self.sandbox.as_str())).chain(measurement).chain(signers)
    }
}

impl Guest {
    /// `None` unless the token affirms one.
    pub(super) fn of(ear: &Ear) -> Option<Self> {
        let submodule = ear.processor().filter(|processor| processor.status == "affirming")?;
        let evidence = &submodule.evidence;
        let known = evidence.get("coffer")?;
        let text = |name| known.get(name).and_then(Value::as_str).map(str::to_owned);
        let key = evidence.get("runtime_data_claims")?.get("tee-pubkey")?;
        let identity = known.get("identity")?;
        let signers = identity.get("signers")?.as_array()?.iter();
        let images = Option::<Images>::deserialize(known.get("images").unwrap_or(&Value::Null));
        let tee = text("tee")?;
        Some(Self {
            claims: evidence.get(&tee)?.as_object()?.clone(),
            tee,
            reference: text("reference")?,
            reference_digest: text("reference_digest")?,
            identity: Identity {
                sandbox: identity.get("sandbox")?.as_str()?.to_owned(),
                measurement: Some(text("measurement")?),
                signers: signers.map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            },
            images: images.ok()?,
            token: ear.jti.clone(),
            key: TeeKey::parse(key).ok()?,
        })
    }
}
