//! The policy of this guest and what follows from it.

use coffer_image::UnixTime;
use coffer_image::judge::judge;
use coffer_image::policy::{NoFiles, Policy};

use super::claim::Claim;
use super::{Admission, GateError};

/// The longest judgement that is told; a longer one is left out.
const MAX_JUDGEMENT: usize = 1 << 20;

/// A node's own policy. There is none where a secure processor would have to vouch for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePolicy {
    /// JSON.
    pub(crate) document: Vec<u8>,
    /// What would be refused is told, and runs.
    pub(crate) dry_run: bool,
}

/// What images have to pass. It is made once, with the sandbox.
#[derive(Debug)]
pub(crate) struct Gate(Rule);

#[derive(Debug)]
enum Rule {
    /// Nobody asks for anything.
    None,
    /// There should be one, and nothing runs before there is.
    Missing,
    /// The policy decides.
    Enforced(Box<Policy>),
    /// The policy decides what is told.
    DryRun(Box<Policy>),
}

/// Says that nothing has to be shown before disks are mounted as they are. Only [`Gate::unjudged`] makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoPolicy(());

/// What a gate says of a claim that it does not refuse.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// There is no policy.
    Unjudged,
    /// It may run.
    Admitted {
        /// What its bytes are held against.
        admission: Admission,
        /// JSON.
        judgement: Vec<u8>,
    },
    /// It runs as it is, whatever the policy says of it.
    Rehearsed {
        /// Why it would not run if the policy were enforced.
        refusal: Option<GateError>,
        /// JSON; empty: it did not come to one.
        judgement: Vec<u8>,
    },
}

impl Gate {
    /// Of a guest whose initdata its processor vouches for, which runs nothing without a policy; `policy` is the text of the entry
    /// [`super::POLICY_ENTRY`].
    pub(crate) fn of_initdata(policy: Option<&str>) -> Result<Self, GateError> {
        let Some(policy) = policy else { return Ok(Self(Rule::Missing)) };
        Ok(Self(Rule::Enforced(read(policy.as_bytes(), "the initdata's entry image-policy.json")?)))
    }

    /// Of a guest without a secure processor.
    pub(crate) fn of_node(policy: Option<&NodePolicy>) -> Result<Self, GateError> {
        let Some(policy) = policy else { return Ok(Self(Rule::None)) };
        let read = read(&policy.document, "the node's configuration")?;
        Ok(Self(if policy.dry_run { Rule::DryRun(read) } else { Rule::Enforced(read) }))
    }

    /// Judges an image, as of `at`.
    ///
    /// # Errors
    /// Why it may not run.
    pub(crate) fn judge(&self, claim: Claim, at: UnixTime) -> Result<Verdict, GateError> {
        match &self.0 {
            Rule::None => Ok(Verdict::Unjudged),
            Rule::Missing => Err(GateError::NoPolicy),
            Rule::Enforced(policy) => {
                let mut judgement = Vec::new();
                let admission = admit(policy, claim, at, &mut judgement)?;
                Ok(Verdict::Admitted { admission, judgement })
            }
            Rule::DryRun(policy) => {
                let mut judgement = Vec::new();
                // Also an image that would run goes as everywhere: a rehearsal changes nothing of how pods run.
                let refusal = admit(policy, claim, at, &mut judgement).err();
                Ok(Verdict::Rehearsed { refusal, judgement })
            }
        }
    }

    /// Lets a container's disks be mounted as they are, if no policy says otherwise.
    ///
    /// # Errors
    /// Where a policy decides, an image must have been admitted.
    pub(crate) fn unjudged(&self) -> Result<NoPolicy, GateError> {
        match &self.0 {
            Rule::None | Rule::DryRun(_) => Ok(NoPolicy(())),
            Rule::Missing => Err(GateError::NoPolicy),
            Rule::Enforced(_) => Err(GateError::NotJudged),
        }
    }
}

