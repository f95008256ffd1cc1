//! Keyless signatures, with a simulated authority.

use coffer_image::UnixTime;
use coffer_image::artefact::Digest;
use serde_json::{Value, json};

use crate::artefacts::{SIGNATURE, bundle, keyless, keyless_v2, payload, simple_keyless};
use crate::authority::{Asked, ISSUER, WORKFLOW, base64};
use crate::oracle::HOST;
use crate::world::{ASKS_KEYLESS, Case, MAIL, World, by_holder, exactly};

fn alone() -> Value {
    json!({"type": "matchDigest"})
}

/// A case in which the developer's signature is required, asked of cosign too.
fn case(world: &World, name: &'static str, expected: Result<&'static str, &'static str>) -> Case {
    let root = world.authority.trusted_root(&[]);
    Case::new(name, expected)
        .requires(json!([by_holder(&root, exactly(MAIL), alone())]))
        .asks(&ASKS_KEYLESS, Some(root))
}

pub(crate) fn signers(world: &World) -> Vec<Case> {
    let signed = |digest: &Digest| bundle(&keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE));
    let workflow =
        |digest: &Digest| bundle(&keyless(&world.authority, &world.asked(WORKFLOW), digest, SIGNATURE));
    let root = world.authority.trusted_root(&[]);
    let who = |who: Value| json!([by_holder(&root, who, alone())]);
    let pattern = |text: &str| json!({"issuer": ISSUER, "subjectPattern": text});
    let elsewhere = json!({"issuer": "https://other.example.com", "subject": MAIL});
    let other_issuer =
        ["--certificate-identity", MAIL, "--certificate-oidc-issuer", "https://other.example.com"];
    let without_cosign = |mut case: Case| {
        case.cosign = None;
        case
    };
    vec![
        case(world, "keyless-good", Ok("dev@example.com of https://issuer.example.com")).with(signed),
        case(world, "keyless-wrong-identity", Err("signer: expected")).with(|digest| {
            bundle(&keyless(&world.authority, &world.asked("eve@example.com"), digest, SIGNATURE))
        }),
        case(world, "keyless-wrong-issuer", Err("signer: expected"))
            .with(signed)
            .requires(who(elsewhere))
            .asks(&other_issuer, Some(root.clone())),
        without_cosign(case(world, "keyless-workflow", Ok("build.yml")))
            .with(workflow)
            .requires(who(pattern("https://ci.example.com/org/*@refs/heads/main"))),
        without_cosign(case(world, "keyless-another-branch", Err("signer: expected")))
            .with(workflow)
            .requires(who(pattern("https://ci.example.com/org/*@refs/heads/release"))),
        case(world, "keyless-other-image", Err("digest: expected")).with(|_| signed(&Digest::of(b"another"))),
        case(world, "keyless-rogue-authority", Err("is refused by"))
            .with(|digest| bundle(&keyless(&world.rogue, &world.asked(MAIL), digest, SIGNATURE))),
        case(world, "keyless-none", Err("no signature of this kind")),
        without_cosign(case(world, "keyless-payload", Ok("dev@example.com")))
            .requires(json!([by_holder(&root, exactly(MAIL), json!({"type": "matchRepository"}))]))
            .with(|digest| {
                let text = payload(digest, &format!("{HOST}/keyless-payload"));
                simple_keyless(&world.authority, &world.asked(MAIL), text)
            })
            .asks(&ASKS_KEYLESS[..4], Some(root.clone())),
        case(world, "keyless-payload-wrong-identity", Err("signer: expected"))
            .requires(json!([by_holder(&root, exactly(MAIL), json!({"type": "matchRepository"}))]))
            .with(|digest| {
                let text = payload(digest, &format!("{HOST}/keyless-payload-wrong-identity"));
                simple_keyless(&world.authority, &world.asked("eve@example.com"), text)
            })
            .asks(&ASKS_KEYLESS[..4], Some(root.clone())),
    ]
}

