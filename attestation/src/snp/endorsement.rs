//! What AMD says of a signing key in the extensions of its VCEK or VLEK certificate (publication 57230, section 3).
//!
//! Extensions are below 1.3.6.1.4.1.3704.1: `.1` structure version, `.2` product name, `.3.1` to `.3.9` firmware versions,
//! `.4` hardware id (VCEK only), `.5` cloud provider (VLEK only). Like the certificate it is in, an endorsement is a claim
//! until its chain is checked.

use der::Decode;
use der::asn1::{Ia5StringRef, ObjectIdentifier};

use super::report::SigningKey;
use super::tcb::{Generation, Tcb};
use crate::x509::Certificate;

const PRODUCT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOT_LOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HARDWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CLOUD_PROVIDER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// What a VCEK or VLEK certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// Which kind of key it is.
    pub kind: SigningKey,
    /// Product name, such as `Milan-B0`.
    pub product: String,
    /// The generation that follows from the product name.
    pub generation: Generation,
    /// Firmware versions that the key is derived from.
    pub tcb: Tcb,
    /// The chip, if the key is a chip's: 64 bytes, or 8 on Turin.
    pub hardware_id: Option<Vec<u8>>,
    /// The cloud provider that a VLEK was made for.
    pub cloud_provider: Option<String>,
}

/// Why a certificate is neither a VCEK nor a VLEK.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndorsementError {
    /// The subject's common name.
    #[error("its common name is {found:?}, a signing key's is SEV-VCEK or SEV-VLEK")]
    CommonName {
        /// What was found.
        found: String,
    },
    /// An extension that is missing.
    #[error("it has no extension for {what} ({oid})")]
    Missing {
        /// What the extension is for.
        what: &'static str,
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// An extension that cannot be read.
    #[error("its extension for {what} cannot be read: {found}")]
    Unreadable {
        /// What the extension is for.
        what: &'static str,
        /// Its bytes in hexadecimal.
        found: String,
    },
    /// A product that this code does not know.
    #[error("its product {found:?} is unknown: Milan, Genoa, Bergamo, Siena and Turin are known")]
    Product {
        /// What was found.
        found: String,
    },
    /// A key for a whole cloud that names one chip.
    #[error("it is a VLEK and names a chip, which only a VCEK does")]
    ChipOfVlek,
}

impl Endorsement {
    /// Reads what `certificate` says.
    pub fn read(certificate: &Certificate) -> Result<Self, EndorsementError> {
        let kind = match certificate.common_name().as_deref() {
            Some("SEV-VCEK") => SigningKey::Vcek,
            Some("SEV-VLEK") => SigningKey::Vlek,
            other => {
                return Err(EndorsementError::CommonName { found: other.unwrap_or_default().to_owned() });
            }
        };
        let product = text(certificate, "the product name", PRODUCT)?;
        let generation = Generation::from_product(&product)
            .ok_or_else(|| EndorsementError::Product { found: product.clone() })?;
        let fmc = match generation {
            Generation::Turin => Some(number(certificate, "the FMC's version", FMC)?),
            Generation::Milan | Generation::Genoa => None,
        };
        let tcb = Tcb {
            fmc,
            boot_loader: number(certificate, "the boot loader's version", BOOT_LOADER)?,
            tee: number(certificate, "the TEE's version", TEE)?,
            snp: number(certificate, "the SNP firmware's version", SNP)?,
            microcode: number(certificate, "the microcode's version", MICROCODE)?,
        };
        let hardware_id = hardware_id(certificate, kind)?;
        let cloud_provider = match certificate.extension(&CLOUD_PROVIDER) {
            Some(_) => Some(text(certificate, "the cloud provider", CLOUD_PROVIDER)?),
            None => None,
        };
        Ok(Self { kind, product, generation, tcb, hardware_id, cloud_provider })
    }
}

/// The chip that a VCEK is of. Some tools wrap the bytes in an octet string of their own.
fn hardware_id(certificate: &Certificate, kind: SigningKey) -> Result<Option<Vec<u8>>, EndorsementError> {
    let what = "the hardware id";
    match (kind, certificate.extension(&HARDWARE_ID)) {
        (SigningKey::Vlek, None) => Ok(None),
        (SigningKey::Vlek, Some(_)) => Err(EndorsementError::ChipOfVlek),
        (SigningKey::Vcek, None) => Err(EndorsementError::Missing { what, oid: HARDWARE_ID }),
        (SigningKey::Vcek, Some(bytes)) => match (bytes.len(), bytes) {
            (8 | 64, id) | (10, [4, 8, id @ ..]) | (66, [4, 64, id @ ..]) => Ok(Some(id.to_vec())),
            (_, other) => Err(EndorsementError::Unreadable { what, found: hex::encode(other) }),
        },
    }
}

fn number(
    certificate: &Certificate,
    what: &'static str,
    oid: ObjectIdentifier,
) -> Result<u8, EndorsementError> {
    let bytes = certificate.extension(&oid).ok_or(EndorsementError::Missing { what, oid })?;
    u8::from_der(bytes).map_err(|_| EndorsementError::Unreadable { what, found: hex::encode(bytes) })
}

fn text(
    certificate: &Certificate,
    what: &'static str,
    oid: ObjectIdentifier,
) -> Result<String, EndorsementError> {
    let bytes = certificate.extension(&oid).ok_or(EndorsementError::Missing { what, oid })?;
    let text = Ia5StringRef::from_der(bytes);
    text.map(|text| text.as_str().to_owned())
        .map_err(|_| EndorsementError::Unreadable { what, found: hex::encode(bytes) })
}
