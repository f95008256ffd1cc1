//! Notation's signatures in both forms, with times, time stamps and revocation lists, each asked of notation too. Lists that it
//! fetches it gets from the test's registry, as blobs; we get them in the policy.

use base64ct::{Base64UrlUnpadded, Encoding};
use coffer_attestation::sim::{element, identifier, named};
use coffer_image::UnixTime;
use coffer_image::artefact::{Attached, Digest};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use crate::artefacts::{INDEX_TYPE, MANIFEST_TYPE};
use crate::authority::{
    Authority, Recipe, base64, extension, generalized, key, pem, sequence, signed_by, spki,
};
use crate::oracle::HOST;
use crate::world::{Case, Settings, World};

const CONTENT: &str = "application/vnd.cncf.notary.payload.v1+json";
const SCHEME: &str = "io.cncf.notary.signingScheme";
const EXPIRY: &str = "io.cncf.notary.expiry";
const TIME: &str = "io.cncf.notary.signingTime";
const STAMP: &str = "io.cncf.notary.timestampSignature";
const HOUR: u64 = 3600;
const LEAF: u8 = 81;
const ROOT: u8 = 82;

/// The form of an envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Jws,
    Cose,
}

/// How an image is signed.
struct Notary<'a> {
    form: Form,
    /// Of the signer's certificate.
    valid: (UnixTime, UnixTime),
    /// Where the signer's certificate says that its list is.
    list: Option<String>,
    signs_with: SigningKey,
    expiry: Option<UnixTime>,
    signed: UnixTime,
    stamp: Option<(&'a Authority, UnixTime, bool)>,
}

/// What both of us are told.
struct Rule<'a> {
    level: &'static str,
    who: &'static str,
    clocks: Option<&'a Authority>,
    after_expiry: bool,
    lists: Vec<Vec<u8>>,
}

impl<'a> Notary<'a> {
    fn new(form: Form, world: &'a World) -> Self {
        let valid = (world.authority.since, UnixTime(world.now.0 + 400 * 24 * HOUR));
        let signed = world.signed;
        Self { form, valid, list: None, signs_with: key(LEAF), expiry: None, signed, stamp: None }
    }

    fn chain(&self, since: UnixTime) -> [Vec<u8>; 2] {
        let mut of_leaf = vec![
            extension("2.5.29.15", true, &[0x03, 0x02, 0x07, 0x80]),
            extension("2.5.29.37", false, &sequence(&[identifier("1.3.6.1.5.5.7.3.3")])),
        ];
        of_leaf.extend(self.list.as_ref().map(|url| {
            let name = element(0xa0, &element(0xa0, &element(0x86, url.as_bytes())));
            extension("2.5.29.31", false, &sequence(&[sequence(&[name])]))
        }));
        let leaf = Recipe {
            serial: LEAF,
            subject: named("notary of the matrix"),
            issuer: named("root of the matrix"),
            from: self.valid.0,
            until: self.valid.1,
            spki: spki(&key(LEAF)),
            extensions: of_leaf,
        };
        [leaf.sign(&key(ROOT)), root(since)]
    }

    fn sign(&self, world: &World, digest: &Digest, of: &[u8], media_type: &str) -> Attached {
        let target = json!({"mediaType": media_type, "digest": digest.to_string(), "size": of.len()});
        let payload = json!({"targetArtifact": target}).to_string();
        let chain = self.chain(world.authority.since);
        let stamped = |signature: &[u8]| {
            self.stamp.map(|(clock, at, right)| {
                clock.stamp_token(if right { signature } else { b"other bytes" }, at)
            })
        };
        match self.form {
            Form::Jws => Attached::NotationJws(self.jws(&payload, &chain, stamped).to_string().into_bytes()),
            Form::Cose => Attached::NotationCose(self.cose(&payload, &chain, stamped)),
        }
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.signs_with.sign(message);
        signature.to_bytes().to_vec()
    }

