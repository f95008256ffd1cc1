//! Simulated: the parties behind a keyless signature, with keys that are in this file. They play Fulcio, Rekor, the log of
//! certificates and a clock; a trusted root names them, so that cosign believes them as we do.

use base64ct::{Base64, Encoding};
use coffer_attestation::sim::{element, identifier, named};
use coffer_image::UnixTime;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const ISSUER: &str = "https://issuer.example.com";
pub(crate) const WORKFLOW: &str = "https://ci.example.com/org/app/build.yml@refs/heads/main";

/// Everybody who has to play along.
pub(crate) struct Authority {
    root: SigningKey,
    intermediate: SigningKey,
    certificate_log: SigningKey,
    log: SigningKey,
    log_v2: ed25519_dalek::SigningKey,
    clock_root: SigningKey,
    clock: SigningKey,
    /// From when all of them count.
    pub(crate) since: UnixTime,
}

/// What a signer asks the authority for.
pub(crate) struct Asked<'a> {
    pub(crate) key: &'a SigningKey,
    pub(crate) holder: &'a str,
    pub(crate) at: UnixTime,
    /// Seconds.
    pub(crate) lifetime: u64,
    pub(crate) logged: bool,
}

pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 32]).expect("a key")
}

pub(crate) fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    signature.to_der().as_bytes().to_vec()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// SubjectPublicKeyInfo of a key on P-256.
pub(crate) fn spki(key: &SigningKey) -> Vec<u8> {
    let algorithm = sequence(&[identifier("1.2.840.10045.2.1"), identifier("1.2.840.10045.3.1.7")]);
    let point = key.verifying_key().to_sec1_point(false);
    sequence(&[algorithm, element(0x03, &[&[0], point.as_bytes()].concat())])
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Authority {
    /// The authority with the keys of `number` and above.
    pub(crate) fn new(number: u8, since: UnixTime) -> Self {
        Self {
            root: key(number),
            intermediate: key(number + 1),
            certificate_log: key(number + 2),
            log: key(number + 3),
            log_v2: ed25519_dalek::SigningKey::from_bytes(&[number + 4; 32]),
            clock_root: key(number + 5),
            clock: key(number + 6),
            since,
        }
    }

    /// `trusted_root.json`, without the members named in `without`.
    pub(crate) fn trusted_root(&self, without: &[&str]) -> Value {
        let valid = json!({"start": self.since.to_string()});
        let log = |url: &str, spki: &[u8], id: &[u8], details: &str| {
            json!({
                "baseUrl": url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": base64(spki), "keyDetails": details, "validFor": valid},
                "logId": {"keyId": base64(id)},
            })
        };
        let p256 = "PKIX_ECDSA_P256_SHA_256";
        let (logs, certificates) = (spki(&self.log), spki(&self.certificate_log));
        let authority = |uri: &str, chain: &[Vec<u8>]| {
            let chain: Vec<Value> = chain.iter().map(|der| json!({"rawBytes": base64(der)})).collect();
            json!({
                "subject": {"organization": "simulated", "commonName": "simulated"},
                "uri": uri,
                "certChain": {"certificates": chain},
                "validFor": valid,
            })
        };
        let mut root = json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                log("https://log.example.com", &logs, &Sha256::digest(&logs), p256),
                log("https://log2.example.com", &self.spki_v2(), &self.id_v2(), "PKIX_ED25519"),
            ],
            "certificateAuthorities": [
                authority("https://ca.example.com", &[self.intermediate_certificate(), self.root_certificate()]),
            ],
            "ctlogs": [log("https://ct.example.com", &certificates, &Sha256::digest(&certificates), p256)],
            "timestampAuthorities": [
                authority("https://clock.example.com", &[self.clock_certificate(), self.clock_root_certificate()]),
            ],
        });
        let members = root.as_object_mut().expect("an object");
        without.iter().for_each(|name| drop(members.insert((*name).to_owned(), json!([]))));
        root
    }

    /// A certificate of minutes.
    pub(crate) fn certificate(&self, asked: &Asked<'_>) -> Vec<u8> {
        self.certificate_of(&spki(asked.key), asked)
    }

    /// The same for another key, of which only the public half (SubjectPublicKeyInfo) is there.
    pub(crate) fn certificate_of(&self, public: &[u8], asked: &Asked<'_>) -> Vec<u8> {
        let uri = if asked.holder.contains("://") { 0x86 } else { 0x81 };
        let issuer = element(0x0c, ISSUER.as_bytes());
        let mut extensions = vec![
            extension("2.5.29.15", true, &[0x03, 0x02, 0x07, 0x80]),
            extension("2.5.29.37", false, &sequence(&[identifier("1.3.6.1.5.5.7.3.3")])),
            extension("2.5.29.14", false, &element(0x04, &Sha256::digest(public)[..20])),
            extension("2.5.29.35", false, &authority_key(&self.intermediate)),
            extension("2.5.29.17", true, &sequence(&[element(uri, asked.holder.as_bytes())])),
            extension("1.3.6.1.4.1.57264.1.1", false, ISSUER.as_bytes()),
            extension("1.3.6.1.4.1.57264.1.8", false, &issuer),
        ];
        let mut leaf = Recipe {
            serial: 77,
            subject: sequence(&[]),
            issuer: named("simulated intermediate"),
            from: asked.at,
            until: UnixTime(asked.at.0 + asked.lifetime),
            spki: public.to_vec(),
            extensions: extensions.clone(),
        };
        if asked.logged {
            let promise = self.promise_of_certificate(&leaf.signed_part(), asked.at);
            extensions.push(extension("1.3.6.1.4.1.11129.2.4.2", false, &element(0x04, &promise)));
            leaf.extensions = extensions;
        }
        leaf.sign(&self.intermediate)
    }

    /// SignedCertificateTimestampList with one.
    fn promise_of_certificate(&self, precertificate: &[u8], at: UnixTime) -> Vec<u8> {
        let milliseconds = (at.0 * 1000).to_be_bytes();
        let issuer = Sha256::digest(spki(&self.intermediate));
        let length = u32::try_from(precertificate.len()).expect("short").to_be_bytes();
        let message =
            [&[0, 0], &milliseconds[..], &[0, 1], &issuer, &length[1..], precertificate, &[0, 0]].concat();
        let signature = sign(&self.certificate_log, &message);
        let log = Sha256::digest(spki(&self.certificate_log));
        let one = [&[0], &log[..], &milliseconds, &[0, 0], &[4, 3], &prefixed(&signature)].concat();
        prefixed(&prefixed(&one))
    }

    /// An entry of the first log, as bundles have it: promise, proof and checkpoint.
    pub(crate) fn entry(&self, body: &Value, at: UnixTime) -> Value {
        let text = serde_json::to_vec(body).expect("JSON");
        let id = Sha256::digest(spki(&self.log));
        let promise = self.promise(&text, at);
        let names = ["log.example.com - 1", "log.example.com"];
        let mut entry = logged(body, names, &id, |note| sign(&self.log, note));
        entry["integratedTime"] = json!(at.0.to_string());
        entry["inclusionPromise"] = json!({"signedEntryTimestamp": base64(&promise)});
        entry
    }

    /// The first log's word alone, as the annotation of cosign's older scheme has it.
    pub(crate) fn log_annotation(&self, body: &Value, at: UnixTime) -> String {
        let text = serde_json::to_vec(body).expect("JSON");
        let id = Sha256::digest(spki(&self.log));
        json!({
            "SignedEntryTimestamp": base64(&self.promise(&text, at)),
            "Payload": {"body": base64(&text), "integratedTime": at.0, "logIndex": 1, "logID": hex::encode(id)},
        })
        .to_string()
    }

    fn promise(&self, body: &[u8], at: UnixTime) -> Vec<u8> {
        let id = hex::encode(Sha256::digest(spki(&self.log)));
        let message =
            format!(r#"{{"body":"{}","integratedTime":{},"logID":"{id}","logIndex":1}}"#, base64(body), at.0);
        sign(&self.log, message.as_bytes())
    }

    /// An entry of the second log: no promise and no time, a checkpoint by Ed25519.
    pub(crate) fn entry_v2(&self, body: &Value) -> Value {
        use ed25519_dalek::Signer as _;
        let sign = |note: &[u8]| self.log_v2.sign(note).to_bytes().to_vec();
        logged(body, ["log2.example.com"; 2], &self.id_v2(), sign)
    }

    /// A time stamp of `message`, as a clock answers it.
    pub(crate) fn stamp(&self, message: &[u8], at: UnixTime) -> Vec<u8> {
        self.stamp_of_hash(&Sha256::digest(message), at)
    }

    /// The same of what has the hash `hash` (SHA-256), which is all that a clock is told.
    pub(crate) fn stamp_of_hash(&self, hash: &[u8], at: UnixTime) -> Vec<u8> {
        sequence(&[sequence(&[element(0x02, &[0])]), self.token_of_hash(hash, at)])
    }

    /// A time stamp alone, with the certificates that lead to its root.
    pub(crate) fn stamp_token(&self, message: &[u8], at: UnixTime) -> Vec<u8> {
        self.token_of_hash(&Sha256::digest(message), at)
    }

    fn token_of_hash(&self, hash: &[u8], at: UnixTime) -> Vec<u8> {
        let sha256 = sequence(&[identifier("2.16.840.1.101.3.4.2.1"), element(0x05, &[])]);
        let info = sequence(&[
            element(0x02, &[1]),
            identifier("1.3.6.1.4.1.57264.2"),
            sequence(&[sha256.clone(), element(0x04, hash)]),
            element(0x02, &[9]),
            element(0x18, generalized(at).as_bytes()),
        ]);
        let certificate = self.clock_certificate();
        let attribute = |oid: &str, value: Vec<u8>| sequence(&[identifier(oid), element(0x31, &value)]);
        let named_certificate =
            sequence(&[sequence(&[sequence(&[element(0x04, &Sha256::digest(&certificate))])])]);
        let attributes = [
            attribute("1.2.840.113549.1.9.3", identifier("1.2.840.113549.1.9.16.1.4")),
            attribute("1.2.840.113549.1.9.4", element(0x04, &Sha256::digest(&info))),
            attribute("1.2.840.113549.1.9.16.2.47", named_certificate),
        ]
        .concat();
        let signer = sequence(&[
            element(0x02, &[1]),
            sequence(&[named("simulated clock root"), element(0x02, &[78])]),
            sha256.clone(),
            element(0xa0, &attributes),
            sequence(&[identifier("1.2.840.10045.4.3.2")]),
            element(0x04, &sign(&self.clock, &element(0x31, &attributes))),
        ]);
        let data = sequence(&[
            element(0x02, &[3]),
            element(0x31, &sha256),
            sequence(&[identifier("1.2.840.113549.1.9.16.1.4"), element(0xa0, &element(0x04, &info))]),
            element(0xa0, &certificate),
            element(0x31, &signer),
        ]);
        sequence(&[identifier("1.2.840.113549.1.7.2"), element(0xa0, &data)])
    }

    pub(crate) fn root_certificate(&self) -> Vec<u8> {
        self.above("simulated root", "simulated root", &self.root, &self.root, None)
    }

    pub(crate) fn intermediate_certificate(&self) -> Vec<u8> {
        let code = extension("2.5.29.37", false, &sequence(&[identifier("1.3.6.1.5.5.7.3.3")]));
        self.above("simulated root", "simulated intermediate", &self.root, &self.intermediate, Some(code))
    }

    pub(crate) fn clock_root_certificate(&self) -> Vec<u8> {
        self.above("simulated clock root", "simulated clock root", &self.clock_root, &self.clock_root, None)
    }

    fn clock_certificate(&self) -> Vec<u8> {
        let leaf = Recipe {
            serial: 78,
            subject: named("simulated clock"),
            issuer: named("simulated clock root"),
            from: self.since,
            until: UnixTime(self.since.0 + 400 * 86_400),
            spki: spki(&self.clock),
            extensions: vec![
                extension("2.5.29.15", true, &[0x03, 0x02, 0x07, 0x80]),
                extension("2.5.29.37", true, &sequence(&[identifier("1.3.6.1.5.5.7.3.8")])),
                extension("2.5.29.35", false, &authority_key(&self.clock_root)),
            ],
        };
        leaf.sign(&self.clock_root)
    }

    fn above(
        &self,
        issuer: &str,
        subject: &str,
        by: &SigningKey,
        of: &SigningKey,
        usage: Option<Vec<u8>>,
    ) -> Vec<u8> {
        let constraints = sequence(&[element(0x01, &[0xff])]);
        let mut extensions = vec![
            extension("2.5.29.19", true, &constraints),
            extension("2.5.29.15", true, &[0x03, 0x02, 0x01, 0x06]),
            extension("2.5.29.14", false, &element(0x04, &Sha256::digest(spki(of))[..20])),
        ];
        extensions.extend(usage);
        let recipe = Recipe {
            serial: 5,
            subject: named(subject),
            issuer: named(issuer),
            from: self.since,
            until: UnixTime(self.since.0 + 4000 * 86_400),
            spki: spki(of),
            extensions,
        };
        recipe.sign(by)
    }

    fn spki_v2(&self) -> Vec<u8> {
        let key = self.log_v2.verifying_key().to_bytes();
        sequence(&[sequence(&[identifier("1.3.101.112")]), element(0x03, &[&[0], &key[..]].concat())])
    }

    fn id_v2(&self) -> Vec<u8> {
        let key = self.log_v2.verifying_key().to_bytes();
        Sha256::digest([b"log2.example.com\n\x01", &key[..]].concat()).to_vec()
    }
}