/// `judgement` gets the verdict in JSON as soon as there is one.
fn admit(
    policy: &Policy,
    claim: Claim,
    at: UnixTime,
    judgement: &mut Vec<u8>,
) -> Result<Admission, GateError> {
    let case = claim.read()?;
    let judged = judge(policy, case.subject, &case.evidence, at);
    *judgement = serde_json::to_vec(&judged).unwrap_or_default();
    if judgement.len() > MAX_JUDGEMENT {
        judgement.clear();
    }
    let admitted = judged.into_admitted().map_err(GateError::Refused)?;
    Admission::of(&admitted, &case.configuration)
}

fn read(document: &[u8], place: &'static str) -> Result<Box<Policy>, GateError> {
    let read = Policy::parse(document, &NoFiles);
    read.map(Box::new).map_err(|source| GateError::Policy { place, source })
}

#[cfg(test)]
mod tests {
    use coffer_layer::encrypted::placeholder;
    use coffer_protocol::Digest;
    use serde_json::{Value, json};

    use super::*;
    use crate::chain::Chain;
    use crate::gate::samples::{
        KEY, Keyless, NOW, TAR, accepting, admitted, admitted_blobs, annotations, configuration, descriptor,
        encrypted_image, encrypted_layer, image, policy, sealed_image,
    };
    use crate::gate::{Bytes, SignatureObject};

    fn gate(kind: &str, dry_run: bool) -> Gate {
        Gate::of_node(Some(&policy(kind, dry_run))).unwrap()
    }

    fn refused(claim: Claim) -> String {
        Chain(&accepting().judge(claim, NOW).unwrap_err()).to_string()
    }

    #[test]
    fn an_image_that_the_policy_lets_run_names_the_archives_that_are_to_come() {
        let claim = image(&[b"low", b"high"], json!({}));
        let digest = Digest::of(&claim.manifest);
        let (record, bytes) = admitted(claim);
        let Bytes::Blobs(blobs) = bytes else { panic!("sealed") };
        let read: Vec<_> =
            blobs.iter().map(|blob| (*blob.digest(), blob.size(), blob.media_type())).collect();
        assert_eq!(read, [(Digest::of(b"low"), 3, TAR), (Digest::of(b"high"), 4, TAR)]);
        assert_eq!((record.image.as_str(), record.digest), ("r.example.com/app:v1", digest.to_string()));
        assert_eq!((record.rule.as_str(), record.signers.len()), ("/default", 0));
    }

