//! SIMULATED: Fulcio, Rekor in both versions and a clock behind one address with TLS, by the simulated authority that the images of
//! `agent/image/tests/matrix` are signed by. It checks what it is asked as the real ones do, as far as a signer can get it wrong,
//! and answers in their forms; who a token's holder is it believes.

use std::io::{self, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use coffer_attestation::dsse::signed_bytes;
use coffer_attestation::x509::{Certificate, PublicKey};
use coffer_image::UnixTime;
use rcgen::KeyPair;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::authority::{Asked, Authority, base64, key, pem, sign};
use super::request::{Answered, Request, write_answer};

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Fulcio does not take the token, and repeats it.
    TokenRefused,
    /// Fulcio sends the asker on.
    SentOn,
    AnotherKey,
    AnotherHolder,
    /// The certificate is in no log.
    Unlogged,
    /// Its log's promise is beside the certificate.
    PromiseBeside,
    /// Another authority's, with the same names.
    AnotherAuthority,
    /// Rekor has the entry already.
    Conflict,
    LogBroken,
    /// The entry of another signature.
    AnotherEntry,
    /// A log with another key.
    AnotherLog,
    ClockRefuses,
    /// PKIStatus 2.
    ClockRejects,
    AnotherStamp,
    TooLong,
}

pub(crate) struct Sigstore {
    /// With the scheme.
    pub(crate) address: String,
    /// That whoever asks has to believe, in PEM.
    pub(crate) tls: String,
    pub(crate) authority: Arc<Authority>,
    heard: Arc<Mutex<Vec<String>>>,
}

/// What answers.
struct Services {
    authority: Arc<Authority>,
    other: Authority,
    fault: Fault,
}

impl Sigstore {
    pub(crate) fn new(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("https://{}", listener.local_addr().expect("an address"));
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let config = Arc::new(tls(&own.cert, &own.signing_key));
        let since = UnixTime(now().0 - 30 * 86_400);
        let authority = Arc::new(Authority::new(1, since));
        let services = Services { authority: authority.clone(), other: Authority::new(51, since), fault };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Who does not listen to the end is one that the test wants so.
                let _ = services.speak(stream.expect("a connection"), &config, &log);
            }
        });
        Self { address, tls: own.cert.pem(), authority, heard }
    }

    /// The first line of each request.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("a log").clone()
    }
}

fn tls(certificate: &rcgen::Certificate, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a certificate")
}

impl Services {
    fn speak(
        &self,
        stream: TcpStream,
        config: &Arc<ServerConfig>,
        log: &Mutex<Vec<String>>,
    ) -> io::Result<()> {
        let connection = ServerConnection::new(config.clone()).expect("a connection");
        let mut reader = BufReader::new(StreamOwned::new(connection, stream));
        let (request, body) = Request::read(&mut reader)?;
        assert_eq!(request.authorization, None, "nobody asked for it");
        log.lock().expect("a log").push(request.first.clone());
        let answered = self.answered(&request.first, &body);
        let mut stream = reader.into_inner();
        write_answer(&mut stream, answered)?;
        stream.conn.send_close_notify();
        stream.conn.write_tls(&mut stream.sock).map(drop)
    }

    fn answered(&self, asked: &str, body: &[u8]) -> Answered {
        if self.fault == Fault::TooLong {
            return (200, Vec::new(), vec![b' '; 1 << 20]);
        }
        match asked {
            "POST /api/v2/signingCert" => self.certificate(body),
            "POST /api/v1/log/entries" => self.first_log(body),
            "POST /api/v2/log/entries" => self.second_log(body),
            "POST /clock" => self.clock(body),
            _ => said(404, "there is no such thing"),
        }
    }

    fn certificate(&self, body: &[u8]) -> Answered {
        let asked: Value = serde_json::from_slice(body).expect("JSON");
        let token = text(&asked, "/credentials/oidcIdentityToken");
        let claims = token.split('.').nth(1).expect("claims");
        let claims: Value =
            serde_json::from_slice(&Base64UrlUnpadded::decode_vec(claims).expect("base64")).expect("claims");
        let holder = claims["email"].as_str().or(claims["sub"].as_str()).expect("a name");
        let (_, public) =
            der::pem::decode_vec(text(&asked, "/publicKeyRequest/publicKey/content").as_bytes())
                .expect("PEM");
        let verifier = PublicKey::from_file(&public).expect("a key");
        let proof = decoded(&asked, "/publicKeyRequest/proofOfPossession");
        if verifier.verify(verifier.usual_algorithm(), holder.as_bytes(), &proof).is_err() {
            return said(400, "the key is not shown to be there");
        }
        let beside = key(200);
        let asked = Asked {
            key: &beside,
            holder: if self.fault == Fault::AnotherHolder { "eve@example.com" } else { holder },
            at: now(),
            lifetime: 600,
            logged: self.fault != Fault::Unlogged,
        };
        let authority = if self.fault == Fault::AnotherAuthority { &self.other } else { &*self.authority };
        let leaf = match self.fault {
            Fault::TokenRefused => return said(403, &format!("the token {token} is not taken")),
            Fault::SentOn => return (307, vec![("location", "https://127.0.0.1:1/".to_owned())], Vec::new()),
            Fault::AnotherKey => authority.certificate(&asked),
            _ => authority.certificate_of(&public, &asked),
        };
        let chain = [leaf, authority.intermediate_certificate(), authority.root_certificate()];
        let chain: Vec<String> = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        let member = if self.fault == Fault::PromiseBeside {
            "signedCertificateDetachedSct"
        } else {
            "signedCertificateEmbeddedSct"
        };
        found(&json!({member: {"chain": {"certificates": chain}}}))
    }

