//! Goes from one service to the next, and makes a bundle's parts of what they answer.

use std::time::SystemTime;

use base64ct::{Base64, Encoding};
use coffer_attestation::dsse::signed_bytes;
use coffer_attestation::time::UnixTime;
use coffer_image::artefact::Subject;
use coffer_image::policy::Policy;
use serde_json::{Value, json};

use super::ask::Asker;
use super::certificate::{Issued, ShortLived, issue};
use super::clock::stamp;
use super::confirm::{Expected, by_policy, in_itself};
use super::log::Logged;
use super::services::Services;
use super::token::IdentityToken;
use crate::registry::Transport;

/// Signs for the holder of a token.
pub(crate) struct Keyless {
    pub(super) transport: Transport,
    pub(super) token: IdentityToken,
    pub(super) services: Services,
    pub(super) expected: Expected,
    /// Of a trusted root.
    pub(super) policy: Option<Policy>,
}

/// A bundle that was confirmed.
pub(crate) struct Made {
    /// JSON.
    pub(crate) bundle: Vec<u8>,
    /// Whom the certificate names.
    pub(crate) holder: String,
    /// By whose word.
    pub(crate) issuer: String,
}

impl Keyless {
    /// Whether the image has to be there for the signature of it to be confirmed.
    pub(crate) fn wants_image(&self) -> bool {
        self.policy.is_some()
    }

    /// Signs a payload of the type `kind`; `bundle` puts envelope and material together. Nothing that does not hold comes back.
    pub(crate) fn sign(
        &self,
        (kind, payload): (&str, &[u8]),
        image: Option<&Subject>,
        bundle: fn(&Value, &Value) -> Vec<u8>,
    ) -> anyhow::Result<Made> {
        let asker = Asker { transport: &self.transport, token: &self.token };
        let key = ShortLived::generate()?;
        let issued = issue(&asker, &self.services.fulcio, &key, &self.expected, now)?;
        let Issued { leaf, holder, issuer } = issued;
        let covered = signed_bytes(kind, payload);
        let signature = key.sign(&covered)?;
        drop(key);
        let envelope = envelope(kind, payload, &signature);
        // Clocks first: a log makes public, for ever, what a clock then might refuse.
        let stamps = self.services.clocks.iter().map(|clock| {
            let stamp = stamp(&asker, clock, &signature, &leaf)?;
            Ok(json!({"signedTimestamp": Base64::encode_string(&stamp)}))
        });
        let stamps = stamps.collect::<anyhow::Result<Vec<Value>>>()?;
        let logged = Logged { envelope: &envelope, covered: &covered, signature: &signature, leaf: &leaf };
        let entries = self.services.logs.iter().map(|log| log.add(&asker, &logged));
        let mut material = json!({
            "certificate": {"rawBytes": Base64::encode_string(leaf.der())},
            "tlogEntries": entries.collect::<anyhow::Result<Vec<Value>>>()?,
        });
        if !stamps.is_empty() {
            material["timestampVerificationData"] = json!({"rfc3161Timestamps": stamps});
        }
        let bundle = bundle(&envelope, &material);
        in_itself(&bundle)?;
        if let Some(policy) = &self.policy {
            let image =
                image.ok_or_else(|| anyhow::anyhow!("there is no image to confirm the signature of"))?;
            by_policy(policy, image, &bundle, now())?;
        }
        Ok(Made { bundle, holder, issuer })
    }
}

/// The envelope (DSSE) of one signature.
pub(crate) fn envelope(kind: &str, payload: &[u8], signature: &[u8]) -> Value {
    json!({
        "payload": Base64::encode_string(payload),
        "payloadType": kind,
        "signatures": [{"sig": Base64::encode_string(signature)}],
    })
}

fn now() -> UnixTime {
    SystemTime::now().into()
}
