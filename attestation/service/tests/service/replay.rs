//! Recorded exchanges of Confidential Containers' client, replayed. What it sent is sent again to the byte, and what it was
//! answered then is answered again to the byte. What each side must choose anew is put in its old place first: nonce, token
//! and cookie, what a message is sealed with, the evidence for the nonce, and the words of a refusal.

use std::collections::BTreeMap;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use coffer_attestation::handshake::{HashAlgorithm, ReportData};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::running::{Conversation, Heard, Place, Service};
use crate::simulated::{self, Processor};
use crate::{INITDATA, TRANSCRIPT, order};

/// As long as the one that was recorded.
const SECRET: &str = "13 bytes long";
/// The initdata of the last recorded guest, with a digest that an SNP report has room for.
const RECORDED_INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = \"x=1\"";

/// One request and its answer.
#[derive(Deserialize)]
struct Exchange {
    #[serde(rename = "m")]
    method: String,
    #[serde(rename = "p")]
    path: String,
    #[serde(rename = "h")]
    headers: BTreeMap<String, String>,
    #[serde(rename = "req")]
    request: Box<RawValue>,
    #[serde(rename = "st")]
    status: u16,
    #[serde(rename = "resp")]
    answer: Box<RawValue>,
}

/// What stands in for the evidence that was recorded.
#[derive(Clone, Copy, PartialEq)]
enum Evidence {
    /// The same kind: a hash that anybody can write.
    Sample,
    /// A report of a simulated SNP processor.
    Simulated,
}

/// The client in the middle of a conversation.
struct Client {
    conversation: Conversation,
    evidence: Evidence,
    nonce: String,
    cookie: String,
    token: String,
}

/// The exchanges of each guest: a conversation ends with an answer to a guest that has a session.
fn conversations() -> Vec<Vec<Exchange>> {
    let mut all = vec![Vec::new()];
    for line in TRANSCRIPT.lines() {
        let exchange: Exchange = serde_json::from_str(line).expect("an exchange");
        let ends = exchange.method == "GET"
            && ["cookie", "authorization"].iter().any(|name| exchange.headers.contains_key(*name));
        all.last_mut().expect("one").push(exchange);
        if ends {
            all.push(Vec::new());
        }
    }
    all.retain(|conversation| !conversation.is_empty());
    all
}

/// JSON without the spaces that the record has between its parts.
fn compact(recorded: &RawValue) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let kept = recorded.get().chars().filter(|character| {
        let inside = quoted;
        match character {
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = inside && !escaped && *character == '\\';
        inside || *character != ' '
    });
    kept.collect()
}

