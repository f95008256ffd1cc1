//! Signatures with a key: bundles, and cosign's older scheme.

use coffer_image::artefact::{Attached, Digest};
use serde_json::{Value, json};

use crate::artefacts::{
    PROVENANCE, SIGNATURE, bundle, index, keyed, keyed_logged, manifest, payload, simple,
};
use crate::authority::{base64, sign};
use crate::oracle::HOST;
use crate::world::{Case, World, by_key, by_keys, key_data};

/// cosign's options for Alice's key; the test puts the file there.
const ALICE: [&str; 3] = ["--key", "alice.pub", "--insecure-ignore-tlog"];

pub(crate) fn bundles(world: &World) -> Vec<Case> {
    let of_alice = |name, expected| Case::new(name, expected).requires(json!([by_key(&world.alice)]));
    let signed = |digest: &Digest| bundle(&keyed(&world.alice, digest, SIGNATURE));
    let spoilt = |digest: &Digest, spoil: fn(&mut Value)| {
        let mut document = keyed(&world.alice, digest, SIGNATURE);
        spoil(&mut document);
        bundle(&document)
    };
    let no_name = json!([by_keys(&[&world.alice], json!({"type": "matchRepository"}))]);
    let two_keys = json!([by_keys(&[&world.bob, &world.alice], json!({"type": "matchDigest"}))]);
    vec![
        of_alice("bundle-good", Ok("P-256")).with(signed).asks(&ALICE, None),
        of_alice("bundle-wrong-key", Err("signature: expected P-256"))
            .with(|digest| bundle(&keyed(&world.bob, digest, SIGNATURE)))
            .asks(&ALICE, None),
        of_alice("bundle-other-image", Err("digest: expected sha256:"))
            .with(|_| signed(&Digest::of(b"another")))
            .asks(&ALICE, None),
        of_alice("bundle-none", Err("no signature of this kind is attached")).asks(&ALICE, None),
        of_alice("bundle-statement-is-no-signature", Err("statement: expected"))
            .with(|digest| bundle(&keyed(&world.alice, digest, PROVENANCE))),
        of_alice("bundle-second-of-two", Ok("P-256"))
            .with(|digest| bundle(&keyed(&world.bob, digest, SIGNATURE)))
            .with(signed)
            .asks(&ALICE, None),
        of_alice("bundle-one-of-two-keys", Ok("P-256")).with(signed).requires(two_keys),
        of_alice("bundle-says-no-name", Err("say signedIdentity matchDigest")).with(signed).requires(no_name),
        of_alice("bundle-flipped-payload", Err("signature: expected"))
            .with(|digest| {
                spoilt(digest, |document| {
                    let text = document["dsseEnvelope"]["payload"].as_str().expect("text").to_owned();
                    let mut bytes = text.into_bytes();
                    // The last characters hold the predicate: still JSON of the same digest.
                    let at = bytes.len() - 8;
                    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                    document["dsseEnvelope"]["payload"] = json!(String::from_utf8(bytes).expect("text"));
                })
            })
            .requires_any_reason()
            .asks(&ALICE, None),
        of_alice("bundle-other-payload-type", Err("which is not supported"))
            .with(|digest| {
                spoilt(digest, |document| document["dsseEnvelope"]["payloadType"] = json!("text/plain"))
            })
            .asks(&ALICE, None),
        of_alice("bundle-unknown-member", Err("unknown field"))
            .with(|digest| spoilt(digest, |document| document["extra"] = json!(1))),
        of_alice("bundle-two-signatures-in-one", Err("signature in its envelope"))
            .with(|digest| {
                spoilt(digest, |document| {
                    let one = document["dsseEnvelope"]["signatures"][0].clone();
                    document["dsseEnvelope"]["signatures"] = json!([one.clone(), one]);
                })
            })
            .asks(&ALICE, None),
        of_alice("bundle-other-version", Err("which is not supported")).with(|digest| {
            spoilt(digest, |document| {
                document["mediaType"] = json!("application/vnd.dev.sigstore.bundle+json;version=0.9");
            })
        }),
        of_alice("bundle-of-the-manifest", Ok("P-256"))
            .with(|digest| of_manifest(world, digest, &manifest("bundle-of-the-manifest"))),
        of_alice("bundle-of-another-manifest", Err("digest: expected"))
            .with(|_| of_manifest(world, &Digest::of(&manifest("another")), &manifest("another"))),
    ]
}

