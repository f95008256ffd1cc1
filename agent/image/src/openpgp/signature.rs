//! Signature packets of version 4 (RFC 4880, section 5.2.3).

use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::Algorithm;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::packet::Bytes;

const VERSION: u8 = 4;
/// The version before (RFC 4880, section 5.2.2), which keys of version 4 may have signed in.
const OLD_VERSION: u8 = 3;
/// Parts (RFC 4880, section 5.2.3.1; RFC 9580, section 5.2.3.7).
const CREATED: u8 = 2;
const EXPIRES: u8 = 3;
const KEY_EXPIRES: u8 = 9;
const ISSUER: u8 = 16;
const FLAGS: u8 = 27;
const FINGERPRINT: u8 = 33;
/// Parts that say nothing which this code would have to act on, also where they are critical: preferences, the primary user id,
/// the signer's user id, a reason of revocation, features.
const HARMLESS: [u8; 8] = [11, 21, 22, 23, 25, 28, 29, 30];
/// The flag of keys that sign.
const SIGNS: u8 = 2;

/// The hash of a signature (RFC 4880, section 9.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// A signature; nothing of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(super) kind: u8,
    pub(super) algorithm: u8,
    /// `None`: one that is not supported.
    pub(super) hash: Option<Hash>,
    /// What of it is signed.
    signed: Vec<u8>,
    pub(super) created: UnixTime,
    /// Seconds after its creation.
    pub(super) expires_after: Option<u64>,
    /// Seconds after the key's creation.
    pub(super) key_expires_after: Option<u64>,
    /// Whether it says what the key is for, and that is to sign.
    pub(super) signs: Option<bool>,
    /// The last eight bytes of the signer's fingerprint, by whoever wrote it.
    pub(super) issuer: Option<[u8; 8]>,
    pub(super) numbers: Vec<Vec<u8>>,
}

/// What a signature packet says of itself, also one that cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) kind: u8,
    /// `None`: it cannot be read.
    pub(super) created: Option<UnixTime>,
    pub(super) issuer: Option<[u8; 8]>,
}

impl Claims {
    /// Reads the body of a signature packet; `None` for a version in which no key of version 4 signs.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        match bytes.byte()? {
            VERSION => {
                let kind = bytes.byte()?;
                let mut claims = Self { kind, created: None, issuer: None };
                // What is read up to a fault counts.
                let _ = claims.take_parts(bytes);
                Some(claims)
            }
            OLD_VERSION => {
                let _length = bytes.byte()?;
                let kind = bytes.byte()?;
                let created = bytes.number(4).map(|time| UnixTime(u64::from(time)));
                let issuer = bytes.take(8).and_then(|issuer| issuer.try_into().ok());
                Some(Self { kind, created, issuer })
            }
            _ => None,
        }
    }

    fn take_parts(&mut self, mut bytes: Bytes<'_>) -> Option<()> {
        let _algorithms = bytes.take(2)?;
        for is_signed in [true, false] {
            let length = bytes.length(2)?;
            let mut area = Bytes(bytes.take(length)?);
            while !area.is_empty() {
                let (kind, part) = next_part(&mut area)?;
                let last = part.last_chunk::<8>().copied();
                match kind & 0x7f {
                    CREATED if is_signed => {
                        self.created = Bytes(part).number(4).map(|time| UnixTime(time.into()))
                    }
                    ISSUER | FINGERPRINT if is_signed => self.issuer = last,
                    ISSUER if self.issuer.is_none() => self.issuer = last,
                    _ => {}
                }
            }
        }
        Some(())
    }
}

impl Hash {
    fn of(number: u8) -> Option<Self> {
        match number {
            8 => Some(Hash::Sha256),
            9 => Some(Hash::Sha384),
            10 => Some(Hash::Sha512),
            _ => None,
        }
    }

