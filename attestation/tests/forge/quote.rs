//! A quote, as a quoting enclave would make it.

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};

use super::pki::{Pki, key};

/// Fields of the TD report: name, length. Their order is the wire's.
const FIELDS: &[(&str, usize)] = &[
    ("tee_tcb_svn", 16),
    ("mr_seam", 48),
    ("mr_signer_seam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mr_td", 48),
    ("mr_config_id", 48),
    ("mr_owner", 48),
    ("mr_owner_config", 48),
    ("rtmr0", 48),
    ("rtmr1", 48),
    ("rtmr2", 48),
    ("rtmr3", 48),
    ("report_data", 64),
    ("tee_tcb_svn_2", 16),
    ("mr_service_td", 48),
];

/// A quote before it is signed.
pub(crate) struct Quote {
    /// 4 or 5.
    pub(crate) version: u16,
    /// For version 5: type and size.
    pub(crate) body_header: (u16, u32),
    /// TD report.
    pub(crate) body: Vec<u8>,
    /// Report of the quoting enclave, without what binds the attestation key.
    pub(crate) enclave: Vec<u8>,
    pub(crate) authentication_data: Vec<u8>,
    pub(crate) attestation_key: SigningKey,
    /// Who signs the quote and who signs the enclave's report.
    pub(crate) signed_by: SigningKey,
    pub(crate) enclave_signed_by: SigningKey,
    /// What is put into the enclave's report data instead of the binding.
    pub(crate) binding: Option<[u8; 64]>,
    /// Changes the bytes of the attestation key.
    pub(crate) attestation_key_bytes: Option<[u8; 64]>,
}

impl Quote {
    pub(crate) fn new() -> Self {
        let mut quote = Self {
            version: 4,
            body_header: (2, 584),
            body: vec![0; 584],
            enclave: vec![0; 384],
            authentication_data: (0..32).collect(),
            attestation_key: key(5),
            signed_by: key(5),
            enclave_signed_by: key(3),
            binding: None,
            attestation_key_bytes: None,
        };
        quote.field("tee_tcb_svn")[..3].copy_from_slice(&[6, 1, 3]);
        quote.field("td_attributes")[3] = 0x10;
        quote.field("xfam")[..3].copy_from_slice(&[0xe7, 0x02, 0x06]);
        quote.enclave[48] = 0x15;
        quote.enclave[56] = 0xe7;
        quote.enclave[128..160].fill(0xdc);
        quote.enclave[256] = 2;
        quote.enclave[258] = 6;
        quote
    }

    /// The same as version 5 with a TDX 1.5 body.
    pub(crate) fn with_tdx_1_5_body(mut self) -> Self {
        self.version = 5;
        self.body_header = (3, 648);
        self.body.resize(648, 0);
        let svn: [u8; 16] = self.field("tee_tcb_svn").try_into().expect("16 bytes");
        self.field("tee_tcb_svn_2").copy_from_slice(&svn);
        self
    }

    /// A field of the TD report.
    pub(crate) fn field(&mut self, name: &str) -> &mut [u8] {
        let before = FIELDS.iter().take_while(|(field, _)| *field != name);
        let start: usize = before.map(|(_, length)| length).sum();
        let length = FIELDS.iter().find(|(field, _)| *field == name).expect("a field").1;
        &mut self.body[start..start + length]
    }

    pub(crate) fn build(&self, pki: &Pki) -> Vec<u8> {
        let mut quote = self.signed_part();
        let signature: Signature = self.signed_by.sign(&quote);
        let certification = self.certification(pki);
        let key = self.attestation_key_bytes.unwrap_or_else(|| self.public_key());
        let attested = [&signature.to_bytes()[..], &key, &prefixed(6, &certification)].concat();
        quote.extend((attested.len() as u32).to_le_bytes());
        quote.extend(attested);
        quote
    }

    fn signed_part(&self) -> Vec<u8> {
        let mut header = self.version.to_le_bytes().to_vec();
        header.extend([2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]);
        header.extend([
            0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
        ]);
        header.extend([0x33; 20]);
        if self.version == 5 {
            header.extend(self.body_header.0.to_le_bytes());
            header.extend(self.body_header.1.to_le_bytes());
        }
        header.extend(&self.body);
        header
    }

    fn certification(&self, pki: &Pki) -> Vec<u8> {
        let mut enclave = self.enclave.clone();
        let bound =
            Sha256::new_with_prefix(self.public_key()).chain_update(&self.authentication_data).finalize();
        enclave[320..352].copy_from_slice(&bound);
        if let Some(binding) = self.binding {
            enclave[320..].copy_from_slice(&binding);
        }
        let signature: Signature = self.enclave_signed_by.sign(&enclave);
        let mut bytes = [&enclave[..], &signature.to_bytes()].concat();
        bytes.extend((self.authentication_data.len() as u16).to_le_bytes());
        bytes.extend(&self.authentication_data);
        bytes.extend(prefixed(5, pki.quote_chain().as_bytes()));
        bytes
    }

    fn public_key(&self) -> [u8; 64] {
        let point = self.attestation_key.verifying_key().to_sec1_point(false);
        point.as_bytes()[1..].try_into().expect("two coordinates")
    }
}

fn prefixed(kind: u16, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}