/// What a certificate says.
pub(crate) struct Recipe {
    pub(crate) serial: u8,
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) from: UnixTime,
    pub(crate) until: UnixTime,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Recipe {
    fn signed_part(&self) -> Vec<u8> {
        let date = |time: UnixTime| element(0x17, &generalized(time).as_bytes()[2..]);
        sequence(&[
            element(0xa0, &element(0x02, &[2])),
            element(0x02, &[self.serial]),
            sequence(&[identifier("1.2.840.10045.4.3.2")]),
            self.issuer.clone(),
            sequence(&[date(self.from), date(self.until)]),
            self.subject.clone(),
            self.spki.clone(),
            element(0xa3, &sequence(&self.extensions)),
        ])
    }

    pub(crate) fn sign(&self, key: &SigningKey) -> Vec<u8> {
        signed_by(key, self.signed_part())
    }
}

/// A signed part, the algorithm, and `key`'s signature: a certificate, or a revocation list.
pub(crate) fn signed_by(key: &SigningKey, part: Vec<u8>) -> Vec<u8> {
    let signature = element(0x03, &[&[0], &sign(key, &part)[..]].concat());
    sequence(&[part, sequence(&[identifier("1.2.840.10045.4.3.2")]), signature])
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

pub(crate) fn extension(oid: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag = if critical { element(0x01, &[0xff]) } else { Vec::new() };
    sequence(&[identifier(oid), flag, element(0x04, value)])
}

fn authority_key(of: &SigningKey) -> Vec<u8> {
    sequence(&[element(0x80, &Sha256::digest(spki(of))[..20])])
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()
}

/// `20261122120000Z`.
pub(crate) fn generalized(time: UnixTime) -> String {
    time.to_string().chars().filter(|c| c.is_ascii_digit() || *c == 'Z').collect()
}

/// The second entry of a log with two: proof and checkpoint. `names` are the log's own in the checkpoint, and its signer's.
fn logged(body: &Value, names: [&str; 2], id: &[u8], sign: impl Fn(&[u8]) -> Vec<u8>) -> Value {
    let [origin, signer] = names;
    let text = serde_json::to_vec(body).expect("JSON");
    let other = leaf_hash(b"another entry");
    let root = pair_hash(&other, &leaf_hash(&text));
    let note = format!("{origin}\n2\n{}\n", base64(&root));
    let signature = [&id[..4], &sign(note.as_bytes())].concat();
    let checkpoint = format!("{note}\n\u{2014} {signer} {}\n", base64(&signature));
    json!({
        "logIndex": "1",
        "logId": {"keyId": base64(id)},
        "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
        "inclusionProof": {
            "logIndex": "1",
            "rootHash": base64(&root),
            "treeSize": "2",
            "hashes": [base64(&other)],
            "checkpoint": {"envelope": checkpoint},
        },
        "canonicalizedBody": base64(&text),
    })
}

fn leaf_hash(entry: &[u8]) -> Vec<u8> {
    Sha256::digest([&[0], entry].concat()).to_vec()
}

fn pair_hash(left: &[u8], right: &[u8]) -> Vec<u8> {
    Sha256::digest([&[1], left, right].concat()).to_vec()
}