/// A bundle whose signature is over the manifest itself.
fn of_manifest(world: &World, digest: &Digest, manifest: &[u8]) -> Attached {
    bundle(&json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {}},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": base64(digest.as_bytes())},
            "signature": base64(&sign(&world.alice, manifest)),
        },
    }))
}

impl Case {
    /// Any refusal is right: what a spoilt byte makes of a text depends on the text.
    fn requires_any_reason(mut self) -> Self {
        self.expected = Err("is refused by");
        self
    }
}

pub(crate) fn lists(world: &World) -> Vec<Case> {
    let chosen = |name, expected| {
        let mut case = Case::new(name, expected).requires(json!([by_key(&world.alice)]));
        case.index = Some(index(&case.manifest));
        case
    };
    let signed = |digest: &Digest| bundle(&keyed(&world.alice, digest, SIGNATURE));
    let mut of_index = chosen("list-signed", Ok("P-256")).asks(&ALICE, None);
    of_index.attached.push(signed(&Digest::of(of_index.index.as_ref().expect("an index"))));
    let mut of_other = chosen("list-another-signed", Err("digest: expected")).asks(&ALICE, None);
    of_other.attached.push(signed(&Digest::of(b"another index")));
    vec![of_index, of_other, chosen("list-its-image-signed", Ok("P-256")).with(signed)]
}

pub(crate) fn in_log(world: &World) -> Vec<Case> {
    let required = |not_before: Option<u64>| {
        let log = world.authority.trusted_root(&[])["tlogs"][0]["publicKey"]["rawBytes"].clone();
        let mut requirement = by_key(&world.alice);
        requirement["rekorPublicKeyData"] = log;
        if let Some(time) = not_before {
            requirement["notBefore"] = json!(coffer_image::UnixTime(time).to_string());
        }
        json!([requirement])
    };
    let case = |name, expected| Case::new(name, expected).requires(required(None));
    let logged =
        |digest: &Digest| bundle(&keyed_logged(&world.authority, &world.alice, digest, world.signed));
    let asks = ["--key", "alice.pub"];
    let root = || Some(world.authority.trusted_root(&[]));
    vec![
        case("log-good", Ok("P-256")).with(logged).asks(&asks, root()),
        case("log-missing", Err("no entry"))
            .with(|digest| bundle(&keyed(&world.alice, digest, SIGNATURE)))
            .asks(&asks, root()),
        case("log-another-log", Err("log: expected"))
            .with(|digest| bundle(&keyed_logged(&world.rogue, &world.alice, digest, world.signed)))
            .asks(&asks, root()),
        case("log-entry-of-another-image", Err("the entry is of other bytes"))
            .with(|digest| {
                let mut document = keyed_logged(&world.authority, &world.alice, digest, world.signed);
                let other = keyed_logged(&world.authority, &world.alice, &Digest::of(b"other"), world.signed);
                document["verificationMaterial"]["tlogEntries"] =
                    other["verificationMaterial"]["tlogEntries"].clone();
                bundle(&document)
            })
            .asks(&asks, root()),
        case("log-not-before-its-day", Err("not-before: expected"))
            .with(logged)
            .requires(required(Some(world.signed.0 + 1))),
        case("log-on-its-day", Ok("P-256")).with(logged).requires(required(Some(world.signed.0))),
        payload_in_no_log(world).requires(required(None)).asks(&asks, root()),
    ]
}