    fn jws(&self, payload: &str, chain: &[Vec<u8>], stamped: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Value {
        let mut protected = json!({
            "alg": "ES256", "cty": CONTENT, "crit": [SCHEME], SCHEME: "notary.x509", TIME: self.signed.to_string(),
        });
        if let Some(expiry) = self.expiry {
            protected["crit"] = json!([SCHEME, EXPIRY]);
            protected[EXPIRY] = json!(expiry.to_string());
        }
        let [payload, protected] = [payload.to_owned(), protected.to_string()]
            .map(|part| Base64UrlUnpadded::encode_string(part.as_bytes()));
        let signature = self.signature(format!("{protected}.{payload}").as_bytes());
        let chain: Vec<String> = chain.iter().map(|der| base64(der)).collect();
        let mut header = json!({"x5c": chain, "io.cncf.notary.signingAgent": "coffer-tests"});
        if let Some(stamp) = stamped(&signature) {
            header[STAMP] = json!(base64(&stamp));
        }
        json!({
            "payload": payload, "protected": protected, "header": header,
            "signature": Base64UrlUnpadded::encode_string(&signature),
        })
    }

    fn cose(&self, payload: &str, chain: &[Vec<u8>], stamped: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
        let mut critical = vec![text(SCHEME)];
        let mut protected = vec![
            (head(0, 1), head(1, 6)),
            (head(0, 3), text(CONTENT)),
            (text(SCHEME), text("notary.x509")),
            (text(TIME), [head(6, 1), head(0, self.signed.0)].concat()),
        ];
        if let Some(expiry) = self.expiry {
            critical.push(text(EXPIRY));
            protected.push((text(EXPIRY), [head(6, 1), head(0, expiry.0)].concat()));
        }
        protected.push((head(0, 2), array(&critical)));
        let protected = map(protected);
        let covered = array(&[text("Signature1"), bytes(&protected), bytes(b""), bytes(payload.as_bytes())]);
        let signature = self.signature(&covered);
        let chain: Vec<Vec<u8>> = chain.iter().map(|der| bytes(der)).collect();
        let mut unprotected = vec![(head(0, 33), array(&chain))];
        unprotected.extend(stamped(&signature).map(|stamp| (text(STAMP), bytes(&stamp))));
        let parts = [bytes(&protected), map(unprotected), bytes(payload.as_bytes()), bytes(&signature)];
        [head(6, 18), array(&parts)].concat()
    }
}

fn root(since: UnixTime) -> Vec<u8> {
    let root = Recipe {
        serial: ROOT,
        subject: named("root of the matrix"),
        issuer: named("root of the matrix"),
        from: since,
        until: UnixTime(since.0 + 4000 * 24 * HOUR),
        spki: spki(&key(ROOT)),
        extensions: vec![
            extension("2.5.29.19", true, &sequence(&[element(0x01, &[0xff])])),
            extension("2.5.29.15", true, &[0x03, 0x02, 0x01, 0x06]),
        ],
    };
    root.sign(&key(ROOT))
}

/// A list of the holder of `by`, good for two days around `issued`, that names the certificates with these numbers.
fn list((by, called): (&SigningKey, &str), numbers: &[u8], issued: UnixTime) -> Vec<u8> {
    let date = |time: UnixTime| element(0x17, &generalized(time).as_bytes()[2..]);
    let entries: Vec<Vec<u8>> =
        numbers.iter().map(|number| sequence(&[element(0x02, &[*number]), date(issued)])).collect();
    let entries = if entries.is_empty() { Vec::new() } else { sequence(&entries) };
    let part = sequence(&[
        element(0x02, &[1]),
        sequence(&[identifier("1.2.840.10045.4.3.2")]),
        named(called),
        date(issued),
        date(UnixTime(issued.0 + 48 * HOUR)),
        entries,
    ]);
    signed_by(by, part)
}

/// The head of a data item in CBOR.
fn head(kind: u8, number: u64) -> Vec<u8> {
    let first = |low: u8| vec![(kind << 5) | low];
    let short = |value: u64| u8::try_from(value).expect("one byte");
    match number {
        0..24 => first(short(number)),
        24..256 => [first(24), vec![short(number)]].concat(),
        256..65536 => [first(25), u16::try_from(number).expect("two bytes").to_be_bytes().to_vec()].concat(),
        _ => [first(26), u32::try_from(number).expect("four bytes").to_be_bytes().to_vec()].concat(),
    }
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&head(2, bytes.len() as u64), bytes].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&head(3, text.len() as u64), text.as_bytes()].concat()
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len() as u64), items.concat()].concat()
}

fn map(mut entries: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    entries.sort();
    let count = head(5, entries.len() as u64);
    entries.into_iter().fold(count, |all, (key, value)| [all, key, value].concat())
}

