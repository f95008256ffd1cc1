//! What a PCK certificate says of its platform: the extension 1.2.840.113741.1.13.1.
//!
//! A sequence of pairs (object identifier, value), some of whose values are such sequences again.
//! Source: Intel SGX PCK Certificate and CRL Profile Specification, section 1.4.

use std::collections::BTreeSet;

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Reader, SliceReader, Tag, Tagged};

/// The extension.
pub(super) const SGX_EXTENSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");

const PPID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.1");
const TCB: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2");
const PCE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.3");
const FMSPC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.4");
const PLATFORM_INSTANCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.6");
const CONFIGURATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.7");
const DYNAMIC_PLATFORM: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.7.1");
const CACHED_KEYS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.7.2");
const SMT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.7.3");

/// Last arcs below `TCB`: 1 to 16 are components, then these.
const PCE_SVN_ARC: u32 = 17;
const CPU_SVN_ARC: u32 = 18;

/// A platform, as its PCK certificate describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Identity of the platform's provisioning.
    pub ppid: [u8; 16],
    /// Versions that the certificate is for.
    pub tcb: PlatformTcb,
    /// Provisioning certification enclave.
    pub pce_id: [u8; 2],
    /// Family, model, stepping, platform type and custom SKU.
    pub fmspc: [u8; 6],
    /// Identity of a machine of several sockets, from a Platform CA.
    pub instance: Option<[u8; 16]>,
    /// How such a machine is set up.
    pub configuration: Configuration,
}

/// Versions that a PCK certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformTcb {
    /// Security versions of 16 parts.
    pub components: [u8; 16],
    /// Security version of the provisioning certification enclave.
    pub pce_svn: u16,
    /// The same 16 parts in the CPU's own encoding.
    pub cpu_svn: [u8; 16],
}

/// How a machine of several sockets is set up; `None` where the certificate does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Whether packages may be added.
    pub dynamic_platform: Option<bool>,
    /// Whether Intel keeps the platform's root keys.
    pub cached_keys: Option<bool>,
    /// Whether simultaneous multithreading is on.
    pub smt: Option<bool>,
}

/// Why an extension does not describe a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// Not the pairs that it must consist of.
    #[error("the SGX extension cannot be read: {reason}")]
    Form {
        /// What the decoder says.
        reason: der::Error,
    },
    /// A value that must be there.
    #[error("the SGX extension has no {oid}")]
    Missing {
        /// Which.
        oid: ObjectIdentifier,
    },
    /// Two values for the same thing.
    #[error("the SGX extension has {oid} twice")]
    Twice {
        /// Which.
        oid: ObjectIdentifier,
    },
    /// A value of another kind or length.
    #[error("the SGX extension's {oid} is not what it must be")]
    Value {
        /// Which.
        oid: ObjectIdentifier,
    },
}

impl Platform {
    /// Parses the extension's value.
    ///
    /// # Errors
    /// [`PlatformError`]
    pub fn parse(extension: &[u8]) -> Result<Self, PlatformError> {
        let pairs = Pairs::read(extension)?;
        let instance =
            pairs.find(&PLATFORM_INSTANCE).map(|value| octets(&PLATFORM_INSTANCE, value)).transpose()?;
        let configuration =
            pairs.find(&CONFIGURATION).map(|value| inner(&CONFIGURATION, value)).transpose()?;
        Ok(Self {
            ppid: octets(&PPID, pairs.get(&PPID)?)?,
            tcb: PlatformTcb::read(&inner(&TCB, pairs.get(&TCB)?)?)?,
            pce_id: octets(&PCE_ID, pairs.get(&PCE_ID)?)?,
            fmspc: octets(&FMSPC, pairs.get(&FMSPC)?)?,
            instance,
            configuration: configuration
                .map_or(Ok(Configuration::default()), |pairs| Configuration::read(&pairs))?,
        })
    }
}

