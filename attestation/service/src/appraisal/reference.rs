//! What an owner says its guests look like: values that evidence is held against.
//!
//! ```toml
//! [[reference]]
//! name = "web 1.2"
//! tee = "snp"
//! tenants = ["acme"]
//! measurement = "…"                 # launch digest (SNP) or MRTD (TDX), 48 bytes in hexadecimal
//! initdata = ["…"]                  # HOST_DATA (SNP) or MRCONFIGID (TDX), in hexadecimal
//! minimum_tcb = { boot_loader = 4, tee = 0, snp = 24, microcode = 219 }
//! ```
//! The launch measurement of TDX is that of the firmware, that of Azure's machines the paravisor's. What they boot is in
//! registers, which such a reference pins too: `rtmr0` to `rtmr2` of TDX (48 bytes), `pcr04`, `pcr09`, `pcr11` and `pcr12` of
//! Azure's virtual TPM (32 bytes), and any other one that it names.
//! ```toml
//! registers = { rtmr0 = "…", rtmr1 = "…", rtmr2 = "…" }
//! ```
//! Which secrets ask for signers of the guest's images is in `images_signed_by`: `signed_images.rs`.
//! An unknown key is an error. A value that is left out is one that nothing can match. Who signed the list is not in it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::registers::{self, Registers};
use super::signed_images::{SignedImages, SignedImagesError};

/// Everything that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct References {
    /// Each guest.
    #[serde(default)]
    pub reference: Vec<Reference>,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// What its owner calls it.
    pub name: String,
    /// Kind of evidence, as the protocol names it.
    pub tee: String,
    /// Whose secrets it may be given.
    pub tenants: Vec<String>,
    /// What it boots, 48 bytes in lower-case hexadecimal.
    #[serde(default)]
    pub measurement: Option<String>,
    /// Digests of the initdata that it may be given, in lower-case hexadecimal.
    #[serde(default)]
    pub initdata: Vec<String>,
    /// Oldest firmware: SNP only, as Intel's own status judges TDX.
    #[serde(default)]
    pub minimum_tcb: Option<Firmware>,
    /// Registers that its software was measured into, by name, in lower-case hexadecimal. None of SNP.
    #[serde(default)]
    pub registers: Registers,
    /// Who must have signed the images of a guest that is given a secret, for those secrets that ask for it.
    #[serde(default, skip_serializing_if = "SignedImages::is_empty")]
    pub images_signed_by: SignedImages,
    /// Who signed it. Only an operator's insecure choice lets one in that nobody did.
    #[serde(skip)]
    pub signed_by: Option<SignedBy>,
}

/// Whose word a reference is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedBy {
    /// What the operator calls the signer.
    pub name: String,
    /// SHA-256 of its key in hexadecimal: what it is revoked by.
    pub id: String,
    /// Whether it was.
    pub revoked: bool,
}

/// Firmware versions of AMD's secure processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// FMC firmware: Turin only.
    #[serde(default)]
    pub fmc: u8,
    /// Boot loader.
    pub boot_loader: u8,
    /// Operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// CPU microcode.
    pub microcode: u8,
}

