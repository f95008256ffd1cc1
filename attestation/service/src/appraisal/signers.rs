//! Whose word counts about what guests look like: reference values are taken from a document that one of the pinned keys signed.
//!
//! ```text
//! text ── a DSSE envelope ── a pinned key verifies it ── TOML ── every tenant is one that the signer may sign for ── References
//!   └── TOML without a signature: only with insecure-unsigned-references, and each use says so
//! ```

use coffer_attestation::dsse::{Envelope, REFERENCES, SignerKey};

use super::reference::{Reference, ReferenceError, References, SignedBy};

/// A tenant's name that stands for all of them.
const EVERY: &str = "*";

/// A key that may sign reference values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// What the operator calls it.
    pub name: String,
    /// Verifies its signatures.
    pub key: SignerKey,
    /// For whose guests it may sign; `*` for everybody's.
    pub tenants: Vec<String>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signers {
    pinned: Vec<Signer>,
    insecure_unsigned: bool,
}

impl Signers {
    /// These, and reference values that nobody signed where that is allowed.
    pub fn new(pinned: Vec<Signer>, insecure_unsigned: bool) -> Self {
        Self { pinned, insecure_unsigned }
    }

    /// Reads a list of references, signed as a whole.
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn read(&self, text: &str) -> Result<References, ReferenceError> {
        if !text.trim_start().starts_with('{') {
            return self.unsigned(References::parse(text)?);
        }
        let envelope = Envelope::parse(text.as_bytes());
        let envelope = envelope.map_err(|error| ReferenceError::Form { reason: error.to_string() })?;
        let signed = |signer: &Signer| envelope.signed_by(&signer.key, REFERENCES).map(<[u8]>::to_vec);
        // A key may be pinned under several names, each for other tenants.
        let mut refused = ReferenceError::Signer;
        for (signer, payload) in self.pinned.iter().filter_map(|signer| Some((signer, signed(signer)?))) {
            let text = String::from_utf8(payload);
            let text = text.map_err(|error| ReferenceError::Form { reason: error.to_string() })?;
            match signer.vouch(References::parse(&text)?) {
                Ok(references) => return Ok(references),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Reads a list of exactly one.
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn read_one(&self, text: &str) -> Result<Reference, ReferenceError> {
        let mut all = self.read(text)?.reference;
        match (all.pop(), all.len()) {
            (Some(one), 0) => Ok(one),
            (None, _) => Err(ReferenceError::Count { found: 0 }),
            (Some(_), others) => Err(ReferenceError::Count { found: others + 1 }),
        }
    }

    fn unsigned(&self, references: References) -> Result<References, ReferenceError> {
        match references.reference.first() {
            Some(first) if !self.insecure_unsigned => {
                Err(ReferenceError::Unsigned { name: first.name.clone() })
            }
            _ => Ok(references),
        }
    }
}

impl Signer {
    /// Says that it signed them, if it may.
    fn vouch(&self, mut references: References) -> Result<References, ReferenceError> {
        let may = |tenant: &String| self.tenants.iter().any(|known| known == EVERY || known == tenant);
        for reference in &mut references.reference {
            if let Some(tenant) = reference.tenants.iter().find(|tenant| !may(tenant)) {
                let (name, signer) = (reference.name.clone(), self.name.clone());
                return Err(ReferenceError::Tenant { name, signer, tenant: tenant.clone() });
            }
            let (name, id) = (self.name.clone(), self.key.id().to_owned());
            reference.signed_by = Some(SignedBy { name, id, revoked: false });
        }
        Ok(references)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::dsse::PrivateKey;

    const P256: &str = include_str!("../../../testdata/dsse/p256.pem");
    const P384: &str = include_str!("../../../testdata/dsse/p384.pem");
    const ONE: &str = "[[reference]]\nname = \"a\"\ntee = \"snp\"\ntenants = [\"acme\"]\n";

    fn key(pem: &str) -> PrivateKey {
        PrivateKey::from_pem(pem).expect("a key")
    }

    fn signed(pem: &str, text: &str) -> String {
        Envelope::sign(REFERENCES, text.as_bytes(), &key(pem)).expect("signed")
    }

    fn signer(name: &str, pem: &str, tenant: &str) -> Signer {
        let key = key(pem).signer().expect("a key");
        Signer { name: name.to_owned(), key, tenants: vec![tenant.to_owned()] }
    }

    #[test]
    fn a_reference_carries_the_name_of_whoever_signed_it() {
        let signers = Signers::new(vec![signer("release", P256, "*"), signer("second", P384, "acme")], false);
        let of = |pem| signers.read_one(&signed(pem, ONE)).expect("a reference").signed_by.expect("signed");
        assert_eq!((of(P256).name, of(P384).name), ("release".to_owned(), "second".to_owned()));
        assert_eq!(of(P256).id, key(P256).signer().expect("a key").id());
    }

    #[test]
    fn what_nobody_or_a_stranger_signed_is_refused() {
        let signers = Signers::new(vec![signer("release", P256, "*")], false);
        let unsigned = Err(ReferenceError::Unsigned { name: "a".to_owned() });
        assert_eq!(signers.read(ONE), unsigned);
        assert_eq!(signers.read(&signed(P384, ONE)), Err(ReferenceError::Signer));
        let other = Envelope::sign("application/toml", ONE.as_bytes(), &key(P256)).expect("signed");
        assert_eq!(signers.read(&other), Err(ReferenceError::Signer));
        assert_eq!(Signers::default().read(&signed(P256, ONE)), Err(ReferenceError::Signer));
        assert_eq!(signers.read(""), Ok(References::default()));
    }

    #[test]
    fn a_signer_speaks_for_its_own_tenants_only() {
        let signers = Signers::new(vec![signer("release", P256, "umbrella")], false);
        let refused = signers.read(&signed(P256, ONE)).expect_err("refused");
        assert_eq!(refused.to_string(), "release may not sign for acme, which reference \"a\" is for");
        let both = Signers::new(vec![signer("one", P256, "umbrella"), signer("two", P256, "acme")], false);
        let found = both.read_one(&signed(P256, ONE)).expect("a reference").signed_by;
        assert_eq!(found.map(|by| by.name).as_deref(), Some("two"));
    }

    #[test]
    fn unsigned_references_are_taken_where_that_is_allowed_and_have_no_signer() {
        let signers = Signers::new(Vec::new(), true);
        assert_eq!(signers.read_one(ONE).expect("a reference").signed_by, None);
        assert_eq!(signers.read_one(""), Err(ReferenceError::Count { found: 0 }));
        let two = ONE.to_owned() + &ONE.replace("\"a\"", "\"b\"");
        assert_eq!(signers.read_one(&two), Err(ReferenceError::Count { found: 2 }));
    }
}
