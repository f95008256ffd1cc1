//! RSA with public keys (RFC 8017): signatures in RSASSA-PSS and RSASSA-PKCS1-v1_5 with SHA-256, SHA-384 and SHA-512,
//! and encryption in RSAES-OAEP with SHA-256.
//!
//! Modulus, exponent and signatures are public, so only the exponent decides how long a power takes; what is encrypted goes
//! through multiplications that take the same time for every value.
//! The crate `rsa` is not used because it is a pre-release and carries an advisory about private keys.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U64, U4096};
use sha2::{Digest, Sha256, Sha384, Sha512};

const LARGEST_BYTES: usize = 512;
const SMALLEST_BITS: u32 = 2048;
const SHA256_BYTES: usize = 32;

/// The hash of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Hash::Sha256 => of_parts::<Sha256>(parts),
            Hash::Sha384 => of_parts::<Sha384>(parts),
            Hash::Sha512 => of_parts::<Sha512>(parts),
        }
    }

    fn length(self) -> usize {
        match self {
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// DigestInfo before the digest itself (RFC 8017, section 9.2, note 1).
    fn digest_info(self) -> [u8; 19] {
        let (whole, last, length) = match self {
            Hash::Sha256 => (0x31, 0x01, 0x20),
            Hash::Sha384 => (0x41, 0x02, 0x30),
            Hash::Sha512 => (0x51, 0x03, 0x40),
        };
        [
            0x30, whole, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last, 0x05,
            0x00, 0x04, length,
        ]
    }

    /// MGF1 (RFC 8017, section B.2.1), without end.
    fn mask(self, seed: &[u8]) -> impl Iterator<Item = u8> {
        (0_u32..).flat_map(move |counter| self.digest(&[seed, &counter.to_be_bytes()]))
    }
}

fn of_parts<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    let mut digest = D::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().to_vec()
}

/// A public key of 2048 to 4096 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RsaKey {
    modulus: Odd<U4096>,
    bits: u32,
    exponent: u64,
}