pub(crate) fn times(world: &World) -> Vec<Case> {
    let asked = |at: u64, lifetime| Asked { at: UnixTime(at), lifetime, ..world.asked(MAIL) };
    let later = |digest: &Digest, seconds: u64| {
        // Logged and stamped long after the certificate was given out.
        let early = keyless(&world.authority, &asked(world.signed.0, 600), digest, SIGNATURE);
        let late = keyless(&world.authority, &asked(world.signed.0 + seconds, 600), digest, SIGNATURE);
        let mut document = late;
        document["verificationMaterial"]["certificate"] =
            early["verificationMaterial"]["certificate"].clone();
        document
    };
    let narrowed = |member: &str, window: Value| {
        let mut root = world.authority.trusted_root(&[]);
        let holder = if member == "tlogs" { &mut root[member][0]["publicKey"] } else { &mut root[member][0] };
        holder["validFor"] = window;
        root
    };
    let under = |name, expected, root: Value| {
        Case::new(name, expected)
            .requires(json!([by_holder(&root, exactly(MAIL), alone())]))
            .asks(&ASKS_KEYLESS, Some(root))
            .with(|digest| bundle(&keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE)))
    };
    let over =
        json!({"start": world.authority.since.to_string(), "end": UnixTime(world.signed.0 - 60).to_string()});
    let to_come = json!({"start": UnixTime(world.signed.0 + 60).to_string()});
    vec![
        case(world, "time-within-the-certificates", Ok(MAIL))
            .with(|digest| bundle(&keyless(&world.authority, &asked(world.signed.0, 60), digest, SIGNATURE))),
        case(world, "time-after-the-certificates", Err("is refused by")).with(|digest| {
            let statement = later(digest, 3600);
            bundle(&statement)
        }),
        case(world, "time-of-the-clock-after-the-certificates", Err("certificate: expected")).with(|digest| {
            let mut document = keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE);
            let signature = document["dsseEnvelope"]["signatures"][0]["sig"].as_str().expect("text").to_owned();
            let bytes = coffer_base64(&signature);
            let stamp = world.authority.stamp(&bytes, UnixTime(world.signed.0 + 3600));
            document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0]["signedTimestamp"] =
                json!(base64(&stamp));
            bundle(&document)
        }),
        case(world, "time-to-come", Err("time: expected")).with(|digest| {
            bundle(&keyless(&world.authority, &asked(world.now.0 + 7200, 600), digest, SIGNATURE))
        }).without_cosign(),
        under("time-authority-over", Err("does not count at"), narrowed("certificateAuthorities", over.clone())),
        under("time-authority-to-come", Err("does not count at"), narrowed("certificateAuthorities", to_come)),
        under("time-log-over", Err("the log does not count"), narrowed("tlogs", over)),
    ]
}

