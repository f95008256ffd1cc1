//! Evidence in, a token out.

use std::sync::PoisonError;

use coffer_attestation::handshake::{Attestation, Ear};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Check, Outcome, Verdict};
use serde_json::{Value, json};

use super::guest::Identity;
use super::refusal::Refusal;
use super::verifier::{Verifier, set};
use crate::appraisal::{Appraised, Asked, appraise, judge};
use crate::challenge::Redeemed;
use crate::policy::Purpose;
use crate::source::Source;

/// Characters of a SHA-512 digest in hexadecimal.
const DIGEST_CHARS: usize = 128;

impl Verifier {
    /// `POST /kbs/v0/attest`: judges, writes down, and answers with a token. Evidence that does not verify gets none; evidence
    /// that verifies and is not known gets one that says so, and that opens nothing. `from` sent it.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn attest(&self, body: &[u8], from: Source, now: UnixTime) -> Result<String, Refusal> {
        let refuse = |what: Value, refusal: Refusal| self.refuse(now, what, refusal);
        let event = json!({ "event": "attest" });
        let sent = Attestation::parse(body).map_err(|error| refuse(event.clone(), error.into()))?;
        let redeemed = self.challenger.redeem(&sent.nonce, now);
        let redeemed = redeemed.map_err(|error| refuse(event, error.into()))?;
        let event = json!({ "event": "attest", "tee": redeemed.tee.name(), "key": sent.key.describe() });
        let asked = Asked { from, at: now };
        let appraised =
            self.appraise(&sent, &redeemed, asked).map_err(|refusal| refuse(event.clone(), refusal))?;
        let mut event = event;
        describe(&mut event, &appraised);
        let appraisal = appraised.appraisal();
        if appraisal.verdict() == Verdict::Invalid {
            let failed = appraisal.checks().iter().filter(|check| check.result == Outcome::Failed);
            let checks = failed.map(|check| check.name).collect::<Vec<_>>().join(", ");
            return Err(refuse(event, Refusal::Evidence { checks }));
        }
        // Until here anybody could have written them.
        set(&mut event, "images", json!(appraised.images()));
        let identity = Identity::of(redeemed.tee, appraisal.claims(), &sent.key_as_sent);
        set(&mut event, "identity", identity.to_json());
        self.check_revoked(&identity).map_err(|refusal| refuse(event.clone(), refusal))?;
        let appraised = self.ask_policy(appraised, &identity, now);
        describe(&mut event, &appraised);
        let ear = self.ear(&sent, &redeemed, (&appraised, &identity), now)?;
        set(&mut event, "outcome", json!("token"));
        set(&mut event, "token", json!(ear.jti));
        self.record(now, &event)?;
        Ok(self.token_key.sign(&ear))
    }

    fn appraise(&self, sent: &Attestation, redeemed: &Redeemed, asked: Asked) -> Result<Appraised, Refusal> {
        self.catch_up()?;
        let judged = judge(sent, redeemed, &self.trust, asked)?;
        let references = self.references.read().unwrap_or_else(PoisonError::into_inner);
        let revoked = self.revoked_signers(&references)?;
        if revoked.is_empty() {
            return Ok(appraise(judged, &references));
        }
        Ok(appraise(judged, &references.with_revoked(&revoked)))
    }

    /// Only of guests that the built-in rules affirm.
    fn ask_policy(&self, appraised: Appraised, identity: &Identity, now: UnixTime) -> Appraised {
        let appraisal = appraised.appraisal();
        if appraisal.verdict() != Verdict::Affirming {
            return appraised;
        }
        let reference = appraised.reference();
        let input = json!({
            "at": now,
            "tee": appraised.tee().name(),
            "reference": reference.map(|reference| &reference.name),
            "signer": appraised.signer(),
            "tenants": reference.map(|reference| &reference.tenants),
            "identity": identity.to_json(),
            "claims": appraisal.claims(),
            "images": appraised.images(),
        });
        let policies = self.policies.read().unwrap_or_else(PoisonError::into_inner);
        let decision = policies.decide(Purpose::Appraisal, None, &input);
        drop(policies);
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.keep(Purpose::Appraisal, None, &input, decision.allowed);
        drop(recorded);
        if decision.asked.is_empty() {
            appraised
        } else {
            appraised.hold_policy(decision.allowed, &decision.asked)
        }
    }

    fn ear(
        &self,
        sent: &Attestation,
        redeemed: &Redeemed,
        (appraised, identity): (&Appraised, &Identity),
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
            if let Some(known) = members.get_mut("coffer") {
                set(known, "identity", identity.to_json());
            }
        }
        Ok(Ear::of_processor(&submodule, hex::encode(id), now.0, self.token_lifetime))
    }
}

/// What the audit log is told of a guest: all that was found wrong, in full.
/// A reason, with no more of what a stranger wrote than a digest is long.
fn in_short(check: &Check) -> Value {
    let cut = |text: &str| text.chars().take(DIGEST_CHARS).collect::<String>();
    json!({ "name": check.name, "result": check.result, "expected": cut(&check.expected), "found": cut(&check.found) })
}

fn describe(event: &mut Value, appraised: &Appraised) {
    let appraisal = appraised.appraisal();
    let reasons: Vec<_> = appraisal.reasons().take(24).map(in_short).collect();
    set(event, "verdict", json!(appraisal.verdict()));
    set(event, "simulated", json!(appraisal.claims().get("simulated")));
    set(event, "reference", json!(appraised.reference().map(|known| &known.name)));
    set(event, "signer", appraised.signer());
    set(event, "reasons", json!(reasons));
}