/// The text of a member of an object.
fn member(text: &str, name: &str) -> String {
    let value: Value = serde_json::from_str(text).expect("JSON");
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

/// `text` with the recorded value of `name`.
fn as_recorded(text: &str, name: &str, recorded: &str) -> String {
    let (ours, theirs) = (member(text, name), member(recorded, name));
    text.replace(&format!("\"{name}\":{}", json!(ours)), &format!("\"{name}\":{}", json!(theirs)))
}

impl Client {
    fn new(service: &Service, place: &Place, evidence: Evidence) -> Self {
        let stream = service.tls(&place.client(None)).expect("TLS");
        let none = String::new;
        Self {
            conversation: Conversation::new(stream),
            evidence,
            nonce: none(),
            cookie: none(),
            token: none(),
        }
    }

    /// Sends what was recorded.
    fn send(&mut self, exchange: &Exchange) -> Heard {
        let body = if exchange.request.get() == "null" { String::new() } else { self.body(exchange) };
        let mut request = format!("{} {} HTTP/1.1\r\n", exchange.method, exchange.path);
        for (name, value) in &exchange.headers {
            let value = match name.as_str() {
                "cookie" => self.cookie.clone(),
                "authorization" => format!("Bearer {}", self.token),
                "content-length" => body.len().to_string(),
                _ => value.clone(),
            };
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let heard = self.conversation.ask(format!("{request}\r\n{body}").as_bytes()).expect("an answer");
        let cookie = heard.head.iter().find_map(|line| line.strip_prefix("set-cookie: "));
        if let Some(pair) = cookie.and_then(|cookie| cookie.split(';').next()) {
            self.cookie = pair.to_owned();
        }
        heard
    }

    /// The recorded body; what follows from the service's own nonce is put in.
    fn body(&self, exchange: &Exchange) -> String {
        let recorded = compact(&exchange.request);
        assert_eq!(exchange.headers["content-length"], recorded.len().to_string(), "these bytes were sent");
        let sent: Value = serde_json::from_str(&recorded).expect("JSON");
        if exchange.path.ends_with("/auth") {
            return match self.evidence {
                Evidence::Sample => recorded,
                Evidence::Simulated => recorded.replace("\"tee\":\"sample\"", "\"tee\":\"snp\""),
            };
        }
        let key = &sent["runtime-data"]["tee-pubkey"];
        let bound = ReportData::compute(HashAlgorithm::Sha384, &self.nonce, key, "").expect("a hash");
        let old = &sent["tee-evidence"]["primary_evidence"];
        let new = match self.evidence {
            Evidence::Sample => json!({ "report_data": Base64::encode_string(bound.as_bytes()), "svn": "1" }),
            Evidence::Simulated => {
                let initdata = if sent["init-data"].is_null() { INITDATA } else { RECORDED_INITDATA };
                let digest = HashAlgorithm::Sha256.digest(initdata.as_bytes());
                Processor::evidence(simulated::report(&bound.as_report_field(), &digest))
            }
        };
        let nonce = sent["runtime-data"]["nonce"].as_str().expect("a nonce");
        let body = recorded.replace(nonce, &self.nonce).replace(&old.to_string(), &new.to_string());
        match self.evidence {
            Evidence::Sample => body,
            Evidence::Simulated => body.replace(r#"algorithm = \"sha384\""#, r#"algorithm = \"sha256\""#),
        }
    }

    /// Holds an answer against the recorded one of the same status, to the byte.
    fn hold(&mut self, exchange: &Exchange, heard: &Heard) {
        let (text, recorded) = (std::str::from_utf8(&heard.body).expect("text"), compact(&exchange.answer));
        let json = heard.head.iter().any(|line| line == "content-type: application/json");
        assert!(json, "{:?}", heard.head);
        let same = match (exchange.status, exchange.path.as_str()) {
            (200, path) if path.ends_with("/auth") => {
                self.nonce = member(text, "nonce");
                as_recorded(text, "nonce", &recorded)
            }
            (200, path) if path.ends_with("/attest") => {
                self.token = member(text, "token");
                as_recorded(text, "token", &recorded)
            }
            (200, _) => sealed_as_recorded(text, &recorded),
            (401, _) => text.to_owned(),
            _ => as_recorded(text, "detail", &recorded),
        };
        assert_eq!(same, recorded, "{} {}", exchange.method, exchange.path);
    }
}

/// A sealed message with the recorded values, each of which is as long as ours.
fn sealed_as_recorded(text: &str, recorded: &str) -> String {
    let decoded = |of: &str| {
        let bytes = Base64UrlUnpadded::decode_vec(&member(of, "protected")).expect("base64");
        String::from_utf8(bytes).expect("text")
    };
    let (ours, theirs) = (decoded(text), decoded(recorded));
    // The client writes this header anew to authenticate it: it must have found exactly these bytes.
    let header = if theirs.contains("epk") {
        let epk = |of: &str| serde_json::from_str::<Value>(of).expect("JSON")["epk"].to_string();
        ["x", "y"].iter().fold(ours, |text, name| {
            let (ours, theirs) = (member(&epk(&text), name), member(&epk(&theirs), name));
            text.replace(&ours, &theirs)
        })
    } else {
        ours
    };
    assert_eq!(header, theirs);
    let names = ["protected", "encrypted_key", "iv", "ciphertext", "tag"];
    names.iter().fold(text.to_owned(), |text, name| {
        assert_eq!(member(&text, name).len(), member(recorded, name).len(), "{name}");
        as_recorded(&text, name, recorded)
    })
}

fn references() -> String {
    let digests = [INITDATA, RECORDED_INITDATA]
        .map(|initdata| format!("\"{}\"", hex::encode(HashAlgorithm::Sha256.digest(initdata.as_bytes()))));
    include_str!("../references/known.toml")
        .replace("\"INITDATA\"", &digests.join(", "))
        .replace("\"acme\"", "\"default\"")
}

fn place() -> Place {
    let place = Place::new(&references(), Processor::root().der(), "");
    place.with("insecure-sample = true")
}

fn keep(service: &Service, place: &Place) {
    let line = "POST /kbs/v0/resource/default/key/1";
    assert_eq!(order(service, place, "alice", line, SECRET).status, 200);
}

#[test]
fn every_recorded_exchange_ends_as_recorded_when_the_evidence_is_good() {
    let place = place();
    let service = place.start();
    keep(&service, &place);
    let statuses = conversations().into_iter().map(|conversation| {
        let mut client = Client::new(&service, &place, Evidence::Simulated);
        let each = conversation.iter().map(|exchange| {
            let heard = client.send(exchange);
            let text = String::from_utf8_lossy(&heard.body).into_owned();
            assert_eq!(heard.status, exchange.status, "{} {}: {text}", exchange.method, exchange.path);
            client.hold(exchange, &heard);
            heard.status
        });
        each.collect::<Vec<_>>()
    });
    let expected: [&[u16]; 5] = [
        &[401, 200, 200, 200],
        &[401, 200, 200, 403],
        &[401, 200, 200, 404],
        &[200; 3],
        &[401, 200, 200, 200],
    ];
    assert_eq!(statuses.collect::<Vec<_>>(), expected.map(<[u16]>::to_vec));
}

#[test]
fn recorded_sample_evidence_gets_a_token_where_that_is_allowed_and_never_a_secret() {
    let place = place();
    let service = place.start();
    keep(&service, &place);
    let ends = conversations().into_iter().map(|conversation| {
        let mut client = Client::new(&service, &place, Evidence::Sample);
        let (last, before) = conversation.split_last().expect("exchanges");
        for exchange in before {
            let heard = client.send(exchange);
            assert_eq!(heard.status, exchange.status, "{}", String::from_utf8_lossy(&heard.body));
            client.hold(exchange, &heard);
        }
        let heard = client.send(last);
        let body: Value = serde_json::from_slice(&heard.body).expect("JSON");
        (heard.status, body["type"].as_str().map(str::to_owned))
    });
    let denied = (403, Some("https://coffer.example/errors/PolicyDeny".to_owned()));
    assert_eq!(ends.collect::<Vec<_>>(), vec![denied; 5]);
}