    pub(super) fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => Sha256::digest(message).to_vec(),
            Hash::Sha384 => Sha384::digest(message).to_vec(),
            Hash::Sha512 => Sha512::digest(message).to_vec(),
        }
    }

    pub(super) fn rsa(self) -> Algorithm {
        match self {
            Hash::Sha256 => Algorithm::Pkcs1Sha256,
            Hash::Sha384 => Algorithm::Pkcs1Sha384,
            Hash::Sha512 => Algorithm::Pkcs1Sha512,
        }
    }

    pub(super) fn ecdsa(self) -> Algorithm {
        match self {
            Hash::Sha256 => Algorithm::EcdsaSha256,
            Hash::Sha384 => Algorithm::EcdsaSha384,
            Hash::Sha512 => Algorithm::EcdsaSha512,
        }
    }
}

impl Signature {
    /// Reads the body of a signature packet. `None` for another version, for what cannot be read, and for critical parts that are
    /// not understood.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        let [VERSION, kind, algorithm, hash] = *bytes.take(4)? else { return None };
        let length = bytes.length(2)?;
        let hashed = bytes.take(length)?;
        let signed = body.get(..length.checked_add(6)?)?.to_vec();
        let mut read = Self {
            kind,
            algorithm,
            hash: Hash::of(hash),
            signed,
            created: UnixTime(0),
            expires_after: None,
            key_expires_after: None,
            signs: None,
            issuer: None,
            numbers: Vec::new(),
        };
        let signed_parts = parts(hashed)?;
        let has_time = signed_parts.iter().any(|(kind, _)| *kind == CREATED);
        signed_parts.iter().try_for_each(|(kind, part)| read.take_part(*kind, part))?;
        let length = bytes.length(2)?;
        // Of what nobody signed only the hint who signed is taken.
        let unsigned_parts = parts(bytes.take(length)?)?;
        if let Some((kind, part)) =
            unsigned_parts.iter().find(|(kind, _)| *kind == ISSUER && read.issuer.is_none())
        {
            read.take_part(*kind, part)?;
        }
        // The first bytes of the hash, a help for those who look for errors.
        bytes.take(2)?;
        while !bytes.is_empty() {
            let number = bytes.integer().filter(|_| read.numbers.len() < 2)?;
            read.numbers.push(number.to_vec());
        }
        has_time.then_some(read)
    }

    /// What is hashed of a signature over `message`.
    pub(super) fn covered(&self, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(self.signed.len()).unwrap_or(u32::MAX).to_be_bytes();
        [message, &self.signed, &[VERSION, 0xff], &length].concat()
    }

    fn take_part(&mut self, kind: u8, part: &[u8]) -> Option<()> {
        let number = || (part.len() == 4).then(|| Bytes(part).number(4)).flatten().map(u64::from);
        // Zero: never.
        let seconds = || number().map(|seconds| Some(seconds).filter(|seconds| *seconds != 0));
        match kind {
            CREATED => self.created = UnixTime(number()?),
            EXPIRES => self.expires_after = seconds()?,
            KEY_EXPIRES => self.key_expires_after = seconds()?,
            FLAGS => self.signs = Some(part.first().is_some_and(|flags| flags & SIGNS != 0)),
            ISSUER => self.issuer = Some(part.try_into().ok()?),
            FINGERPRINT => self.issuer = Some(part.get(part.len().checked_sub(8)?..)?.try_into().ok()?),
            _ => {}
        }
        Some(())
    }
}

/// The next part's kind, whose highest bit says that it is critical, and content.
fn next_part<'a>(area: &mut Bytes<'a>) -> Option<(u8, &'a [u8])> {
    let length = area.part_length()?;
    let (kind, part) = area.take(length)?.split_first()?;
    Some((*kind, part))
}

/// Kinds and contents; `None` for critical parts that are not understood.
fn parts(area: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let known = [CREATED, EXPIRES, KEY_EXPIRES, ISSUER, FLAGS, FINGERPRINT];
    let mut bytes = Bytes(area);
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (kind, part) = next_part(&mut bytes)?;
        let (number, is_critical) = (kind & 0x7f, kind & 0x80 != 0);
        if is_critical && !known.contains(&number) && !HARMLESS.contains(&number) {
            return None;
        }
        all.push((number, part));
    }
    Some(all)
}
