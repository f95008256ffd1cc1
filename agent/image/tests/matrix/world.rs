//! Who signs in the cases, when, and how a policy says so.

use std::time::SystemTime;

use coffer_image::UnixTime;
use coffer_image::artefact::{Attached, Digest, Evidence, Subject};
use coffer_image::judge::{Decision, Judgement, judge};
use coffer_image::policy::{NoFiles, Policy, PolicyError};
use p256::ecdsa::SigningKey;
use serde_json::{Value, json};

use crate::artefacts::{index, manifest};
use crate::authority::{Asked, Authority, ISSUER, base64, key, pem, spki};
use crate::oracle::HOST;

pub(crate) const MAIL: &str = "dev@example.com";
const DAY: u64 = 86_400;

pub(crate) struct World {
    pub(crate) alice: SigningKey,
    pub(crate) bob: SigningKey,
    pub(crate) carol: SigningKey,
    pub(crate) short_lived: SigningKey,
    pub(crate) authority: Authority,
    pub(crate) rogue: Authority,
    /// When signatures were made.
    pub(crate) signed: UnixTime,
    /// When they are judged.
    pub(crate) now: UnixTime,
}

/// One image, what is attached to it, and what is to be said of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) image: String,
    pub(crate) manifest: Vec<u8>,
    pub(crate) index: Option<Vec<u8>>,
    pub(crate) attached: Vec<Attached>,
    pub(crate) policy: Value,
    /// A part of the signers' names, or of the reason.
    pub(crate) expected: Result<&'static str, &'static str>,
    /// How cosign is asked the same: its options, and the trusted root if it gets one.
    pub(crate) cosign: Option<(Vec<String>, Option<Value>)>,
    /// How notation is asked the same.
    pub(crate) notation: Option<Settings>,
    /// What the registry has beside the image.
    pub(crate) served: Vec<Vec<u8>>,
}

/// What notation is told.
pub(crate) struct Settings {
    /// `None`: there is no policy.
    pub(crate) policy: Option<Value>,
    /// Trust stores by their type, with a certificate in PEM each.
    pub(crate) stores: Vec<(&'static str, String)>,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = UnixTime::from(SystemTime::now());
        let since = UnixTime(now.0 - 30 * DAY);
        Self {
            alice: key(101),
            bob: key(102),
            carol: key(103),
            short_lived: key(104),
            authority: Authority::new(1, since),
            rogue: Authority::new(51, since),
            signed: UnixTime(now.0 - DAY),
            now,
        }
    }

    /// A certificate of ten minutes for `holder`.
    pub(crate) fn asked<'a>(&'a self, holder: &'a str) -> Asked<'a> {
        Asked { key: &self.short_lived, holder, at: self.signed, lifetime: 600, logged: true }
    }
}

