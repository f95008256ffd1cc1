//! Certificates and revocation lists in Intel's formats.

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};

use super::asn1::{bits, boolean, element, explicit, integer, octets, oid, pem, sequence, set, text, time};

const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const SGX: &str = "1.2.840.113741.1.13.1";
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;
const DIGITAL_SIGNATURE: u8 = 0x80;

/// A key that is the same in every run.
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).expect("a number below the order")
}

/// Everything that is certified or revoked.
pub(crate) struct Pki {
    pub(crate) root: Issued,
    pub(crate) ca: Issued,
    pub(crate) pck: Issued,
    pub(crate) signer: Issued,
    pub(crate) platform: PlatformExtension,
    pub(crate) root_crl: List,
    pub(crate) pck_crl: List,
    /// What stands in the quote instead of PCK, CA, root.
    pub(crate) quote_chain: Option<String>,
    /// What stands in the collateral instead of CA, root.
    pub(crate) crl_chain: Option<String>,
    /// What stands in the collateral instead of signer, root.
    pub(crate) signer_chain: Option<String>,
}

/// A certificate before it is signed.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) serial: u8,
    pub(crate) issuer: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) not_before: &'static str,
    pub(crate) not_after: &'static str,
    pub(crate) key: SigningKey,
    pub(crate) signed_by: SigningKey,
    pub(crate) ca: bool,
    pub(crate) usage: u8,
    /// More extensions: identifier, whether critical, value.
    pub(crate) more: Vec<(&'static str, bool, Vec<u8>)>,
}

/// A revocation list before it is signed.
pub(crate) struct List {
    pub(crate) issuer: &'static str,
    pub(crate) this_update: &'static str,
    pub(crate) next_update: Option<&'static str>,
    pub(crate) revoked: Vec<u8>,
    pub(crate) signed_by: SigningKey,
    pub(crate) critical_extension: bool,
}

/// The SGX extension of a PCK certificate. `None` leaves a value out.
pub(crate) struct PlatformExtension {
    pub(crate) present: bool,
    pub(crate) ppid: Option<Vec<u8>>,
    pub(crate) components: Vec<u16>,
    pub(crate) pce_svn: Option<u32>,
    pub(crate) cpu_svn: Option<Vec<u8>>,
    pub(crate) pce_id: Option<Vec<u8>>,
    pub(crate) fmspc: Option<Vec<u8>>,
    pub(crate) fmspc_again: bool,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let root_name = "Intel SGX Root CA";
        let ca_name = "Intel SGX PCK Platform CA";
        let root = Issued::new(1, (root_name, key(1)), (root_name, key(1))).authority();
        let ca = Issued::new(2, (root_name, key(1)), (ca_name, key(2))).authority();
        let pck = Issued::new(3, (ca_name, key(2)), ("Intel SGX PCK Certificate", key(3)));
        let signer = Issued::new(4, (root_name, key(1)), ("Intel SGX TCB Signing", key(4)));
        Self {
            root,
            ca,
            pck,
            signer,
            platform: PlatformExtension::new(),
            root_crl: List::new(root_name, key(1)),
            pck_crl: List::new(ca_name, key(2)),
            quote_chain: None,
            crl_chain: None,
            signer_chain: None,
        }
    }

    pub(crate) fn quote_chain(&self) -> String {
        let mut pck = self.pck.clone();
        if self.platform.present {
            pck.more.push((SGX, false, self.platform.build()));
        }
        let chain = || [pck.pem(), self.ca.pem(), self.root.pem()].concat();
        self.quote_chain.clone().unwrap_or_else(chain)
    }

    pub(crate) fn crl_chain(&self) -> String {
        self.crl_chain.clone().unwrap_or_else(|| [self.ca.pem(), self.root.pem()].concat())
    }

    pub(crate) fn signer_chain(&self) -> String {
        self.signer_chain.clone().unwrap_or_else(|| [self.signer.pem(), self.root.pem()].concat())
    }
}

impl Issued {
    fn new(serial: u8, issuer: (&'static str, SigningKey), subject: (&'static str, SigningKey)) -> Self {
        Self {
            serial,
            issuer: issuer.0,
            subject: subject.0,
            not_before: "2020-01-01T00:00:00Z",
            not_after: "2040-01-01T00:00:00Z",
            key: subject.1,
            signed_by: issuer.1,
            ca: false,
            usage: DIGITAL_SIGNATURE,
            more: Vec::new(),
        }
    }