pub(crate) fn missing(world: &World) -> Vec<Case> {
    let spoilt = |digest: &Digest, spoil: &dyn Fn(&mut Value)| {
        let mut document = keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE);
        spoil(&mut document["verificationMaterial"]);
        bundle(&document)
    };
    let without = |name, expected, members: &[&str]| {
        let root = world.authority.trusted_root(members);
        Case::new(name, expected)
            .requires(json!([by_holder(&root, exactly(MAIL), alone())]))
            .asks(&ASKS_KEYLESS, Some(root))
    };
    let signed = |digest: &Digest| bundle(&keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE));
    let second = |digest: &Digest| bundle(&keyless_v2(&world.authority, &world.asked(MAIL), digest));
    vec![
        case(world, "missing-entry", Err("no entry"))
            .with(|digest| spoilt(digest, &|material| material["tlogEntries"] = json!([]))),
        case(world, "missing-promise-and-proof", Err("neither the log's promise nor its proof")).with(
            |digest| {
                spoilt(digest, &|material| {
                    let entry = material["tlogEntries"][0].as_object_mut().expect("an object");
                    entry.remove("inclusionProof");
                    entry.remove("inclusionPromise");
                })
            },
        ),
        case(world, "broken-proof", Err("leads to another root")).with(|digest| {
            spoilt(digest, &|material| {
                material["tlogEntries"][0]["inclusionProof"]["hashes"] = json!([base64(&[7; 32])]);
            })
        }),
        case(world, "broken-promise", Err("promise does not hold")).with(|digest| {
            let time = json!((world.signed.0 + 1).to_string());
            spoilt(digest, &|material| material["tlogEntries"][0]["integratedTime"] = time.clone())
        }),
        case(world, "broken-checkpoint", Err("is of another tree")).with(|digest| {
            let other = keyless(&world.authority, &world.asked(MAIL), &Digest::of(b"other"), SIGNATURE);
            let other =
                other["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"].clone();
            spoilt(digest, &|material| {
                material["tlogEntries"][0]["inclusionProof"]["checkpoint"] = other.clone()
            })
        }),
        case(world, "certificate-of-another-key", Err("signature: expected")).with(|digest| {
            let asked = Asked { key: &world.carol, ..world.asked(MAIL) };
            let other = keyless(&world.authority, &asked, digest, SIGNATURE);
            let other = other["verificationMaterial"]["certificate"].clone();
            spoilt(digest, &|material| material["certificate"] = other.clone())
        }),
        case(world, "missing-certificate", Err("certificate: expected"))
            .with(|digest| {
                spoilt(digest, &|material| {
                    drop(material.as_object_mut().expect("an object").remove("certificate"))
                })
            })
            .without_cosign(),
        case(world, "certificate-in-no-log", Err("no log's promise")).with(|digest| {
            let asked = Asked { logged: false, ..world.asked(MAIL) };
            bundle(&keyless(&world.authority, &asked, digest, SIGNATURE))
        }),
        case(world, "stamp-of-a-rogue-clock", Err("timestamp: expected")).with(|digest| {
            let rogue = keyless(&world.rogue, &world.asked(MAIL), digest, SIGNATURE);
            let rogue = rogue["verificationMaterial"]["timestampVerificationData"].clone();
            spoilt(digest, &|material| material["timestampVerificationData"] = rogue.clone())
        }),
        case(world, "second-log-good", Ok(MAIL)).with(second),
        case(world, "second-log-without-stamp", Err("signing-time: expected")).with(|digest| {
            let mut document = keyless_v2(&world.authority, &world.asked(MAIL), digest);
            document["verificationMaterial"]["timestampVerificationData"] = json!({});
            bundle(&document)
        }),
        without("root-without-clocks", Err("timestamp: expected"), &["timestampAuthorities"]).with(second),
        without("root-without-logs", Err("no trusted log"), &["tlogs"]).with(signed),
        without("root-without-certificate-logs", Err("no trusted log of certificates"), &["ctlogs"])
            .with(signed),
    ]
}

/// The second log, which says no times: the clock's word alone counts.
pub(crate) fn second_log(world: &World) -> Vec<Case> {
    let asked = |at: u64, lifetime| Asked { at: UnixTime(at), lifetime, ..world.asked(MAIL) };
    let signed = |digest: &Digest| keyless_v2(&world.authority, &world.asked(MAIL), digest);
    let spoilt = |digest: &Digest, spoil: &dyn Fn(&mut Value)| {
        let mut document = signed(digest);
        spoil(&mut document);
        bundle(&document)
    };
    // The certificate of one signature, all else of another that was made `later` seconds after it, or before it.
    let moved = |digest: &Digest, at: u64| {
        let own = keyless_v2(&world.authority, &asked(world.signed.0, 600), digest);
        spoilt(digest, &|document| {
            let stamp = world.authority.stamp(&signature_of(&own), UnixTime(at));
            *document = own.clone();
            document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0]["signedTimestamp"] =
                json!(base64(&stamp));
        })
    };
    let over = {
        let mut root = world.authority.trusted_root(&[]);
        let end = UnixTime(world.signed.0 - 60).to_string();
        root["certificateAuthorities"][0]["validFor"] =
            json!({"start": world.authority.since.to_string(), "end": end});
        root
    };
    let authority_over = Case::new("second-log-authority-over", Err("does not count at"))
        .requires(json!([by_holder(&over, exactly(MAIL), alone())]))
        .asks(&ASKS_KEYLESS, Some(over));
    vec![
        case(world, "second-log-another-key", Err("signature: expected")).with(|digest| {
            let other = Asked { key: &world.carol, ..world.asked(MAIL) };
            let other = world.authority.certificate(&other);
            spoilt(digest, &|document| {
                document["verificationMaterial"]["certificate"]["rawBytes"] = json!(base64(&other));
            })
        }),
        case(world, "second-log-other-image", Err("digest: expected"))
            .with(|_| bundle(&signed(&Digest::of(b"another")))),
        case(world, "second-log-wrong-identity", Err("signer: expected"))
            .with(|digest| bundle(&keyless_v2(&world.authority, &world.asked("eve@example.com"), digest))),
        case(world, "second-log-after-the-certificate", Err("certificate: expected"))
            .with(|digest| moved(digest, world.signed.0 + 3600)),
        case(world, "second-log-before-the-certificate", Err("certificate: expected"))
            .with(|digest| moved(digest, world.signed.0 - 3600)),
        authority_over.with(|digest| bundle(&signed(digest))),
        case(world, "second-log-missing-proof", Err("neither the log's promise nor its proof")).with(
            |digest| {
                spoilt(digest, &|document| {
                    let entry = document["verificationMaterial"]["tlogEntries"][0].as_object_mut();
                    entry.expect("an object").remove("inclusionProof");
                })
            },
        ),
        case(world, "second-log-manifest-list", Ok(MAIL)).of_list(|digest| bundle(&signed(digest))),
        Case::new("second-log-two-of-two-short", Err("1 of 2 different signers"))
            .with(|digest| bundle(&signed(digest)))
            .requires_two(developers(world), by_holder(&root_of(world), exactly("eve@example.com"), alone())),
    ]
}