impl Case {
    /// An image of its own, signed by nobody, under a policy that takes nothing.
    pub(crate) fn new(name: &'static str, expected: Result<&'static str, &'static str>) -> Self {
        let image = format!("{HOST}/{name}:v1");
        let policy = json!({"default": [{"type": "reject"}]});
        let (index, attached, cosign, notation, served) = (None, Vec::new(), None, None, Vec::new());
        let manifest = manifest(name);
        Self { name, image, manifest, index, attached, policy, expected, cosign, notation, served }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// What whoever signs signs: the index, if the image was chosen from one.
    pub(crate) fn signed(&self) -> &[u8] {
        self.index.as_ref().unwrap_or(&self.manifest)
    }

    pub(crate) fn with(mut self, attached: impl FnOnce(&Digest) -> Attached) -> Self {
        self.attached.push(attached(&self.digest()));
        self
    }

    /// An image that is chosen from an index, which is signed instead of it.
    pub(crate) fn of_list(mut self, attached: impl FnOnce(&Digest) -> Attached) -> Self {
        self.index = Some(index(&self.manifest));
        self.attached.push(attached(&Digest::of(self.signed())));
        self
    }

    /// Two of these requirements, by different signers.
    pub(crate) fn requires_two(mut self, one: Value, other: Value) -> Self {
        self.policy = json!({
            "default": [{"type": "kOfN", "k": 2, "of": ["one", "other"]}],
            "requirements": {"one": one, "other": other},
        });
        self
    }

    /// A policy that is there and is none.
    pub(crate) fn policy(mut self, policy: Value) -> Self {
        self.policy = policy;
        self
    }

    /// The requirements of the registry's host; everything else is refused.
    pub(crate) fn requires(mut self, requirements: Value) -> Self {
        self.policy = on_host(requirements);
        self
    }

    pub(crate) fn image(mut self, image: &str) -> Self {
        self.image = image.to_owned();
        self
    }

    /// Asks cosign too, with these options.
    pub(crate) fn asks(mut self, options: &[&str], root: Option<Value>) -> Self {
        self.cosign = Some((options.iter().map(|option| (*option).to_owned()).collect(), root));
        self
    }

    pub(crate) fn evidence(&self) -> Evidence {
        let mut evidence = Evidence::default();
        self.attached.iter().for_each(|one| evidence.add(one.clone()).expect("within bounds"));
        evidence
    }

    pub(crate) fn judged(&self, at: UnixTime) -> Judgement {
        self.tried(at).expect("a policy")
    }

    /// # Errors
    /// The policy is none.
    fn tried(&self, at: UnixTime) -> Result<Judgement, PolicyError> {
        let reference = self.image.parse().expect("a reference");
        let subject = match &self.index {
            None => Subject::of_manifest(reference, self.manifest.clone()),
            Some(index) => Subject::chosen_from(reference, index.clone(), self.manifest.clone()),
        };
        let text = if self.policy.is_null() { String::new() } else { self.policy.to_string() };
        let policy = Policy::parse(text.as_bytes(), &NoFiles)?;
        Ok(judge(&policy, subject.expect("an image"), &self.evidence(), at))
    }

    /// What differs from what was expected.
    pub(crate) fn fault(&self, at: UnixTime) -> Option<String> {
        let judgement = match (self.tried(at), self.expected) {
            (Ok(judgement), _) => judgement,
            (Err(error), Err(wanted)) if error.to_string().contains(wanted) => return None,
            (Err(error), _) => return Some(format!("{}: {error}", self.name)),
        };
        let decision = judgement.decision();
        let (said, wanted) = match (judgement.into_admitted(), self.expected) {
            (Ok(admitted), Ok(wanted)) => {
                let names = admitted.signers().iter().map(|signer| signer.name.clone());
                (names.collect::<Vec<String>>().join(", "), wanted)
            }
            (Err(refusal), Err(wanted)) => (refusal.to_string(), wanted),
            (Ok(_), Err(wanted)) => return Some(format!("{}: admitted, expected: {wanted}", self.name)),
            (Err(refusal), Ok(_)) => return Some(format!("{}: {refusal}", self.name)),
        };
        let right = (decision == Decision::Admitted) == self.expected.is_ok() && said.contains(wanted);
        (!right).then(|| format!("{}: said {said:?}, expected {wanted:?}", self.name))
    }
}

pub(crate) fn on_host(requirements: Value) -> Value {
    json!({"default": [{"type": "reject"}], "transports": {"docker": {HOST: requirements}}})
}

/// A requirement of a signature by one of these keys.
pub(crate) fn by_keys(keys: &[&SigningKey], identity: Value) -> Value {
    let datas: Vec<String> = keys.iter().map(|key| key_data(key)).collect();
    json!({"type": "sigstoreSigned", "keyDatas": datas, "signedIdentity": identity})
}

/// The same, for signatures that say no name.
pub(crate) fn by_key(key: &SigningKey) -> Value {
    by_keys(&[key], json!({"type": "matchDigest"}))
}

pub(crate) fn key_data(key: &SigningKey) -> String {
    base64(pem("PUBLIC KEY", &spki(key)).as_bytes())
}

/// A requirement of a keyless signature by `who`.
pub(crate) fn by_holder(root: &Value, who: Value, identity: Value) -> Value {
    json!({
        "type": "keyless",
        "identities": [who],
        "trustedRootData": base64(root.to_string().as_bytes()),
        "signedIdentity": identity,
    })
}

pub(crate) fn exactly(subject: &str) -> Value {
    json!({"issuer": ISSUER, "subject": subject})
}

/// How cosign is asked for a keyless signature.
pub(crate) const ASKS_KEYLESS: [&str; 5] =
    ["--certificate-identity", MAIL, "--certificate-oidc-issuer", ISSUER, "--use-signed-timestamps"];
