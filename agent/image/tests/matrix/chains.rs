//! Certificates of Notation's signers, in chains that are right and wrong in every way that the specification names. Each is
//! judged by us, and by notation where it looks at what the specification asks.

use base64ct::{Base64UrlUnpadded, Encoding};
use coffer_attestation::sim::{element, identifier, named};
use coffer_image::UnixTime;
use coffer_image::artefact::{Attached, Digest, Evidence};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::json;

use crate::artefacts::{MANIFEST_TYPE, manifest};
use crate::authority::{Recipe, base64, extension, generalized, key, pem, sequence, signed_by, spki};
use crate::notation::{asked, judged, requirement};
use crate::oracle::{HOST, Oracle};
use crate::registry::Store;
use crate::settle;
use crate::world::World;

const USAGE: &str = "2.5.29.15";
const SIGNS_MESSAGES: [u8; 4] = [0x03, 0x02, 0x07, 0x80];
const SIGNS_AND_AGREES: [u8; 4] = [0x03, 0x02, 0x03, 0x88];
const SIGNS_CERTIFICATES: [u8; 4] = [0x03, 0x02, 0x01, 0x06];
const CODE: &str = "1.3.6.1.5.5.7.3.3";
const TLS: &str = "1.3.6.1.5.5.7.3.1";
const ANYTHING: &str = "2.5.29.37.0";

/// Leaf, intermediate and root, by default as they should be.
struct Chain {
    leaf_usage: Vec<u8>,
    leaf_for: Option<&'static str>,
    leaf_is_authority: bool,
    intermediate_length: Option<u8>,
    intermediate_usage: Option<Vec<u8>>,
    intermediate_constraints_critical: bool,
    root_length: Option<u8>,
    /// Which of the three the envelope holds, in its order.
    sent: &'static [usize],
    /// Which of them the trust store holds.
    trusted: usize,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            leaf_usage: extension(USAGE, true, &SIGNS_MESSAGES),
            leaf_for: Some(CODE),
            leaf_is_authority: false,
            intermediate_length: Some(0),
            intermediate_usage: Some(extension(USAGE, true, &SIGNS_CERTIFICATES)),
            intermediate_constraints_critical: true,
            root_length: Some(1),
            sent: &[0, 1, 2],
            trusted: 2,
        }
    }
}

fn constraints(length: Option<u8>, critical: bool) -> Vec<u8> {
    let length = length.map(|length| element(0x02, &[length])).unwrap_or_default();
    extension("2.5.29.19", critical, &sequence(&[element(0x01, &[0xff]), length]))
}

impl Chain {
    fn certificates(&self, since: UnixTime) -> [Vec<u8>; 3] {
        let [leaf, intermediate, root] = [key(61), key(62), key(63)];
        let made = |number: u8, (of, by): (&str, &str), holder: &SigningKey, extensions| Recipe {
            serial: number,
            subject: named(of),
            issuer: named(by),
            from: since,
            until: UnixTime(since.0 + 400 * 86_400),
            spki: spki(holder),
            extensions,
        };
        let mut of_leaf = vec![self.leaf_usage.clone()];
        of_leaf.extend(self.leaf_for.map(|oid| extension("2.5.29.37", false, &sequence(&[identifier(oid)]))));
        of_leaf.extend(self.leaf_is_authority.then(|| constraints(None, true)));
        let mut above = vec![constraints(self.intermediate_length, self.intermediate_constraints_critical)];
        above.extend(self.intermediate_usage.clone());
        let of_root = vec![constraints(self.root_length, true), extension(USAGE, true, &SIGNS_CERTIFICATES)];
        [
            made(71, ("notary", "notary intermediate"), &leaf, of_leaf).sign(&intermediate),
            made(72, ("notary intermediate", "notary root"), &intermediate, above).sign(&root),
            made(73, ("notary root", "notary root"), &root, of_root).sign(&root),
        ]
    }