    #[test]
    fn a_refusal_names_image_digest_rule_and_reason() {
        let claim = image(&[b"layer"], json!({}));
        let digest = Digest::of(&claim.manifest);
        let error = gate("reject", false).judge(claim, NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the image r.example.com/app:v1 ({digest}) is refused by /default/0 of the policy: the policy takes nothing here"
            )
        );
    }

    #[test]
    fn a_dry_run_tells_what_would_be_refused_and_lets_it_run() {
        let gate = gate("reject", true);
        let verdict = gate.judge(image(&[b"layer"], json!({})), NOW).unwrap();
        let Verdict::Rehearsed { refusal: Some(GateError::Refused(_)), judgement } = verdict else {
            panic!("{verdict:?}")
        };
        let judgement: Value = serde_json::from_slice(&judgement).unwrap();
        assert_eq!(judgement["decision"], "refused");
        assert!(gate.unjudged().is_ok());
    }

    #[test]
    fn what_is_no_image_does_not_stop_a_dry_run() {
        let verdict = gate("reject", true).judge(Claim::default(), NOW).unwrap();
        assert!(
            matches!(verdict, Verdict::Rehearsed { refusal: Some(_), judgement } if judgement.is_empty())
        );
    }

    #[test]
    fn a_dry_run_wants_no_bytes_of_an_image_that_would_run() {
        for claim in [image(&[b"layer"], json!({})), sealed_image()] {
            let verdict = gate("insecureAcceptAnything", true).judge(claim, NOW).unwrap();
            let Verdict::Rehearsed { refusal: None, judgement } = verdict else { panic!("{verdict:?}") };
            let judgement: Value = serde_json::from_slice(&judgement).unwrap();
            assert_eq!(judgement["decision"], "admitted");
        }
    }

    #[test]
    fn a_policy_that_decides_leaves_no_way_around_it() {
        assert!(matches!(accepting().unjudged(), Err(GateError::NotJudged)));
        let initdata = Gate::of_initdata(Some(r#"{"default": [{"type": "reject"}]}"#)).unwrap();
        assert!(matches!(initdata.unjudged(), Err(GateError::NotJudged)));
    }

    #[test]
    fn a_policy_that_is_none_is_no_policy_that_takes_anything() {
        for text in ["", "{}", r#"{"default": []}"#, r#"{"default": [{"type": "whatever"}]}"#] {
            assert!(matches!(Gate::of_initdata(Some(text)), Err(GateError::Policy { .. })), "{text}");
        }
    }

    #[test]
    fn nothing_runs_beside_a_secure_processor_without_a_policy() {
        let gate = Gate::of_initdata(None).unwrap();
        assert!(matches!(gate.unjudged(), Err(GateError::NoPolicy)));
        let refused = gate.judge(image(&[b"layer"], json!({})), NOW).unwrap_err();
        assert!(refused.to_string().contains("image-policy.json"), "{refused}");
    }

    #[test]
    fn without_a_policy_disks_are_mounted_as_they_are_on_other_nodes() {
        let gate = Gate::of_node(None).unwrap();
        assert!(matches!(gate.judge(Claim::default(), NOW), Ok(Verdict::Unjudged)));
        assert!(gate.unjudged().is_ok());
    }

    #[test]
    fn a_configuration_that_the_manifest_does_not_name_is_refused() {
        let claim = Claim { configuration: configuration(&[b"other"]), ..image(&[b"layer"], json!({})) };
        assert!(refused(claim).contains("it hashes to sha256:"));
    }

    #[test]
    fn a_configuration_with_a_layer_more_or_less_is_refused() {
        let mut claim = image(&[b"layer"], json!({}));
        claim.configuration = configuration(&[b"layer", b"more"]);
        let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
        manifest["config"] = descriptor("a/b", &claim.configuration);
        claim.manifest = manifest.to_string().into_bytes();
        assert!(refused(claim).contains("it has 2 layers, the manifest 1"));
        assert!(refused(image(&[], json!({}))).contains("it has 0 layers"));
        assert!(refused(image(&[b"x".as_slice(); 129], json!({}))).contains("1 to 128"));
    }

    #[test]
    fn a_layer_of_another_kind_is_refused_before_it_is_sent() {
        for media_type in ["application/vnd.oci.image.layer.v1.tar+xz", "text/plain"] {
            let mut claim = image(&[b"layer"], json!({}));
            let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
            manifest["layers"][0]["mediaType"] = json!(media_type);
            claim.manifest = manifest.to_string().into_bytes();
            let reason = refused(claim);
            assert!(reason.contains("cannot be unpacked") && reason.contains(media_type), "{reason}");
        }
    }

    #[test]
    fn an_encrypted_layer_whose_key_cannot_be_asked_for_is_refused_before_it_is_sent() {
        let with = |key: &str| {
            let mut claim = encrypted_image(&[b"layer"], key, Keyless::True).0;
            let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
            if key.is_empty() {
                manifest["layers"][0]["annotations"] = json!({});
            }
            claim.manifest = manifest.to_string().into_bytes();
            refused(claim)
        };
        assert!(with("").contains("has no annotation org.opencontainers.image.enc.keys"));
        for key in ["kbs://elsewhere/a/b/c", "kbs:///a/b", "kbs+vault:///a/b/c", "/a/b/c", "a/b/c"] {
            let reason = with(key);
            assert!(reason.contains("cannot be asked for") && reason.contains(key), "{reason}");
        }
    }

    #[test]
    fn encrypted_layers_are_admitted_with_the_names_of_their_keys() {
        let (claim, _) = encrypted_image(&[b"layer", b"other"], KEY, Keyless::Placeholder);
        let (_, bytes) = admitted(claim);
        let Bytes::Blobs(blobs) = bytes else { panic!("sealed") };
        let keys: Vec<_> = blobs.iter().map(|blob| blob.encryption().unwrap().key.path()).collect();
        assert_eq!(keys, ["acme/image-kek/web"; 2]);
        assert_eq!(blobs[0].media_type(), TAR);
        assert_ne!(blobs[0].identity(), blobs[1].identity());
    }

    #[test]
    fn no_plain_layer_has_the_identity_of_an_encrypted_one() {
        let (claim, bytes) = encrypted_image(&[b"layer"], KEY, Keyless::Placeholder);
        let encrypted = admitted_blobs(claim.clone()).remove(0);
        // The same blob and diff id, said to be plain; and a diff id that is made of all that is public of the other.
        let [(_, key), (_, options)] = encrypted.encryption().unwrap().envelope.annotations();
        let diff_id = Digest::of(&placeholder(&Digest::of(&bytes[0])));
        let made = Digest::of(format!("{diff_id} {key} {options}").as_bytes());
        for diff_id in [diff_id, made] {
            let configuration = json!({"rootfs": {"diff_ids": [diff_id]}}).to_string().into_bytes();
            let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
            manifest["config"] = descriptor("a/b", &configuration);
            manifest["layers"] = json!([descriptor(TAR, &bytes[0])]);
            let manifest = manifest.to_string().into_bytes();
            let plain = admitted_blobs(Claim { manifest, configuration, ..claim.clone() }).remove(0);
            assert_eq!(plain.digest(), encrypted.digest());
            assert_ne!(plain.identity(), encrypted.identity());
        }
    }

    #[test]
    fn an_encrypted_layer_has_another_identity_in_another_image() {
        let (claim, _) = encrypted_image(&[b"layer"], KEY, Keyless::Placeholder);
        let identity = |claim: &Claim| admitted_blobs(claim.clone())[0].identity();
        assert_eq!(identity(&claim), identity(&claim));
        let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
        manifest["annotations"] = json!({"by": "another"});
        let copied = Claim { manifest: manifest.to_string().into_bytes(), ..claim.clone() };
        assert_ne!(identity(&claim), identity(&copied));
        let named = Claim { reference: "r.example.com/other:v1".to_owned(), ..claim.clone() };
        assert_ne!(identity(&claim), identity(&named));
    }

    #[test]
    fn one_encrypted_blob_under_two_keys_is_refused() {
        let (mut claim, _) = encrypted_image(&[b"layer", b"layer"], KEY, Keyless::True);
        let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
        let (_, other) = encrypted_layer(b"layer", "kbs:///acme/image-kek/other");
        manifest["layers"][1]["annotations"] = annotations(&other);
        claim.manifest = manifest.to_string().into_bytes();
        assert!(refused(claim).contains("is there twice"));
    }

    #[test]
    fn an_archive_with_two_contents_is_refused() {
        let mut claim = image(&[b"layer", b"other"], json!({}));
        let mut manifest: Value = serde_json::from_slice(&claim.manifest).unwrap();
        manifest["layers"][1] = manifest["layers"][0].clone();
        claim.manifest = manifest.to_string().into_bytes();
        assert!(refused(claim).contains("is there twice"));
    }

    #[test]
    fn an_archive_may_be_there_twice() {
        let (_, bytes) = admitted(image(&[b"empty", b"layer", b"empty"], json!({})));
        assert!(matches!(bytes, Bytes::Blobs(blobs) if blobs.len() == 3));
    }

    #[test]
    fn a_sealed_image_has_its_roots_from_the_manifest() {
        let (_, bytes) = admitted(sealed_image());
        let Bytes::Sealed(sealed) = bytes else { panic!("not sealed") };
        let [layer] = sealed.layers() else { panic!("{sealed:?}") };
        assert_eq!((layer.data_bytes, layer.root.0, layer.salt.0), (8192, [0x11; 32], [0x22; 32]));
        let broken = json!({"dev.coffer.sealed.v1": "{}"});
        assert!(refused(image(&[b"tar"], broken)).contains("dev.coffer.sealed.v1"));
    }

    #[test]
    fn a_signature_object_that_cannot_be_read_is_refused_by_its_place() {
        let object = SignatureObject { manifest: b"{}".to_vec(), blobs: Vec::new() };
        let claim = Claim { signatures: vec![object], ..image(&[b"layer"], json!({})) };
        assert!(refused(claim).starts_with("signature object 0 has no manifest"));
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let claim = Claim { reference: "//".to_owned(), ..image(&[b"layer"], json!({})) };
        assert!(refused(claim).starts_with("the image's name cannot be read"));
    }
}