impl PlatformTcb {
    fn read(pairs: &Pairs<'_>) -> Result<Self, PlatformError> {
        let mut components = [0; 16];
        for (component, arc) in components.iter_mut().zip(1..) {
            let oid = below(&TCB, arc)?;
            *component = integer(&oid, pairs.get(&oid)?)?;
        }
        let pce_svn = below(&TCB, PCE_SVN_ARC)?;
        let cpu_svn = below(&TCB, CPU_SVN_ARC)?;
        Ok(Self {
            components,
            pce_svn: integer(&pce_svn, pairs.get(&pce_svn)?)?,
            cpu_svn: octets(&cpu_svn, pairs.get(&cpu_svn)?)?,
        })
    }
}

impl Configuration {
    fn read(pairs: &Pairs<'_>) -> Result<Self, PlatformError> {
        let flag = |oid: &ObjectIdentifier| {
            let value = pairs.find(oid).map(|value| value.decode_as::<bool>());
            value.transpose().map_err(|_| PlatformError::Value { oid: *oid })
        };
        Ok(Self {
            dynamic_platform: flag(&DYNAMIC_PLATFORM)?,
            cached_keys: flag(&CACHED_KEYS)?,
            smt: flag(&SMT)?,
        })
    }
}

/// Pairs of object identifier and value, each identifier once.
struct Pairs<'a>(Vec<(ObjectIdentifier, AnyRef<'a>)>);

impl<'a> Pairs<'a> {
    fn read(sequence: &'a [u8]) -> Result<Self, PlatformError> {
        let form = |reason| PlatformError::Form { reason };
        let mut reader = SliceReader::new(sequence).map_err(form)?;
        let pairs = reader.sequence(read_pairs).map_err(form)?;
        reader.finish().map_err(form)?;
        Self::each_once(pairs)
    }

    fn each_once(pairs: Vec<(ObjectIdentifier, AnyRef<'a>)>) -> Result<Self, PlatformError> {
        let mut seen = BTreeSet::new();
        match pairs.iter().find(|(oid, _)| !seen.insert(*oid)) {
            Some((twice, _)) => Err(PlatformError::Twice { oid: *twice }),
            None => Ok(Self(pairs)),
        }
    }

    fn find(&self, oid: &ObjectIdentifier) -> Option<AnyRef<'a>> {
        self.0.iter().find(|(found, _)| found == oid).map(|(_, value)| *value)
    }

    fn get(&self, oid: &ObjectIdentifier) -> Result<AnyRef<'a>, PlatformError> {
        self.find(oid).ok_or(PlatformError::Missing { oid: *oid })
    }
}

fn read_pairs<'a>(inside: &mut SliceReader<'a>) -> der::Result<Vec<(ObjectIdentifier, AnyRef<'a>)>> {
    let mut pairs = Vec::new();
    while !inside.is_finished() {
        pairs.push(inside.sequence(|pair| Ok::<_, der::Error>((pair.decode()?, pair.decode()?)))?);
    }
    Ok(pairs)
}

/// A value that is a sequence of pairs itself.
fn inner<'a>(oid: &ObjectIdentifier, value: AnyRef<'a>) -> Result<Pairs<'a>, PlatformError> {
    let error = |_| PlatformError::Value { oid: *oid };
    if value.tag() != Tag::Sequence {
        return Err(PlatformError::Value { oid: *oid });
    }
    let mut reader = SliceReader::new(value.value()).map_err(error)?;
    Pairs::each_once(read_pairs(&mut reader).map_err(error)?)
}

fn octets<const N: usize>(oid: &ObjectIdentifier, value: AnyRef<'_>) -> Result<[u8; N], PlatformError> {
    let bytes = value.decode_as::<&OctetStringRef>().ok();
    bytes.and_then(|bytes| bytes.as_bytes().try_into().ok()).ok_or(PlatformError::Value { oid: *oid })
}

fn integer<'a, T: Decode<'a, Error = der::Error> + der::DecodeValue<'a> + der::FixedTag>(
    oid: &ObjectIdentifier,
    value: AnyRef<'a>,
) -> Result<T, PlatformError> {
    value.decode_as::<T>().map_err(|_| PlatformError::Value { oid: *oid })
}

fn below(parent: &ObjectIdentifier, arc: u32) -> Result<ObjectIdentifier, PlatformError> {
    parent.push_arc(arc).map_err(|_| PlatformError::Missing { oid: *parent })
}
