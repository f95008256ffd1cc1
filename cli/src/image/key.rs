//! Private keys that images are signed with: PKCS #8 in PEM as openssl writes it, and cosign's encrypted files.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64ct::{Base64, Encoding};
use coffer_attestation::dsse::PrivateKey;
use der::asn1::{ObjectIdentifier, OctetStringRef};
use der::{Decode, Reader, SliceReader};
use ed25519_dalek::Signer;
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit;
use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::password;
use crate::attest::read_file;

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// What stands before the 32 bytes of a public key on Ed25519 (RFC 8410, section 4).
const ED25519_INFO: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PLAIN: &str = "PRIVATE KEY";
/// What cosign has written since 2, and before.
const ENCRYPTED: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
/// The most memory that finding the key of an encrypted file may take, in bytes.
const MAX_MEMORY: u64 = 512 << 20;

/// Signs images.
pub(crate) enum Key {
    Curve(Box<PrivateKey>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
    /// From 2048 bits.
    Rsa(Box<RsaKeyPair>),
}

/// cosign's encrypted file, inside its PEM.
#[derive(Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "N")]
    cost: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl Key {
    /// Reads the file at `path`; its password, if it has one, comes from the environment or the terminal.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = Zeroizing::new(read_file(path, "a private key")?);
        let (label, bytes) = der::pem::decode_vec(text.trim_ascii())
            .map_err(|_| anyhow::anyhow!("{} is no PEM file", path.display()))?;
        let bytes = Zeroizing::new(bytes);
        let der = match label {
            PLAIN => bytes,
            label if ENCRYPTED.contains(&label) => {
                open(&bytes, &password::ask("Password of the private key: ")?)
                    .with_context(|| format!("opening {}", path.display()))?
            }
            other => bail!(
                "{} is a {other}, wanted is a {PLAIN} (PKCS #8, as openssl genpkey writes it) or an {}",
                path.display(),
                ENCRYPTED[0]
            ),
        };
        Self::from_pkcs8(&der).with_context(|| format!("reading {}", path.display()))
    }

    fn from_pkcs8(der: &[u8]) -> anyhow::Result<Self> {
        if let Some(seed) = ed25519_seed(der) {
            return Ok(Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed))));
        }
        if let Ok(key) = RsaKeyPair::from_pkcs8(der) {
            return Ok(Self::Rsa(Box::new(key)));
        }
        let key = PrivateKey::from_der(der);
        let known = "images are signed with keys on P-256, P-384 and Ed25519, and RSA from 2048 bits";
        Ok(Self::Curve(Box::new(key.context(known)?)))
    }

    /// Signs as cosign verifies: ECDSA with SHA-256 on every curve, RSA by PKCS #1 with SHA-256, or Ed25519.
    pub(crate) fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        match self {
            Key::Curve(key) => Ok(key.sign_with_sha256(message)?),
            Key::Ed25519(key) => Ok(key.sign(message).to_bytes().to_vec()),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let signed = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
                signed.map_err(|_| anyhow::anyhow!("the RSA key does not sign"))?;
                Ok(signature)
            }
        }
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo: how bundles and verdicts call it.
    pub(crate) fn id(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Key::Curve(key) => Ok(hex::decode(key.signer()?.id())?),
            Key::Ed25519(key) => {
                Ok(Sha256::digest([&ED25519_INFO[..], key.verifying_key().as_bytes()].concat()).to_vec())
            }
            Key::Rsa(key) => {
                let info: PublicKeyX509Der<'_> = key
                    .public_key()
                    .as_der()
                    .map_err(|_| anyhow::anyhow!("the RSA key has no public part"))?;
                Ok(Sha256::digest(info.as_ref()).to_vec())
            }
        }
    }
}

/// The seed of a key on Ed25519 (RFC 8410, section 7).
fn ed25519_seed(der: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut reader = SliceReader::new(der).ok()?;
    let inside = reader.sequence(|info| {
        let _version: u8 = info.decode()?;
        let kind = info.sequence(|algorithm| algorithm.decode::<ObjectIdentifier>())?;
        let key: &OctetStringRef = info.decode()?;
        info.drain(info.remaining_len())?;
        if kind == ED25519 { Ok(key.as_bytes()) } else { Err(der::ErrorKind::Failed.into()) }
    });
    let inside: Result<&[u8], der::Error> = inside;
    let seed = <&OctetStringRef>::from_der(inside.ok()?).ok()?;
    seed.as_bytes().try_into().ok().map(Zeroizing::new)
}