    fn authority(mut self) -> Self {
        self.ca = true;
        self.usage = KEY_CERT_SIGN | CRL_SIGN;
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let point = self.key.verifying_key().to_sec1_point(false);
        let key_kind = sequence(&[oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")]);
        let constraints = if self.ca { sequence(&[boolean(true)]) } else { sequence(&[]) };
        let unused = self.usage.trailing_zeros() as u8;
        let mut extensions = vec![
            extension("2.5.29.19", true, &constraints),
            extension("2.5.29.15", true, &element(3, &[unused, self.usage])),
        ];
        extensions.extend(self.more.iter().map(|(oid, critical, value)| extension(oid, *critical, value)));
        let to_be_signed = sequence(&[
            explicit(0, &integer(&[2])),
            integer(&[self.serial]),
            sequence(&[oid(ECDSA_SHA256)]),
            name(self.issuer),
            sequence(&[time(self.not_before), time(self.not_after)]),
            name(self.subject),
            sequence(&[key_kind, bits(point.as_bytes())]),
            explicit(3, &sequence(&extensions)),
        ]);
        signed(to_be_signed, &self.signed_by)
    }

    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.build())
    }
}

impl List {
    fn new(issuer: &'static str, signed_by: SigningKey) -> Self {
        Self {
            issuer,
            this_update: "2025-06-01T00:00:00Z",
            next_update: Some("2025-07-01T00:00:00Z"),
            revoked: vec![77, 78],
            signed_by,
            critical_extension: false,
        }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let entry = |serial: &u8| sequence(&[integer(&[*serial]), time("2024-01-01T00:00:00Z")]);
        let entries: Vec<Vec<u8>> = self.revoked.iter().map(entry).collect();
        let mut parts =
            vec![integer(&[1]), sequence(&[oid(ECDSA_SHA256)]), name(self.issuer), time(self.this_update)];
        parts.extend(self.next_update.map(time));
        parts.push(sequence(&entries));
        let mut extensions = vec![extension("2.5.29.20", false, &integer(&[1]))];
        extensions.extend(self.critical_extension.then(|| extension("2.5.29.27", true, &integer(&[1]))));
        parts.push(explicit(0, &sequence(&extensions)));
        signed(sequence(&parts), &self.signed_by)
    }
}

impl PlatformExtension {
    fn new() -> Self {
        Self {
            present: true,
            ppid: Some(vec![0x11; 16]),
            components: vec![3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
            pce_svn: Some(11),
            cpu_svn: Some(vec![0x22; 16]),
            pce_id: Some(vec![0, 0]),
            fmspc: Some(vec![0xb0, 0xc0, 0x6f, 0, 0, 0]),
            fmspc_again: false,
        }
    }

    fn build(&self) -> Vec<u8> {
        let below = |arc: &str, value: Vec<u8>| sequence(&[oid(&format!("{SGX}.{arc}")), value]);
        let mut tcb: Vec<Vec<u8>> = self
            .components
            .iter()
            .zip(1..)
            .map(|(svn, arc)| below(&format!("2.{arc}"), integer(&svn.to_be_bytes())))
            .collect();
        tcb.extend(self.pce_svn.map(|svn| below("2.17", integer(&svn.to_be_bytes()))));
        tcb.extend(self.cpu_svn.as_ref().map(|svn| below("2.18", octets(svn))));
        let mut parts = Vec::new();
        parts.extend(self.ppid.as_ref().map(|ppid| below("1", octets(ppid))));
        parts.push(below("2", sequence(&tcb)));
        parts.extend(self.pce_id.as_ref().map(|pce_id| below("3", octets(pce_id))));
        parts.extend(self.fmspc.as_ref().map(|fmspc| below("4", octets(fmspc))));
        if self.fmspc_again {
            parts.push(below("4", octets(&[0; 6])));
        }
        parts.push(below("5", element(10, &[1])));
        sequence(&parts)
    }
}

fn extension(identifier: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![oid(identifier)];
    parts.extend(critical.then(|| boolean(true)));
    parts.push(octets(value));
    sequence(&parts)
}

fn name(common_name: &str) -> Vec<u8> {
    let part = |arc: &str, value: &str| set(&sequence(&[oid(arc), text(value)]));
    sequence(&[part("2.5.4.3", common_name), part("2.5.4.10", "Intel Corporation")])
}

fn signed(to_be_signed: Vec<u8>, by: &SigningKey) -> Vec<u8> {
    let signature: Signature = by.sign(&to_be_signed);
    sequence(&[to_be_signed, sequence(&[oid(ECDSA_SHA256)]), bits(signature.to_der().as_bytes())])
}
