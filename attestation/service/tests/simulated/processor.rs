//! A simulated secure processor: reports of version 5 in AMD's format, signed under a root of its own that no verifier
//! believes unless it is told to.

use coffer_attestation::snp::{REPORT_BYTES, SIGNED_BYTES};
use coffer_attestation::x509::Certificate;
use der::asn1::ObjectIdentifier;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{DerSignature, Signature, SigningKey};
use serde_json::{Value, json};

const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
const AMD: &str = "1.3.6.1.4.1.3704.1";
const CHIP: [u8; 8] = [0xc0, 0xff, 0xee, 1, 2, 3, 4, 5];

/// The processor.
pub(crate) struct Processor;

impl Processor {
    /// Its root.
    pub(crate) fn root() -> Certificate {
        Certificate::from_der(&authority("ARK-Sim", 1, ("ARK-Sim", 1))).expect("a certificate")
    }

    /// Signs a report and puts it in the form that guests send.
    pub(crate) fn evidence(mut report: Vec<u8>) -> Value {
        let signature: Signature = key(3).sign(&report[..SIGNED_BYTES]);
        let (r, s) = signature.split_bytes();
        for (offset, number) in [(SIGNED_BYTES, r), (SIGNED_BYTES + 72, s)] {
            let reversed: Vec<u8> = number.iter().rev().copied().collect();
            report[offset..offset + 48].copy_from_slice(&reversed);
        }
        let chain = [
            ("VCEK", vcek()),
            ("ASK", authority("SEV-Sim", 2, ("ARK-Sim", 1))),
            ("ARK", authority("ARK-Sim", 1, ("ARK-Sim", 1))),
        ];
        let chain: Vec<Value> =
            chain.iter().map(|(kind, data)| json!({ "cert_type": kind, "data": data })).collect();
        json!({ "attestation_report": fields(&report), "cert_chain": chain })
    }
}

/// A report that is affirmed, not yet signed.
pub(crate) fn report(report_data: &[u8; 64], host_data: &[u8]) -> Vec<u8> {
    let mut report = vec![0; REPORT_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| report[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x000, &[5]);
    put(0x008, &[0x1f, 0, 0x03]);
    put(0x034, &[1]);
    put(0x040, &[0x21]);
    put(0x050, report_data);
    put(0x090, &[0xb1; 48]);
    put(0x0c0, host_data);
    put(0x140, &[0xd1; 32]);
    put(0x160, &[0xff; 32]);
    for offset in [0x038, 0x180, 0x1e0, 0x1f0] {
        put(offset, &[3, 1, 2, 7, 0, 0, 0, 71]);
    }
    put(0x188, &[0x1a, 0x02, 0x01]);
    put(0x1a0, &CHIP);
    put(0x1e8, &[40, 58, 1, 0, 40, 58, 1, 0]);
    report
}

/// The report's fields as Confidential Containers' guests name them.
fn fields(report: &[u8]) -> Value {
    let bytes = |offset: usize, length: usize| report[offset..offset + length].to_vec();
    let number = |offset: usize, length: usize| {
        report[offset..offset + length]
            .iter()
            .rev()
            .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte))
    };
    let tcb = |offset: usize| {
        json!({
            "fmc": report[offset], "bootloader": report[offset + 1], "tee": report[offset + 2],
            "snp": report[offset + 3], "microcode": report[offset + 7],
        })
    };
    let version = |offset: usize| json!({ "build": report[offset], "minor": report[offset + 1], "major": report[offset + 2] });
    json!({
        "version": number(0, 4), "guest_svn": number(4, 4), "policy": number(8, 8),
        "family_id": bytes(0x010, 16), "image_id": bytes(0x020, 16), "vmpl": number(0x030, 4),
        "sig_algo": number(0x034, 4), "current_tcb": tcb(0x038), "plat_info": number(0x040, 8),
        "key_info": number(0x048, 4), "report_data": bytes(0x050, 64), "measurement": bytes(0x090, 48),
        "host_data": bytes(0x0c0, 32), "id_key_digest": bytes(0x0e0, 48),
        "author_key_digest": bytes(0x110, 48), "report_id": bytes(0x140, 32),
        "report_id_ma": bytes(0x160, 32), "reported_tcb": tcb(0x180),
        "cpuid_fam_id": report[0x188], "cpuid_mod_id": report[0x189], "cpuid_step": report[0x18a],
        "chip_id": bytes(0x1a0, 64), "committed_tcb": tcb(0x1e0), "current": version(0x1e8),
        "committed": version(0x1ec), "launch_tcb": tcb(0x1f0),
        "launch_mit_vector": number(0x1f8, 8), "current_mit_vector": number(0x200, 8),
        "signature": { "r": bytes(SIGNED_BYTES, 72), "s": bytes(SIGNED_BYTES + 72, 72) },
    })
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 48]).expect("a scalar")
}