impl RsaKey {
    /// Takes modulus and exponent, both big endian; `None` for sizes outside 2048 to 4096 bits, an even modulus, or an
    /// exponent that is even, below 3 or longer than 32 bits.
    pub(crate) fn new(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let modulus: U4096 = number(modulus)?;
        let bits = modulus.bits_vartime();
        let exponent = unpadded(exponent);
        if bits < SMALLEST_BITS || exponent.len() > 4 {
            return None;
        }
        let exponent = exponent.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte));
        if exponent < 3 || exponent % 2 == 0 {
            return None;
        }
        let modulus = Odd::new(modulus).into_option()?;
        Some(Self { modulus, bits, exponent })
    }

    /// Length of the modulus in bits.
    pub(crate) fn bits(&self) -> u32 {
        self.bits
    }

    /// RSASSA-PSS-VERIFY with MGF1 over the same hash and a salt as long as it (RFC 8017, section 8.1.2).
    pub(crate) fn verifies_pss(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        let encoded_bits = self.bits - 1;
        let Some(encoded) = self.open(signature, encoded_bits.div_ceil(8) as usize) else {
            return false;
        };
        let unused_bits = 8 * encoded.len() as u32 - encoded_bits;
        pss_holds(hash, &encoded, unused_bits, message)
    }

    /// RSASSA-PKCS1-V1_5-VERIFY (RFC 8017, section 8.2.2): the expected block is built and compared whole.
    pub(crate) fn verifies_pkcs1(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        let length = self.bits.div_ceil(8) as usize;
        let prefix = hash.digest_info();
        let mut expected = vec![0x00, 0x01];
        expected.resize(length.saturating_sub(prefix.len() + hash.length() + 1), 0xff);
        expected.push(0x00);
        expected.extend(prefix);
        expected.extend(hash.digest(&[message]));
        self.open(signature, length).is_some_and(|encoded| encoded == expected)
    }

    /// RSAES-OAEP-ENCRYPT with SHA-256, MGF1 over SHA-256 and an empty label (RFC 8017, section 7.1.1); `None` if `message`
    /// is too long for the modulus. `seed` must be random and used once.
    pub(crate) fn encrypt_oaep_sha256(&self, message: &[u8], seed: &[u8; SHA256_BYTES]) -> Option<Vec<u8>> {
        let length = self.bits.div_ceil(8) as usize;
        let padding = length.checked_sub(message.len() + 2 * SHA256_BYTES + 2)?;
        let mut block = Sha256::digest([]).to_vec();
        block.resize(block.len() + padding, 0);
        block.push(0x01);
        block.extend(message);
        let masked: Vec<u8> =
            block.iter().zip(Hash::Sha256.mask(seed)).map(|(byte, mask)| byte ^ mask).collect();
        let masked_seed = seed.iter().zip(Hash::Sha256.mask(&masked)).map(|(byte, mask)| byte ^ mask);
        let encoded: Vec<u8> = std::iter::once(0).chain(masked_seed).chain(masked.iter().copied()).collect();
        self.open(&encoded, length)
    }

    /// The signature raised to the exponent, in `length` bytes; `None` if the signature has not exactly the modulus'
    /// length, is not below it, or the result does not fit.
    fn open(&self, signature: &[u8], length: usize) -> Option<Vec<u8>> {
        if signature.len() != self.bits.div_ceil(8) as usize {
            return None;
        }
        let signature: U4096 = number(signature)?;
        if signature >= *self.modulus.as_ref() {
            return None;
        }
        let parameters = FixedMontyParams::new_vartime(self.modulus);
        let opened = FixedMontyForm::new(&signature, &parameters).pow_vartime(&U64::from_u64(self.exponent));
        let bytes = opened.retrieve().to_be_bytes();
        let bytes: &[u8] = bytes.as_ref();
        let (above, encoded) = bytes.split_at_checked(LARGEST_BYTES.checked_sub(length)?)?;
        above.iter().all(|byte| *byte == 0).then(|| encoded.to_vec())
    }
}

/// EMSA-PSS-VERIFY (RFC 8017, section 9.1.2): `encoded` = masked DB ‖ H ‖ bc, its first `unused_bits` bits are zero.
fn pss_holds(hash: Hash, encoded: &[u8], unused_bits: u32, message: &[u8]) -> bool {
    let Some((&0xbc, encoded)) = encoded.split_last() else {
        return false;
    };
    let Some((masked, digest)) =
        encoded.len().checked_sub(hash.length()).and_then(|at| encoded.split_at_checked(at))
    else {
        return false;
    };
    let unused = !(0xff_u8.checked_shr(unused_bits).unwrap_or(0));
    if masked.first().is_none_or(|first| first & unused != 0) {
        return false;
    }
    let mut block: Vec<u8> = masked.iter().zip(hash.mask(digest)).map(|(byte, mask)| byte ^ mask).collect();
    if let Some(first) = block.first_mut() {
        *first &= !unused;
    }
    let Some((padding, salt)) =
        block.len().checked_sub(hash.length()).and_then(|at| block.split_at_checked(at))
    else {
        return false;
    };
    let Some((&0x01, zeros)) = padding.split_last() else {
        return false;
    };
    let found = hash.digest(&[&[0; 8], &hash.digest(&[message]), salt]);
    zeros.iter().all(|byte| *byte == 0) && found == digest
}

/// A big-endian number of at most 4096 bits; leading zeros do not count.
fn number(bytes: &[u8]) -> Option<U4096> {
    let bytes = unpadded(bytes);
    let start = LARGEST_BYTES.checked_sub(bytes.len())?;
    let mut whole = [0; LARGEST_BYTES];
    whole.get_mut(start..)?.copy_from_slice(bytes);
    Some(U4096::from_be_slice(&whole))
}

fn unpadded(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}