impl Rule<'_> {
    const STRICT: Rule<'static> =
        Rule { level: "strict", who: "*", clocks: None, after_expiry: false, lists: Vec::new() };

    fn ours(&self, world: &World) -> Value {
        let mut stores =
            vec![json!({"type": "ca", "certificateDatas": [base64(&root(world.authority.since))]})];
        stores.extend(self.clocks.map(
            |clock| json!({"type": "tsa", "certificateDatas": [base64(&clock.clock_root_certificate())]}),
        ));
        let lists: Vec<String> = self.lists.iter().map(|list| base64(list)).collect();
        let mut requirement = json!({
            "type": "notation", "level": self.level, "trustStores": stores, "trustedIdentities": [self.who],
            "revocationListDatas": lists,
        });
        if self.after_expiry {
            requirement["verifyTimestamp"] = json!("afterCertExpiry");
        }
        requirement
    }

    fn theirs(&self, world: &World) -> Settings {
        let mut stores = vec![("ca", pem("CERTIFICATE", &root(world.authority.since)))];
        stores.extend(self.clocks.map(|clock| ("tsa", pem("CERTIFICATE", &clock.clock_root_certificate()))));
        let mut verification = json!({"level": self.level});
        if self.after_expiry {
            verification["verifyTimestamp"] = json!("afterCertExpiry");
        }
        let named: Vec<String> = stores.iter().map(|(kind, _)| format!("{kind}:trusted")).collect();
        let policy = json!({"version": "1.0", "trustPolicies": [{
            "name": "policy", "registryScopes": ["*"], "signatureVerification": verification,
            "trustStores": named, "trustedIdentities": [self.who],
        }]});
        Settings { policy: Some(policy), stores }
    }
}

/// The cases of one form.
struct Cases<'a> {
    world: &'a World,
    form: Form,
}

impl Cases<'_> {
    /// Kept for ever, as names of the other cases are.
    fn name(&self, rest: &str) -> &'static str {
        let form = if self.form == Form::Jws { "jws" } else { "cose" };
        String::leak(format!("{form}-{rest}"))
    }

    fn unsigned(
        &self,
        name: &'static str,
        expected: Result<&'static str, &'static str>,
        rule: &Rule<'_>,
    ) -> Case {
        let mut case = Case::new(name, expected).requires(json!([rule.ours(self.world)]));
        case.notation = Some(rule.theirs(self.world));
        case
    }

    fn signed(
        &self,
        name: &'static str,
        expected: Result<&'static str, &'static str>,
        (notary, rule): (&Notary<'_>, &Rule<'_>),
    ) -> Case {
        let mut case = self.unsigned(name, expected, rule);
        let (digest, of) = (case.digest(), case.manifest.clone());
        case.attached.push(notary.sign(self.world, &digest, &of, MANIFEST_TYPE));
        case
    }
}

fn stamped<'a>(notary: Notary<'a>, clock: &'a Authority, at: u64) -> Notary<'a> {
    Notary { stamp: Some((clock, UnixTime(at), true)), ..notary }
}

/// Who signed what.
pub(crate) fn signers(world: &World, form: Form) -> Vec<Case> {
    let cases = Cases { world, form };
    let plain = || Notary::new(form, world);
    let strict = &Rule::STRICT;
    let other = plain().sign(world, &Digest::of(b"another"), b"another", MANIFEST_TYPE);
    let by_other_key = Notary { signs_with: key(LEAF + 9), ..plain() };
    let named = Rule { who: "x509.subject: C=US, ST=WA, O=Other", ..Rule::STRICT };
    let mut wrong_digest = cases.unsigned(cases.name("wrong-digest"), Err("digest: expected"), strict);
    wrong_digest.attached.push(other);
    let mut of_list = cases
        .unsigned(cases.name("manifest-list"), Ok("CN=notary of the matrix"), strict)
        .of_list(|digest| plain().sign(world, digest, b"", INDEX_TYPE));
    let index = of_list.signed().to_vec();
    of_list.attached = vec![plain().sign(world, &Digest::of(&index), &index, INDEX_TYPE)];
    let mut malformed = cases.unsigned(cases.name("policy-malformed"), Err("no policy"), strict);
    malformed.policy["transports"]["docker"][HOST][0]["level"] = json!("strictest");
    let theirs = malformed.notation.as_mut().and_then(|settings| settings.policy.as_mut()).expect("a policy");
    theirs["trustPolicies"][0]["signatureVerification"]["level"] = json!("strictest");
    let mut missing =
        cases.unsigned(cases.name("policy-missing"), Err("no policy"), strict).policy(Value::Null);
    missing.notation.as_mut().expect("settings").policy = None;
    let (one, more) =
        (strict.ours(world), Rule { who: "x509.subject: C=US, ST=WA, O=Other", ..Rule::STRICT });
    let mut short = cases
        .signed(cases.name("k-of-n-short"), Err("1 of 2 different signers"), (&plain(), strict))
        .requires_two(one, more.ours(world));
    short.notation = None;
    vec![
        cases.signed(cases.name("good"), Ok("CN=notary of the matrix"), (&plain(), strict)),
        cases.signed(cases.name("wrong-key"), Err("signature: expected"), (&by_other_key, strict)),
        cases.signed(cases.name("wrong-identity"), Err("signer: expected"), (&plain(), &named)),
        cases.unsigned(cases.name("unsigned"), Err("no signature of this kind"), strict),
        wrong_digest,
        of_list,
        malformed,
        missing,
        short,
    ]
}