fn payload_in_no_log(world: &World) -> Case {
    Case::new("payload-log-missing", Err("no entry"))
        .with(|digest| simple(&world.alice, payload(digest, &format!("{HOST}/payload-log-missing"))))
}

/// What both schemes must refuse, or take, in the same way.
pub(crate) fn of_both_schemes(world: &World) -> Vec<Case> {
    let by_alice = || by_key(&world.alice);
    let named =
        |name: &str, digest: &Digest| simple(&world.alice, payload(digest, &format!("{HOST}/{name}")));
    let no_key = json!({"type": "sigstoreSigned", "keyData": "AAAA"});
    let signed = |digest: &Digest| bundle(&keyed(&world.alice, digest, SIGNATURE));
    let broken = ["--key", "broken.pub", "--insecure-ignore-tlog"];
    vec![
        Case::new("bundle-policy-missing", Err("no policy")).with(signed).policy(Value::Null).asks(&[], None),
        Case::new("bundle-policy-malformed", Err("no public key"))
            .with(signed)
            .requires(json!([no_key]))
            .asks(&broken, None),
        Case::new("payload-policy-missing", Err("no policy"))
            .with(|digest| named("payload-policy-missing", digest))
            .policy(Value::Null)
            .asks(&[], None),
        Case::new("payload-policy-malformed", Err("no public key"))
            .with(|digest| named("payload-policy-malformed", digest))
            .requires(json!([no_key]))
            .asks(&broken, None),
        Case::new("payload-none", Err("no signature of this kind"))
            .requires(json!([by_alice()]))
            .asks(&ALICE, None),
        Case::new("payload-manifest-list", Ok("P-256"))
            .of_list(|digest| named("payload-manifest-list", digest))
            .requires(json!([by_alice()]))
            .asks(&ALICE, None),
        Case::new("payload-two-of-two-short", Err("1 of 2 different signers"))
            .with(|digest| named("payload-two-of-two-short", digest))
            .requires_two(by_alice(), by_key(&world.bob)),
    ]
}