/// Opens NaCl's secretbox (XSalsa20 and Poly1305) under a key that scrypt makes of the password.
fn open(json: &[u8], password: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let sealed: Sealed = serde_json::from_slice(json).context("this is no encrypted key of cosign's")?;
    ensure!(
        sealed.kdf.name == "scrypt" && sealed.cipher.name == "nacl/secretbox",
        "the key is encrypted by {:?} and {:?}: scrypt and nacl/secretbox are understood",
        sealed.kdf.name,
        sealed.cipher.name
    );
    let bytes =
        |text: &str| Base64::decode_vec(text).map_err(|_| anyhow::anyhow!("a part of the key is no base64"));
    let (salt, nonce, sealed_key) =
        (bytes(&sealed.kdf.salt)?, bytes(&sealed.cipher.nonce)?, bytes(&sealed.ciphertext)?);
    let key = derived(&sealed.kdf.params, &salt, password)?;
    let nonce = <[u8; 24]>::try_from(nonce).map_err(|_| anyhow::anyhow!("the nonce has not 24 bytes"))?;
    let (tag, hidden) = sealed_key.split_first_chunk::<16>().context("the key is cut off")?;
    let mut stream = XSalsa20::new(&(*key).into(), &nonce.into());
    // The first 32 bytes of the stream are Poly1305's key.
    let mut once = Zeroizing::new([0_u8; 32]);
    stream.apply_keystream(once.as_mut());
    let found = Poly1305::new(&(*once).into()).compute_unpadded(hidden);
    ensure!(found.as_slice() == tag, "the password is wrong, or the file was changed");
    let mut plain = Zeroizing::new(hidden.to_vec());
    stream.apply_keystream(&mut plain);
    Ok(plain)
}

fn derived(params: &Params, salt: &[u8], password: &str) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let memory = params.cost.checked_mul(128 * u64::from(params.r.max(1)));
    ensure!(
        params.cost.is_power_of_two() && memory.is_some_and(|memory| memory <= MAX_MEMORY) && params.p <= 16,
        "finding the key would take more than {} MiB: this is no key of cosign's",
        MAX_MEMORY >> 20
    );
    let log = u8::try_from(params.cost.trailing_zeros())?;
    let params = scrypt::Params::new(log, params.r, params.p).context("the key's scrypt parameters")?;
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password.as_bytes(), salt, &params, key.as_mut()).context("finding the key")?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(key: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), key).expect("written");
        file
    }

    #[test]
    fn a_key_on_ed25519_is_read_and_signs() {
        let der =
            [&[0x30, 0x2e, 0x02, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..], &[7; 32]]
                .concat();
        let pem = der::pem::encode_string(PLAIN, der::pem::LineEnding::LF, &der).expect("text");
        let key = Key::read(written(&pem).path()).expect("a key");
        let own = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        assert_eq!(key.sign(b"x").expect("a signature"), own.sign(b"x").to_bytes());
        assert_eq!(key.id().expect("an id").len(), 32);
    }

    #[test]
    fn a_file_that_is_no_private_key_is_named() {
        let pem = der::pem::encode_string("PUBLIC KEY", der::pem::LineEnding::LF, b"x").expect("text");
        let error = Key::read(written(&pem).path()).err().expect("refused").to_string();
        assert!(error.contains("is a PUBLIC KEY, wanted is a PRIVATE KEY"), "{error}");
    }

    #[test]
    fn a_key_that_would_take_all_memory_is_refused() {
        let params = Params { cost: 1 << 40, r: 8, p: 1 };
        assert!(derived(&params, b"salt", "").is_err());
    }

    #[test]
    fn scrypt_is_the_one_of_rfc_7914() {
        let params = Params { cost: 1024, r: 8, p: 16 };
        let key = derived(&params, b"NaCl", "password").expect("a key");
        assert_eq!(hex::encode(&key[..8]), "fdbabe1c9d347200");
    }
}