    /// An envelope in JWS for the image in `repository`.
    fn signed(&self, repository: &str, world: &World) -> Evidence {
        let image = manifest(repository);
        let certificates = self.certificates(world.authority.since);
        let target = json!({
            "mediaType": MANIFEST_TYPE, "digest": Digest::of(&image).to_string(), "size": image.len(),
        });
        let protected = json!({
            "alg": "ES256",
            "cty": "application/vnd.cncf.notary.payload.v1+json",
            "crit": ["io.cncf.notary.signingScheme"],
            "io.cncf.notary.signingScheme": "notary.x509",
            "io.cncf.notary.signingTime": world.signed.to_string(),
        });
        let [payload, protected] = [json!({"targetArtifact": target}), protected]
            .map(|part| Base64UrlUnpadded::encode_string(part.to_string().as_bytes()));
        let signature: Signature = key(61).sign(format!("{protected}.{payload}").as_bytes());
        let sent: Vec<String> = self.sent.iter().map(|place| base64(&certificates[*place])).collect();
        let envelope = json!({
            "payload": payload,
            "protected": protected,
            "header": {"x5c": sent, "io.cncf.notary.signingAgent": "coffer-tests"},
            "signature": Base64UrlUnpadded::encode_string(&signature.to_bytes()),
        });
        let mut evidence = Evidence::default();
        evidence.add(Attached::NotationJws(envelope.to_string().into_bytes())).expect("within bounds");
        evidence
    }

    fn trusted(&self, world: &World) -> String {
        pem("CERTIFICATE", &self.certificates(world.authority.since)[self.trusted])
    }
}

struct Question {
    name: &'static str,
    level: &'static str,
    chain: Chain,
    expected: Result<(), &'static str>,
    /// Whether notation looks at it too.
    by_notation: bool,
}

fn ask(name: &'static str, expected: Result<(), &'static str>, chain: Chain) -> Question {
    Question { name, level: "strict", chain, expected, by_notation: true }
}

fn questions() -> Vec<Question> {
    let chain = Chain::default;
    let critical = |usage: &[u8]| extension(USAGE, true, usage);
    let for_more = Chain { leaf_usage: critical(&SIGNS_AND_AGREES), ..chain() };
    let usage_not_critical = Chain { leaf_usage: extension(USAGE, false, &SIGNS_MESSAGES), ..chain() };
    let authoritys = Chain { leaf_is_authority: true, ..chain() };
    let without_root = || Chain { sent: &[0, 1], trusted: 1, ..chain() };
    let not_issuing = Chain { intermediate_usage: Some(critical(&SIGNS_MESSAGES)), ..chain() };
    let not_critical = Chain { intermediate_constraints_critical: false, ..chain() };
    let ours = |question: Question| Question { by_notation: false, ..question };
    vec![
        ask("chain-whole", Ok(()), chain()),
        ask("chain-of-a-trusted-intermediate", Ok(()), Chain { trusted: 1, ..chain() }),
        ask(
            "chain-without-lengths",
            Ok(()),
            Chain { intermediate_length: None, root_length: None, ..chain() },
        ),
        ask("chain-without-root", Err("chain: expected"), without_root()),
        Question { level: "audit", ..ask("chain-cut-in-audit", Err("chain: expected"), without_root()) },
        ask("chain-leaf-alone", Err("chain: expected"), Chain { sent: &[0], trusted: 1, ..chain() }),
        ask("chain-without-middle", Err("chain: expected"), Chain { sent: &[0, 2], ..chain() }),
        ask(
            "chain-with-two-roots",
            Err("issued itself"),
            Chain { sent: &[0, 1, 2, 2], root_length: None, ..chain() },
        ),
        ask("chain-in-disorder", Err("chain: expected"), Chain { sent: &[0, 2, 1], ..chain() }),
        ask("chain-too-long", Err("path length allows 0"), Chain { root_length: Some(0), ..chain() }),
        ask("chain-leaf-for-nothing-named", Ok(()), Chain { leaf_for: None, ..chain() }),
        ask("chain-leaf-for-tls", Err("signs no images"), Chain { leaf_for: Some(TLS), ..chain() }),
        ours(ask(
            "chain-leaf-for-all",
            Err("signs no images"),
            Chain { leaf_for: Some(ANYTHING), ..chain() },
        )),
        ask("chain-leaf-for-more", Err("for more than signing"), for_more),
        ask("chain-leaf-usage-not-critical", Err("no critical key usage"), usage_not_critical),
        ask("chain-leaf-is-an-authoritys", Err("signs no images"), authoritys),
        ask("chain-of-no-issuer", Err("not for signing certificates"), not_issuing),
        ask(
            "chain-issuer-without-usage",
            Err("no critical key usage"),
            Chain { intermediate_usage: None, ..chain() },
        ),
        ours(ask("chain-issuer-not-critical", Err("as critical"), not_critical)),
    ]
}