/// An image with a payload of Alice's that says `signed`.
fn named(
    world: &World,
    (name, expected): (&'static str, Result<&'static str, &'static str>),
    signed: &str,
    identity: Value,
) -> Case {
    Case::new(name, expected)
        .requires(json!([by_keys(&[&world.alice], identity)]))
        .with(|digest| simple(&world.alice, payload(digest, signed)))
}

pub(crate) fn payloads(world: &World) -> Vec<Case> {
    let repository = json!({"type": "matchRepository"});
    let own = |name: &str| format!("{HOST}/{name}");
    let mut other_bytes = named(
        world,
        ("payload-flipped", Err("signature: expected")),
        &own("payload-flipped"),
        repository.clone(),
    );
    if let Some(Attached::SimpleSigning { payload, .. }) = other_bytes.attached.first_mut() {
        payload.push(b'\n');
    }
    vec![
        named(world, ("payload-good", Ok("P-256")), &own("payload-good"), repository.clone())
            .asks(&ALICE, None),
        Case::new("payload-wrong-key", Err("signature: expected"))
            .requires(json!([by_keys(&[&world.alice], repository.clone())]))
            .with(|digest| simple(&world.bob, payload(digest, &own("payload-wrong-key"))))
            .asks(&ALICE, None),
        Case::new("payload-other-image", Err("digest: expected"))
            .requires(json!([by_keys(&[&world.alice], repository.clone())]))
            .with(|_| simple(&world.alice, payload(&Digest::of(b"other"), &own("payload-other-image"))))
            .asks(&ALICE, None),
        other_bytes.asks(&ALICE, None),
        Case::new("payload-of-another-type", Err("which is not supported"))
            .requires(json!([by_keys(&[&world.alice], repository.clone())]))
            .with(|digest| {
                let text = String::from_utf8(payload(digest, &own("payload-of-another-type"))).expect("text");
                simple(
                    &world.alice,
                    text.replace("cosign container image signature", "atomic container signature")
                        .into_bytes(),
                )
            }),
        Case::new("payload-member-twice", Err("is there twice"))
            .requires(json!([by_keys(&[&world.alice], repository)]))
            .with(|digest| {
                let text = String::from_utf8(payload(digest, &own("payload-member-twice"))).expect("text");
                simple(&world.alice, text.replacen('{', r#"{"critical":{},"#, 1).into_bytes())
            }),
    ]
}

pub(crate) fn names(world: &World) -> Vec<Case> {
    let repository = json!({"type": "matchRepository"});
    let own = |name: &str| format!("{HOST}/{name}");
    let remap = |from: &str, to: &str| json!({"type": "remapIdentity", "prefix": from, "signedPrefix": to});
    let named = |name, expected, signed: &str, identity| named(world, (name, expected), signed, identity);
    // The image is asked for by digest, and by `tag` too if there is one.
    let by_digest = |name, expected, tag: &str, signed: &str| {
        let mut case = named(name, expected, signed, json!({"type": "matchRepoDigestOrExact"}));
        case.image = format!("{HOST}/{name}{tag}@{}", case.digest());
        case
    };
    let moved = "payload-by-digest-of-another-tag";
    let refused = Err("identity: expected");
    vec![
        by_digest("payload-by-digest", Ok("P-256"), "", &own("payload-by-digest:v9")),
        by_digest("payload-by-digest-unnamed", refused, "", &own("payload-by-digest-unnamed")),
        by_digest("payload-by-both", Ok("P-256"), ":v1", &own("payload-by-both:v1")),
        by_digest(moved, refused, ":v1", &own(&format!("{moved}:v9"))),
        named("payload-other-repository", Err("identity: expected"), &own("another"), repository),
        named(
            "payload-tag-moved",
            Err("identity: expected"),
            &own("payload-tag-moved:v0"),
            json!({"type": "matchExact"}),
        ),
        named("payload-tag-kept", Ok("P-256"), &own("payload-tag-kept:v1"), json!({"type": "matchExact"})),
        named(
            "payload-without-tag",
            Err("identity: expected"),
            &own("payload-without-tag"),
            json!({"type": "matchRepoDigestOrExact"}),
        ),
        named(
            "payload-mirrored",
            Ok("P-256"),
            "origin.example.com/payload-mirrored:v1",
            remap(HOST, "origin.example.com"),
        ),
        named(
            "payload-mirrored-from-elsewhere",
            Err("identity: expected"),
            "evil.example.com/payload-mirrored-from-elsewhere:v1",
            remap(HOST, "origin.example.com"),
        ),
        named(
            "payload-mirrored-to-another-port",
            Err("identity: expected"),
            "origin.example.com:5000/payload-mirrored-to-another-port:v1",
            remap("127.0.0.1", "origin.example.com"),
        ),
        named(
            "payload-exact-reference",
            Ok("P-256"),
            "r.example.com/a:v7",
            json!({"type": "exactReference", "dockerReference": "r.example.com/a:v7"}),
        ),
        named(
            "payload-other-reference",
            Err("identity: expected"),
            "r.example.com/a:v8",
            json!({"type": "exactReference", "dockerReference": "r.example.com/a:v7"}),
        ),
        named(
            "payload-exact-repository",
            Ok("P-256"),
            "r.example.com/a:v8",
            json!({"type": "exactRepository", "dockerRepository": "r.example.com/a"}),
        ),
        named("payload-for-a-bundles-policy", Ok("P-256"), &own("x"), json!({"type": "matchDigest"})),
    ]
}

pub(crate) fn together(world: &World) -> Vec<Case> {
    let of = |names: &[&str], k: usize| {
        let by = |key| json!({"type": "sigstoreSigned", "keyData": key_data(key), "signedIdentity": {"type": "matchDigest"}});
        json!({
            "default": [{"type": "kOfN", "k": k, "of": names}],
            "requirements": {
                "alice": by(&world.alice), "bob": by(&world.bob), "carol": by(&world.carol), "alice-again": by(&world.alice),
            },
        })
    };
    let signed = |key| move |digest: &Digest| bundle(&keyed(key, digest, SIGNATURE));
    let with = |mut case: Case, policy: Value| {
        case.policy = policy;
        case
    };
    let attested = |predicate: &str, key| {
        json!({
            "type": "attestation", "predicateType": predicate, "sigstoreSigned": {"keyData": key_data(key)},
        })
    };
    let both = json!([by_key(&world.alice), attested(PROVENANCE, &world.bob)]);
    let says = |key| move |digest: &Digest| bundle(&keyed(key, digest, PROVENANCE));
    vec![
        with(Case::new("two-of-three", Ok("P-256")), of(&["alice", "bob", "carol"], 2))
            .with(signed(&world.alice))
            .with(signed(&world.carol)),
        with(
            Case::new("two-of-three-short", Err("1 of 2 different signers")),
            of(&["alice", "bob", "carol"], 2),
        )
        .with(signed(&world.alice)),
        with(
            Case::new("two-names-of-one-signer", Err("1 of 2 different signers")),
            of(&["alice", "alice-again"], 2),
        )
        .with(signed(&world.alice)),
        Case::new("attested-and-signed", Ok("P-256"))
            .requires(both.clone())
            .with(signed(&world.alice))
            .with(says(&world.bob)),
        Case::new("attested-by-nobody", Err("no statement of type https://slsa.dev/provenance/v1"))
            .requires(both.clone())
            .with(signed(&world.alice)),
        Case::new("attested-by-another", Err("signature: expected"))
            .requires(both.clone())
            .with(signed(&world.alice))
            .with(says(&world.carol)),
        Case::new("attested-and-not-signed", Err("docker/127.0.0.1:5000/0 of the policy"))
            .requires(both)
            .with(says(&world.bob)),
        Case::new("attested-otherwise", Err("no statement of type https://example.com/scan"))
            .requires(json!([attested("https://example.com/scan", &world.bob)]))
            .with(says(&world.bob)),
    ]
}

pub(crate) fn scopes(world: &World) -> Vec<Case> {
    let (good, bad) = (json!([{"type": "insecureAcceptAnything"}]), json!([{"type": "reject"}]));
    let docker = |scopes: Value| json!({"default": bad, "transports": {"docker": scopes}});
    let with = |name, expected, image: &str, policy| {
        let mut case = Case::new(name, expected).image(image);
        case.policy = policy;
        case
    };
    vec![
        with(
            "scope-none-fits",
            Err("refused by /default/0"),
            "r.example.com/a:1",
            docker(json!({"r.example.com/b": good})),
        ),
        with("scope-anything", Ok(""), "r.example.com/a:1", docker(json!({"r.example.com/a": good}))),
        with("scope-domain", Ok(""), "x.r.example.com/a:1", docker(json!({"*.example.com": good}))),
        with(
            "scope-domain-itself",
            Err("/default/0"),
            "example.com/a:1",
            docker(json!({"*.example.com": good})),
        ),
        with(
            "scope-narrower-decides",
            Err("a:1/0 of the policy"),
            "r.example.com/a:1",
            docker(json!({"r.example.com": good, "r.example.com/a:1": bad})),
        ),
        with(
            "scope-other-tag",
            Ok(""),
            "r.example.com/a:2",
            docker(json!({"r.example.com": good, "r.example.com/a:1": bad})),
        ),
        with("scope-all-of-docker", Ok(""), "busybox", docker(json!({"": good}))),
        with(
            "scope-of-other-transports",
            Err("/default/0"),
            "busybox",
            json!({"default": bad, "transports": {"docker-daemon": {"": good}}}),
        ),
        Case::new("scope-all-requirements", Err("127.0.0.1:5000/1 of the policy"))
            .requires(json!([{"type": "insecureAcceptAnything"}, by_key(&world.alice)])),
    ]
}
