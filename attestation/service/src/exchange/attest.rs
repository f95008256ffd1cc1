//! Evidence in, a token out.

use std::sync::PoisonError;

use coffer_attestation::handshake::{Attestation, Ear};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Outcome, Verdict};
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::verifier::Verifier;
use crate::appraisal::{Appraised, appraise, judge};
use crate::challenge::Redeemed;

impl Verifier {
    /// `POST /kbs/v0/attest`: judges, writes down, and answers with a token. Evidence that does not verify gets none; evidence
    /// that verifies and is not known gets one that says so, and that opens nothing.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn attest(&self, body: &[u8], now: UnixTime) -> Result<String, Refusal> {
        let refuse = |what: Value, refusal: Refusal| self.refuse(now, what, refusal);
        let event = json!({ "event": "attest" });
        let sent = Attestation::parse(body).map_err(|error| refuse(event.clone(), error.into()))?;
        let redeemed = self.challenger.redeem(&sent.nonce, now);
        let redeemed = redeemed.map_err(|error| refuse(event, error.into()))?;
        let event = json!({ "event": "attest", "tee": redeemed.tee.name(), "key": sent.key.describe() });
        let appraised =
            self.appraise(&sent, &redeemed, now).map_err(|refusal| refuse(event.clone(), refusal))?;
        let mut event = event;
        describe(&mut event, &appraised);
        let appraisal = appraised.appraisal();
        if appraisal.verdict() == Verdict::Invalid {
            let failed = appraisal.checks().iter().filter(|check| check.result == Outcome::Failed);
            let checks = failed.map(|check| check.name).collect::<Vec<_>>().join(", ");
            return Err(refuse(event, Refusal::Evidence { checks }));
        }
        let ear = self.ear(&sent, &redeemed, &appraised, now)?;
        if let Some(members) = event.as_object_mut() {
            members.insert("outcome".to_owned(), json!("token"));
            members.insert("token".to_owned(), json!(ear.jti));
        }
        self.record(now, &event)?;
        Ok(self.token_key.sign(&ear))
    }

    fn appraise(&self, sent: &Attestation, redeemed: &Redeemed, now: UnixTime) -> Result<Appraised, Refusal> {
        let judged = judge(sent, redeemed, &self.trust, now)?;
        let references = self.references.read().unwrap_or_else(PoisonError::into_inner);
        Ok(appraise(judged, &references))
    }

    fn ear(
        &self,
        sent: &Attestation,
        redeemed: &Redeemed,
        appraised: &Appraised,
        now: UnixTime,
    ) -> Result<Ear, Refusal> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| Refusal::Unavailable { reason: "there is no randomness" })?;
        let bound = sent.report_data(redeemed.hash);
        let bound = bound.map_err(|error| Refusal::Malformed { reason: error.to_string() })?;
        let mut submodule = appraised.submodule();
        if let Some(members) = submodule.evidence.as_object_mut() {
            members.insert("report_data".to_owned(), json!(hex::encode(bound.as_bytes())));
            let digest = sent.init_data.as_ref().map(|data| hex::encode(data.digest()));
            members.insert("init_data".to_owned(), json!(digest));
            let runtime = json!({
                "nonce": sent.nonce,
                "tee-pubkey": sent.key_as_sent,
                "additional-evidence": sent.additional,
            });
            members.insert("runtime_data_claims".to_owned(), runtime);
        }
        Ok(Ear::of_processor(&submodule, hex::encode(id), now.0, self.token_lifetime))
    }
}

/// What the audit log is told of a guest: all that was found wrong, in full.
fn describe(event: &mut Value, appraised: &Appraised) {
    let appraisal = appraised.appraisal();
    let reasons: Vec<_> = appraisal.reasons().take(24).collect();
    if let Some(members) = event.as_object_mut() {
        members.insert("verdict".to_owned(), json!(appraisal.verdict()));
        members.insert("simulated".to_owned(), json!(appraisal.claims().get("simulated")));
        members.insert("reference".to_owned(), json!(appraised.reference().map(|known| &known.name)));
        members.insert("reasons".to_owned(), json!(reasons));
    }
}