fn fault(question: &Question, found: &Result<(), String>) -> Option<String> {
    let right = match (found, question.expected) {
        (Ok(()), Ok(())) => true,
        (Err(found), Err(wanted)) => found.contains(wanted),
        _ => false,
    };
    (!right).then(|| format!("{}: {found:?}, expected {:?}", question.name, question.expected))
}

fn ours(question: &Question, world: &World) -> Result<(), String> {
    let requirement = requirement(question.level, question.chain.trusted(world).as_bytes(), "*");
    judged(question.name, requirement, &question.chain.signed(question.name, world), world.now)
}

#[test]
fn every_chain_gets_the_verdict_that_it_must_get() {
    let world = World::new();
    settle(questions().iter().filter_map(|question| fault(question, &ours(question, &world))).collect());
}

#[test]
fn notation_says_the_same_of_the_same_chains() {
    let Some(oracle) = Oracle::new() else { return };
    let world = World::new();
    let store = Store::new(&oracle.registry());
    let all: Vec<Question> = questions().into_iter().filter(|question| question.by_notation).collect();
    let commands = all.iter().map(|question| {
        let image = manifest(question.name);
        let digest = Digest::of(&image);
        store.put(question.name, &[&image], &digest, &Evidence::default());
        store.put_notation(question.name, &digest, &question.chain.signed(question.name, &world));
        let trusted = question.chain.trusted(&world);
        let how = (question.level, trusted.as_bytes(), "*");
        asked(&oracle, question.name, how, &format!("{HOST}/{}@{digest}", question.name))
    });
    let said = oracle.run(&commands.collect::<Vec<_>>());
    let faults = all.iter().filter_map(|question| {
        let theirs = &said[question.name];
        (theirs.well != question.expected.is_ok())
            .then(|| format!("{}: notation says {:?}", question.name, theirs.last))
    });
    settle(faults.collect());
}

/// A list of the root's that names the intermediate.
fn revoked(world: &World) -> Vec<u8> {
    let date = |time: UnixTime| element(0x17, &generalized(time).as_bytes()[2..]);
    let entry = sequence(&[element(0x02, &[72]), date(world.signed)]);
    let part = sequence(&[
        element(0x02, &[1]),
        sequence(&[identifier("1.2.840.10045.4.3.2")]),
        named("notary root"),
        date(world.signed),
        date(UnixTime(world.now.0 + 86_400)),
        sequence(&[entry]),
    ]);
    signed_by(&key(63), part)
}

#[test]
fn an_intermediate_that_was_revoked_cannot_be_saved_by_leaving_its_issuer_out() {
    let world = World::new();
    let said = |chain: Chain| {
        let mut requirement = requirement("strict", chain.trusted(&world).as_bytes(), "*");
        requirement["revocationListDatas"] = json!([base64(&revoked(&world))]);
        judged("revoked", requirement, &chain.signed("revoked", &world), world.now).expect_err("refused")
    };
    let whole = said(Chain { trusted: 1, ..Chain::default() });
    assert!(whole.contains("found CN=notary intermediate") && whole.contains("is revoked"), "{whole}");
    let cut = said(Chain { trusted: 1, sent: &[0, 1], ..Chain::default() });
    assert!(cut.contains("chain: expected"), "{cut}");
}