/// The rest of what every kind is asked.
pub(crate) fn as_the_others(world: &World) -> Vec<Case> {
    let signed = |digest: &Digest| keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE);
    let before = |digest: &Digest| {
        let mut early = keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE);
        let later = Asked { at: UnixTime(world.signed.0 + 3600), ..world.asked(MAIL) };
        let later = world.authority.certificate(&later);
        early["verificationMaterial"]["certificate"]["rawBytes"] = json!(base64(&later));
        bundle(&early)
    };
    let no_root = json!({"type": "keyless", "identities": [exactly(MAIL)], "trustedRootData": "AAAA"});
    let unstamped = |digest: &Digest| {
        let mut document = signed(digest);
        document["verificationMaterial"]["timestampVerificationData"] = json!({});
        bundle(&document)
    };
    let root = || Some(root_of(world));
    vec![
        case(world, "time-before-the-certificates", Err("is refused by")).with(before),
        case(world, "keyless-without-stamp", Ok(MAIL)).with(unstamped).asks(&ASKS_KEYLESS[..4], root()),
        case(world, "keyless-manifest-list", Ok(MAIL)).of_list(|digest| bundle(&signed(digest))),
        Case::new("keyless-two-of-two-short", Err("1 of 2 different signers"))
            .with(|digest| bundle(&signed(digest)))
            .requires_two(developers(world), by_holder(&root_of(world), exactly("eve@example.com"), alone())),
        case(world, "keyless-policy-missing", Err("no policy"))
            .with(|digest| bundle(&signed(digest)))
            .policy(Value::Null)
            .asks(&[], root()),
        case(world, "keyless-policy-malformed", Err("no trusted root"))
            .with(|digest| bundle(&signed(digest)))
            .requires(json!([no_root]))
            .asks(&ASKS_KEYLESS, Some(json!("none"))),
        case(world, "keyless-payload-mirrored", Ok(MAIL))
            .requires(json!([by_holder(
                &root_of(world),
                exactly(MAIL),
                json!({"type": "remapIdentity", "prefix": HOST, "signedPrefix": "origin.example.com"}),
            )]))
            .with(|digest| {
                let text = payload(digest, "origin.example.com/keyless-payload-mirrored:v1");
                simple_keyless(&world.authority, &world.asked(MAIL), text)
            })
            .without_cosign(),
        case(world, "keyless-payload-tag-moved", Err("identity: expected"))
            .requires(json!([by_holder(&root_of(world), exactly(MAIL), json!({"type": "matchExact"}))]))
            .with(|digest| {
                let text = payload(digest, &format!("{HOST}/keyless-payload-tag-moved:v0"));
                simple_keyless(&world.authority, &world.asked(MAIL), text)
            })
            .without_cosign(),
    ]
}

fn root_of(world: &World) -> Value {
    world.authority.trusted_root(&[])
}

fn developers(world: &World) -> Value {
    by_holder(&root_of(world), exactly(MAIL), alone())
}

fn signature_of(document: &Value) -> Vec<u8> {
    coffer_base64(document["dsseEnvelope"]["signatures"][0]["sig"].as_str().expect("text"))
}

impl Case {
    fn without_cosign(mut self) -> Self {
        self.cosign = None;
        self
    }
}

fn coffer_base64(text: &str) -> Vec<u8> {
    use base64ct::{Base64, Encoding};
    Base64::decode_vec(text).expect("base64")
}
