//! What a judgement costs, in signatures that are verified: a number that no load of the machine changes. The processor's time is
//! printed beside it: the least that it took in several rounds, in which nothing else can have run.

use std::time::{Duration, Instant};

use coffer_image::MAX_VERIFICATIONS;
use coffer_image::UnixTime;
use coffer_image::artefact::Digest;
use p256::ecdsa::SigningKey;
use serde_json::{Value, json};

use crate::artefacts::{SIGNATURE, bundle, keyed, keyed_logged, keyless, keyless_v2, payload, simple};
use crate::authority::{Asked, Authority, key};
use crate::oracle::HOST;
use crate::world::{Case, MAIL, World, by_holder, by_key, by_keys, exactly};

fn alone() -> Value {
    json!({"type": "matchDigest"})
}

fn spent(case: &Case, world: &World) -> usize {
    case.judged(world.now).verifications()
}

/// One image of each kind, signed by those whose keys begin at `number`: none of their certificates was seen before.
fn kinds(world: &World, number: u8) -> [(Case, usize); 5] {
    let authority = Authority::new(number, world.authority.since);
    let (root, signer) = (authority.trusted_root(&[]), key(number + 7));
    let asked = || Asked { key: &signer, ..world.asked(MAIL) };
    let keyless_rule = || json!([by_holder(&root, exactly(MAIL), alone())]);
    let mut logged = by_key(&signer);
    logged["rekorPublicKeyData"] = root["tlogs"][0]["publicKey"]["rawBytes"].clone();
    let named = format!("{HOST}/cost-payload");
    let of_repository = json!({"type": "matchRepository"});
    [
        (
            Case::new("cost-key", Ok(""))
                .requires(json!([by_key(&signer)]))
                .with(|digest| bundle(&keyed(&signer, digest, SIGNATURE))),
            1,
        ),
        (
            Case::new("cost-payload", Ok(""))
                .requires(json!([by_keys(&[&signer], of_repository)]))
                .with(|digest| simple(&signer, payload(digest, &named))),
            1,
        ),
        // The signature, the log's checkpoint, the log's promise.
        (
            Case::new("cost-key-in-log", Ok(""))
                .requires(json!([logged]))
                .with(|digest| bundle(&keyed_logged(&authority, &signer, digest, world.signed))),
            3,
        ),
        // And the time stamp, its clock's certificate, the two above the signer at each of two times, the log of certificates.
        (
            Case::new("cost-keyless", Ok(""))
                .requires(keyless_rule())
                .with(|digest| bundle(&keyless(&authority, &asked(), digest, SIGNATURE))),
            KEYLESS,
        ),
        (
            Case::new("cost-keyless-v2", Ok(""))
                .requires(keyless_rule())
                .with(|digest| bundle(&keyless_v2(&authority, &asked(), digest))),
            KEYLESS - 3,
        ),
    ]
}

const KEYLESS: usize = 10;

#[test]
fn each_kind_of_signature_costs_what_it_must_and_no_more() {
    let world = World::new();
    let rounds = [130_u8, 145, 160, 175, 190, 205, 220];
    let mut least = [Duration::MAX; 5];
    for number in rounds {
        for ((case, wanted), least) in kinds(&world, number).iter().zip(&mut least) {
            let begun = Instant::now();
            let found = spent(case, &world);
            *least = begun.elapsed().min(*least);
            assert_eq!((found, case.fault(world.now)), (*wanted, None), "{}", case.name);
        }
    }
    for ((case, wanted), least) in kinds(&world, 130).iter().zip(least) {
        println!("{}: {wanted} signatures, {least:.2?} with reading the policy", case.name);
    }
}

#[test]
fn a_signature_of_another_image_costs_nothing() {
    let world = World::new();
    let foreign = |_: &Digest| bundle(&keyed(&world.alice, &Digest::of(b"another"), SIGNATURE));
    let case = (0..64).fold(Case::new("cost-foreign", Err("digest: expected")), |case, _| case.with(foreign));
    let case = case.requires(json!([by_key(&world.alice)]));
    assert_eq!((spent(&case, &world), case.fault(world.now)), (0, None));
}

#[test]
fn a_keyless_signature_by_somebody_else_costs_nothing() {
    let world = World::new();
    let root = world.authority.trusted_root(&[]);
    let case = Case::new("cost-somebody-else", Err("signer: expected"))
        .requires(json!([by_holder(&root, exactly("eve@example.com"), alone())]))
        .with(|digest| bundle(&keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE)));
    assert_eq!((spent(&case, &world), case.fault(world.now)), (0, None));
}