    /// As Rekor does, it takes only what its signer signed.
    fn first_log(&self, body: &[u8]) -> Answered {
        let asked: Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!((text(&asked, "/kind"), text(&asked, "/apiVersion")), ("dsse", "0.0.1"));
        let written = text(&asked, "/spec/proposedContent/envelope");
        let envelope: Value = serde_json::from_str(written).expect("an envelope");
        let (payload, signature) = (decoded(&envelope, "/payload"), decoded(&envelope, "/signatures/0/sig"));
        let verifier = decoded(&asked, "/spec/proposedContent/verifiers/0");
        let covered = signed_bytes(text(&envelope, "/payloadType"), &payload);
        check(&verifier, &covered, &signature);
        let hash = |bytes: &[u8]| json!({"algorithm": "sha256", "value": hex::encode(Sha256::digest(bytes))});
        let entry = self.log_for(&json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": hash(written.as_bytes()),
                "payloadHash": hash(&payload),
                "signatures": [{"signature": self.logged(&signature), "verifier": base64(&verifier)}],
            },
        }));
        let entry = match entry {
            Ok((authority, body)) => authority.entry(&body, now()),
            Err(answered) => return answered,
        };
        let hex = |pointer: &str| hex::encode(decoded(&entry, pointer));
        let number = |pointer: &str| text(&entry, pointer).parse::<u64>().expect("a number");
        let hashes = entry["inclusionProof"]["hashes"].as_array().expect("hashes");
        let hashes: Vec<String> =
            (0..hashes.len()).map(|place| hex(&format!("/inclusionProof/hashes/{place}"))).collect();
        let (_, _, body) = found(&json!({"24296fb24b8ad77a": {
            "body": entry["canonicalizedBody"],
            "integratedTime": number("/integratedTime"),
            "logID": hex("/logId/keyId"),
            "logIndex": number("/logIndex"),
            "verification": {
                "inclusionProof": {
                    "checkpoint": entry["inclusionProof"]["checkpoint"]["envelope"],
                    "hashes": hashes,
                    "logIndex": number("/inclusionProof/logIndex"),
                    "rootHash": hex("/inclusionProof/rootHash"),
                    "treeSize": number("/inclusionProof/treeSize"),
                },
                "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
            },
        }}));
        (201, Vec::new(), body)
    }

    fn second_log(&self, body: &[u8]) -> Answered {
        let asked: Value = serde_json::from_slice(body).expect("JSON");
        let asked = &asked["hashedRekordRequestV002"];
        assert_eq!(decoded(asked, "/digest").len(), 32);
        let mut signature = asked["signature"].clone();
        signature["content"] = json!(self.logged(&decoded(asked, "/signature/content")));
        let entry = self.log_for(&json!({
            "apiVersion": "0.0.2",
            "kind": "hashedrekord",
            "spec": {"hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": asked["digest"]},
                "signature": signature,
            }},
        }));
        let mut entry = match entry {
            Ok((authority, body)) => authority.entry_v2(&body),
            Err(answered) => return answered,
        };
        // Members without a value are written too.
        entry["integratedTime"] = json!("0");
        entry["inclusionPromise"] = Value::Null;
        found(&entry)
    }

    fn log_for(&self, body: &Value) -> Result<(&Authority, Value), Answered> {
        match self.fault {
            Fault::Conflict => Err(said(409, "an equivalent entry already exists")),
            Fault::LogBroken => Err((503, Vec::new(), b"<h1>\x1b[31mnot now</h1>".to_vec())),
            Fault::AnotherLog => Ok((&self.other, body.clone())),
            _ => Ok((&self.authority, body.clone())),
        }
    }

    fn logged(&self, signature: &[u8]) -> String {
        base64(&if self.fault == Fault::AnotherEntry {
            sign(&key(200), b"another")
        } else {
            signature.to_vec()
        })
    }

    fn clock(&self, body: &[u8]) -> Answered {
        let hash = match body {
            [0x30, 0x39, 0x02, 1, 1, rest @ .., 0x01, 1, 0xff] => {
                rest.last_chunk::<32>().expect("a hash").to_vec()
            }
            other => panic!("no question for a time: {other:02x?}"),
        };
        let stamp = match self.fault {
            Fault::ClockRefuses => return said(400, "the clock stands"),
            Fault::ClockRejects => vec![0x30, 0x05, 0x30, 0x03, 0x02, 1, 2],
            Fault::AnotherStamp => self.authority.stamp(b"another", now()),
            _ => self.authority.stamp_of_hash(&hash, now()),
        };
        (201, vec![("content-type", "application/timestamp-reply".to_owned())], stamp)
    }
}

fn check(certificate: &[u8], covered: &[u8], signature: &[u8]) {
    let all = Certificate::from_file(certificate).expect("a certificate");
    let signer = all.first().expect("one").key();
    signer
        .verify(signer.usual_algorithm(), covered, signature)
        .expect("a signature of the certificate's key");
}

fn found(document: &Value) -> Answered {
    (200, vec![("content-type", "application/json".to_owned())], document.to_string().into_bytes())
}

fn said(status: u16, message: &str) -> Answered {
    let (_, headers, body) = found(&json!({"code": 3, "message": message, "details": []}));
    (status, headers, body)
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {document}"))
}

fn decoded(document: &Value, pointer: &str) -> Vec<u8> {
    Base64::decode_vec(text(document, pointer)).expect("base64")
}

fn now() -> UnixTime {
    SystemTime::now().into()
}