/// When they signed.
pub(crate) fn times(world: &World, form: Form) -> Vec<Case> {
    let cases = Cases { world, form };
    let plain = || Notary::new(form, world);
    let strict = &Rule::STRICT;
    let (now, signed) = (world.now.0, world.signed.0);
    let clocked = || Rule { clocks: Some(&world.authority), ..Rule::STRICT };
    let after = || Rule { after_expiry: true, ..clocked() };
    let over = || Notary { valid: (world.authority.since, UnixTime(now - HOUR)), ..plain() };
    let to_come = Notary { valid: (UnixTime(now + HOUR), UnixTime(now + 90 * HOUR)), ..plain() };
    let expired = Notary { expiry: Some(UnixTime(now - HOUR)), ..plain() };
    let fresh = Notary { expiry: Some(UnixTime(now + HOUR)), ..plain() };
    let of_other_bytes = Notary { stamp: Some((&world.authority, UnixTime(signed + 60), false)), ..plain() };
    let right = (&world.authority, signed + 60);
    let late = Err("signing-time: expected");
    vec![
        cases.signed(cases.name("expired"), Err("expiry: expected"), (&expired, strict)),
        cases.signed(cases.name("not-expired"), Ok("CN=notary"), (&fresh, strict)),
        cases.signed(cases.name("certificate-over"), late, (&over(), strict)),
        cases.signed(cases.name("not-yet-valid"), late, (&to_come, strict)),
        cases.signed(cases.name("stamp-missing"), Err("no time stamp"), (&plain(), &clocked())),
        cases.signed(cases.name("stamp-missing-and-over"), Err("no time stamp"), (&over(), &after())),
        cases.signed(cases.name("stamp-not-needed-yet"), Ok("CN=notary"), (&plain(), &after())),
        cases.signed(
            cases.name("stamped"),
            Ok("CN=notary"),
            (&stamped(plain(), right.0, right.1), &clocked()),
        ),
        cases.signed(
            cases.name("stamped-and-over"),
            Ok("CN=notary"),
            (&stamped(over(), right.0, right.1), &clocked()),
        ),
        cases.signed(
            cases.name("stamped-and-over-then"),
            late,
            (&stamped(over(), &world.authority, now - 60), &clocked()),
        ),
        cases.signed(
            cases.name("stamp-of-a-rogue-clock"),
            late,
            (&stamped(plain(), &world.rogue, signed + 60), &clocked()),
        ),
        cases.signed(
            cases.name("stamp-of-other-bytes"),
            Err("other bytes than the signature"),
            (&of_other_bytes, &clocked()),
        ),
    ]
}

/// Whose certificate was taken back.
pub(crate) fn lists(world: &World, form: Form) -> Vec<Case> {
    let cases = Cases { world, form };
    let by_root = (&key(ROOT), "root of the matrix");
    let with = |name: &'static str, expected, given: Vec<Vec<u8>>, served: Vec<Vec<u8>>| {
        let first = served.first().map_or_else(|| Digest::of(b"none"), |list| Digest::of(list));
        let url = format!("http://{HOST}/v2/{name}/blobs/{first}");
        let notary = Notary { list: Some(url), ..Notary::new(form, world) };
        let mut case = cases.signed(name, expected, (&notary, &Rule { lists: given, ..Rule::STRICT }));
        case.served = served;
        case
    };
    let both = |name, expected, list: Vec<u8>| with(name, expected, vec![list.clone()], vec![list]);
    let by_another = list((&key(LEAF + 8), "root of the matrix"), &[], world.signed);
    let clock_root = key(6);
    let of_clock = list((&clock_root, "simulated clock root"), &[78], world.signed);
    let rule = Rule { clocks: Some(&world.authority), lists: vec![of_clock], ..Rule::STRICT };
    let stamp = Some((&world.authority, UnixTime(world.signed.0 + 60), true));
    let stamped = Notary { stamp, ..Notary::new(form, world) };
    let mut clock_revoked = cases.signed(cases.name("clock-revoked"), Err("is revoked"), (&stamped, &rule));
    // Its certificate does not say where a list is, so notation asks for none.
    clock_revoked.notation = None;
    vec![
        both(cases.name("not-revoked"), Ok("CN=notary"), list(by_root, &[LEAF + 2], world.signed)),
        both(cases.name("revoked"), Err("is revoked"), list(by_root, &[LEAF], world.signed)),
        both(
            cases.name("list-over"),
            Err("revocation: expected"),
            list(by_root, &[], UnixTime(world.now.0 - 100 * HOUR)),
        ),
        both(cases.name("list-of-another"), Err("revocation: expected"), by_another),
        with(cases.name("list-missing"), Err("no revocation list was given"), Vec::new(), Vec::new()),
        clock_revoked,
    ]
}