/// Why a file is no list of references.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not TOML of this form.
    #[error("this is no list of reference values: {reason}")]
    Form {
        /// What is wrong.
        reason: String,
    },
    /// A kind without reference values.
    #[error("reference {name:?} is of kind {tee:?}: snp, tdx and az-snp-vtpm have reference values")]
    Tee {
        /// Name of the reference.
        name: String,
        /// Its kind.
        tee: String,
    },
    /// A value that evidence can never have.
    #[error("{value} of reference {name:?} is not {bytes} bytes in lower-case hexadecimal")]
    Value {
        /// Name of the reference.
        name: String,
        /// Which value.
        value: &'static str,
        /// Length that it must have.
        bytes: usize,
    },
    /// A register that this kind of evidence does not have.
    #[error("reference {name:?} names the register {register:?}, which evidence of kind {tee} does not have")]
    Register {
        /// Name of the reference.
        name: String,
        /// What it calls the register.
        register: String,
        /// Its kind.
        tee: String,
    },
    /// A rule about images that protects nothing.
    #[error("images_signed_by of reference {name:?} cannot be used: {reason}")]
    Images {
        /// Name of the reference.
        name: String,
        /// What is wrong.
        reason: SignedImagesError,
    },
    /// Nobody vouches for it.
    #[error("nobody signed reference {name:?}: sign the list with coffer reference sign")]
    Unsigned {
        /// Name of the first.
        name: String,
    },
    /// A stranger vouches for it.
    #[error("none of the keys that may sign reference values signed this list")]
    Signer,
    /// Its signer may not speak for that tenant.
    #[error("{signer} may not sign for {tenant}, which reference {name:?} is for")]
    Tenant {
        /// Name of the reference.
        name: String,
        /// Who signed it.
        signer: String,
        /// For whom.
        tenant: String,
    },
    /// Not one.
    #[error("a list of exactly one reference is put, this one has {found}")]
    Count {
        /// How many.
        found: usize,
    },
    /// A name that is there twice.
    #[error("there are two references {name:?}")]
    Twice {
        /// The name.
        name: String,
    },
}

impl References {
    /// Reads a list.
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let read: Self =
            toml::from_str(text).map_err(|error| ReferenceError::Form { reason: error.to_string() })?;
        read.check()?;
        Ok(read)
    }
}

impl References {
    /// These and `others`.
    ///
    /// # Errors
    /// [`ReferenceError::Twice`]
    pub fn and(&self, others: impl IntoIterator<Item = Reference>) -> Result<Self, ReferenceError> {
        let all = Self { reference: self.reference.iter().cloned().chain(others).collect() };
        all.check()?;
        Ok(all)
    }

    /// The same, of which those are marked whose signer is among `revoked`.
    #[must_use]
    pub fn with_revoked(&self, revoked: &BTreeSet<String>) -> Self {
        let mut marked = self.clone();
        for signed_by in marked.reference.iter_mut().filter_map(|reference| reference.signed_by.as_mut()) {
            signed_by.revoked = revoked.contains(&signed_by.id);
        }
        marked
    }

    fn check(&self) -> Result<(), ReferenceError> {
        let mut names = BTreeSet::new();
        for reference in &self.reference {
            if !names.insert(&reference.name) {
                return Err(ReferenceError::Twice { name: reference.name.clone() });
            }
            reference.check()?;
        }
        Ok(())
    }
}

impl SignedBy {
    /// For people.
    pub fn text(&self) -> String {
        let short: String = self.id.chars().take(16).collect();
        format!("{} (key {short}…)", self.name)
    }
}

impl Reference {
    /// SHA-256, in hexadecimal, of every value in it and of the key that vouches for it: a token holds for the reference that
    /// it was made by, and for no other that has its name.
    pub fn digest(&self) -> String {
        let signer = self.signed_by.as_ref().map(|by| by.id.as_str());
        hex::encode(Sha256::digest(json!([self, signer]).to_string()))
    }

    /// Whether its guests may have secrets of `tenant`.
    pub fn is_for(&self, tenant: &str) -> bool {
        self.tenants.iter().any(|known| known == tenant)
    }

    fn check(&self) -> Result<(), ReferenceError> {
        let initdata_bytes = match self.tee.as_str() {
            "snp" | "az-snp-vtpm" => 32,
            "tdx" => 48,
            _ => return Err(ReferenceError::Tee { name: self.name.clone(), tee: self.tee.clone() }),
        };
        let wrong = |value, bytes| ReferenceError::Value { name: self.name.clone(), value, bytes };
        if self.measurement.as_ref().is_some_and(|value| !is_hex(value, 48)) {
            return Err(wrong("measurement", 48));
        }
        if self.initdata.iter().any(|value| !is_hex(value, initdata_bytes)) {
            return Err(wrong("initdata", initdata_bytes));
        }
        for (register, value) in &self.registers {
            let Some(bytes) = registers::length(&self.tee, register) else {
                let (name, register, tee) = (self.name.clone(), register.clone(), self.tee.clone());
                return Err(ReferenceError::Register { name, register, tee });
            };
            if !is_hex(value, bytes) {
                return Err(wrong("a register", bytes));
            }
        }
        let unusable = |reason| ReferenceError::Images { name: self.name.clone(), reason };
        self.images_signed_by.check(&self.tenants).map_err(unusable)
    }
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(more: &str) -> String {
        format!("[[reference]]\nname = \"a\"\ntee = \"snp\"\ntenants = [\"acme\"]\n{more}\n")
    }