fn authority(subject: &str, number: u8, issuer: (&str, u8)) -> Vec<u8> {
    let ca = tlv(0x30, &[0x01, 0x01, 0xff]);
    let usage = [0x03, 0x02, 0x01, 0x06];
    let extensions = [extension("2.5.29.19", true, &ca), extension("2.5.29.15", true, &usage)];
    certificate((subject, number), issuer, &extensions.concat())
}

fn vcek() -> Vec<u8> {
    let numbers = [("3.9", 3), ("3.1", 1), ("3.2", 2), ("3.3", 7), ("3.8", 71)];
    let mut extensions: Vec<u8> = numbers
        .iter()
        .flat_map(|(last, value)| extension(&format!("{AMD}.{last}"), false, &[2, 1, *value]))
        .collect();
    extensions.extend(extension(&format!("{AMD}.2"), false, &tlv(0x16, b"Turin")));
    extensions.extend(extension(&format!("{AMD}.4"), false, &CHIP));
    certificate(("SEV-VCEK", 3), ("SEV-Sim", 2), &extensions)
}

fn certificate((subject, number): (&str, u8), issuer: (&str, u8), extensions: &[u8]) -> Vec<u8> {
    let point = key(number).verifying_key().to_sec1_point(false);
    let curve = tlv(0x30, &[oid("1.2.840.10045.2.1"), oid("1.3.132.0.34")].concat());
    let info = tlv(0x30, &[curve, tlv(0x03, &[&[0], point.as_bytes()].concat())].concat());
    let dates = [b"200101000000Z", b"450101000000Z"].map(|date| tlv(0x17, date)).concat();
    let parts = [
        tlv(0xa0, &tlv(0x02, &[2])),
        tlv(0x02, &[number]),
        tlv(0x30, &oid(ECDSA_SHA384)),
        name(issuer.0),
        tlv(0x30, &dates),
        name(subject),
        info,
        tlv(0xa3, &tlv(0x30, extensions)),
    ];
    let signed = tlv(0x30, &parts.concat());
    let signature: DerSignature = key(issuer.1).sign(&signed);
    let bits = tlv(0x03, &[&[0], signature.as_bytes()].concat());
    tlv(0x30, &[signed, tlv(0x30, &oid(ECDSA_SHA384)), bits].concat())
}

fn name(common: &str) -> Vec<u8> {
    tlv(0x30, &tlv(0x31, &tlv(0x30, &[oid("2.5.4.3"), tlv(0x0c, common.as_bytes())].concat())))
}

fn extension(of: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { tlv(0x01, &[0xff]) } else { Vec::new() };
    tlv(0x30, &[oid(of), critical, tlv(0x04, value)].concat())
}

fn oid(text: &str) -> Vec<u8> {
    tlv(0x06, ObjectIdentifier::new(text).expect("an identifier").as_bytes())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let header = match u16::try_from(content.len()).expect("a short element").to_be_bytes() {
        [0, short @ 0..0x80] => vec![tag, short],
        [0, short] => vec![tag, 0x81, short],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [header, content.to_vec()].concat()
}