#[test]
fn what_follows_a_signature_that_does_not_hold_costs_nothing() {
    let world = World::new();
    let root = world.authority.trusted_root(&[]);
    let case = Case::new("cost-broken", Err("signature: expected"))
        .requires(json!([by_holder(&root, exactly(MAIL), alone())]))
        .with(|digest| {
            let mut document = keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE);
            let other = keyless(&world.authority, &world.asked(MAIL), &Digest::of(b"x"), SIGNATURE);
            document["dsseEnvelope"]["signatures"] = other["dsseEnvelope"]["signatures"].clone();
            bundle(&document)
        });
    assert_eq!((spent(&case, &world), case.fault(world.now)), (1, None));
}

#[test]
fn all_that_one_image_can_cost_is_bounded_whatever_is_attached_and_asked() {
    let world = World::new();
    let many: Vec<SigningKey> = (1..=32).map(key).collect();
    let refs: Vec<&SigningKey> = many.iter().collect();
    let of: Vec<String> = (0..32).map(|number| format!("signer-{number}")).collect();
    let named = of.iter().map(|name| (name.clone(), by_keys(&refs, alone())));
    let wrong = |digest: &Digest| bundle(&keyed(&key(200), digest, SIGNATURE));
    let mut case =
        (0..64).fold(Case::new("cost-bounded", Err("0 of 2 different signers")), |case, _| case.with(wrong));
    case.policy = json!({
        "default": [{"type": "kOfN", "k": 2, "of": of}],
        "requirements": named.collect::<serde_json::Map<String, Value>>(),
    });
    let begun = Instant::now();
    let judgement = case.judged(world.now);
    println!("{MAX_VERIFICATIONS} signatures of 65536 asked for: {:.1?}", begun.elapsed());
    assert_eq!(judgement.verifications(), MAX_VERIFICATIONS);
    let last = judgement.requirements()[0].of.last().expect("a requirement");
    assert!(last.reason.contains("no more than 512 signatures"), "{}", last.reason);
    assert_eq!(case.fault(world.now), None);
}

#[test]
fn a_bundle_with_a_fifth_log_entry_or_time_stamp_is_not_read() {
    let world = World::new();
    let root = world.authority.trusted_root(&[]);
    let with = |member: &'static str, inner: Option<&'static str>| {
        let name = if inner.is_none() { "cost-five-entries" } else { "cost-five-stamps" };
        Case::new(name, Err("has 5 entries, at most 4 are read"))
            .requires(json!([by_holder(&root, exactly(MAIL), alone())]))
            .with(|digest| {
                let mut document = keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE);
                let list = &mut document["verificationMaterial"][member];
                let list = if let Some(inner) = inner { &mut list[inner] } else { list };
                let one = list[0].clone();
                *list = json!(vec![one; 5]);
                bundle(&document)
            })
    };
    let both = [with("tlogEntries", None), with("timestampVerificationData", Some("rfc3161Timestamps"))];
    assert_eq!(both.map(|case| (spent(&case, &world), case.fault(world.now))), [(0, None), (0, None)]);
}

#[test]
fn lines_of_other_signers_in_a_checkpoint_cost_nothing() {
    let world = World::new();
    let root = world.authority.trusted_root(&[]);
    let judged = |lines: usize| {
        let case = Case::new("cost-witnesses", Ok(MAIL))
            .requires(json!([by_holder(&root, exactly(MAIL), alone())]))
            .with(|digest| {
                let mut document = keyless(&world.authority, &world.asked(MAIL), digest, SIGNATURE);
                let proof = &mut document["verificationMaterial"]["tlogEntries"][0]["inclusionProof"];
                let note = proof["checkpoint"]["envelope"].as_str().expect("text").to_owned();
                let (text, own) = note.rsplit_once("\n\n").expect("signatures");
                let witness = "\u{2014} witness.example.com AAAAAAAA\n".repeat(lines);
                proof["checkpoint"]["envelope"] = json!(format!("{text}\n\n{witness}{own}"));
                bundle(&document)
            });
        (spent(&case, &world), case.fault(world.now))
    };
    assert_eq!([judged(0), judged(12)], [(KEYLESS, None), (KEYLESS, None)]);
}

#[test]
fn a_log_without_a_promise_counts_at_the_time_that_a_clock_saw() {
    let world = World::new();
    let judged = |end: u64| {
        let mut root = world.authority.trusted_root(&[]);
        let start = world.authority.since.to_string();
        root["tlogs"][1]["publicKey"]["validFor"] = json!({"start": start, "end": UnixTime(end).to_string()});
        let case = Case::new("cost-log-over", Ok(MAIL))
            .requires(json!([by_holder(&root, exactly(MAIL), alone())]))
            .with(|digest| bundle(&keyless_v2(&world.authority, &world.asked(MAIL), digest)));
        case.judged(world.now).into_admitted().map(drop).map_err(|refusal| refusal.reason)
    };
    assert_eq!(judged(world.signed.0), Ok(()));
    let over = judged(world.signed.0 - 1).expect_err("refused");
    assert!(over.contains("log-validity: expected"), "{over}");
}