    #[test]
    fn a_reference_is_another_when_a_value_or_its_signer_is() {
        let read = |more: &str| References::parse(&text(more)).expect("references").reference.remove(0);
        let (plain, other) =
            (read(""), read("initdata = [\"INITDATA\"]".replace("INITDATA", &"0a".repeat(32)).as_str()));
        let by = |id: &str| SignedBy { name: "release".to_owned(), id: id.to_owned(), revoked: false };
        let mut signed = plain.clone();
        signed.signed_by = Some(by("a"));
        let mut by_another = plain.clone();
        by_another.signed_by = Some(by("b"));
        let all = [&plain, &other, &signed, &by_another].map(Reference::digest);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4);
        // That its signer was revoked is asked elsewhere.
        let mut revoked = signed.clone();
        revoked.signed_by = Some(SignedBy { revoked: true, ..by("a") });
        assert_eq!(revoked.digest(), signed.digest());
    }

    #[test]
    fn a_reference_may_leave_values_out() {
        assert_eq!(References::parse(&text("")).expect("references").reference.len(), 1);
    }

    #[test]
    fn a_value_that_can_never_match_is_refused() {
        let upper = text(&format!("measurement = \"{}\"", "AB".repeat(48)));
        let short = text("initdata = [\"ab\"]");
        assert!(matches!(References::parse(&upper), Err(ReferenceError::Value { value: "measurement", .. })));
        assert!(matches!(
            References::parse(&short),
            Err(ReferenceError::Value { value: "initdata", bytes: 32, .. })
        ));
    }

    #[test]
    fn a_register_of_another_kind_is_refused() {
        let one = text(&format!("registers = {{ rtmr1 = \"{}\" }}", "ab".repeat(48)));
        assert!(matches!(References::parse(&one), Err(ReferenceError::Register { .. })));
        assert!(References::parse(&one.replace("\"snp\"", "\"tdx\"")).is_ok());
        let short = text("registers = { rtmr1 = \"ab\" }").replace("\"snp\"", "\"tdx\"");
        assert!(matches!(References::parse(&short), Err(ReferenceError::Value { bytes: 48, .. })));
    }

    #[test]
    fn a_rule_about_images_is_part_of_the_reference_and_must_be_able_to_protect() {
        let rule = |path: &str| text(&format!("[reference.images_signed_by]\n\"{path}\" = [\"P-256 00\"]"));
        let read = |text: &str| References::parse(text).map(|mut read| read.reference.remove(0));
        let (plain, ruled) =
            (read(&text("")).expect("a reference"), read(&rule("acme/*")).expect("a reference"));
        assert_ne!(plain.digest(), ruled.digest());
        // What was said before there were such rules keeps its digest, and its tokens.
        assert!(!json!(plain).to_string().contains("images"));
        assert!(matches!(read(&rule("umbrella/*")), Err(ReferenceError::Images { .. })));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(matches!(References::parse(&text("mesurement = \"ab\"")), Err(ReferenceError::Form { .. })));
    }

    #[test]
    fn sample_evidence_has_no_references() {
        let sample = text("").replace("snp", "sample");
        assert!(matches!(References::parse(&sample), Err(ReferenceError::Tee { .. })));
    }

    #[test]
    fn two_references_of_one_name_are_refused() {
        assert!(matches!(References::parse(&text("").repeat(2)), Err(ReferenceError::Twice { .. })));
    }
}
