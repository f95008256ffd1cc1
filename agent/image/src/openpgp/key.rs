//! Keys as keyrings hold them (RFC 4880, section 11.1), with what their own signatures say of them. A keyring of a policy is its
//! author's, but may hold what strangers added on a key server: only what a key signed itself counts.

use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Algorithm, PublicKey};
use sha1::{Digest as _, Sha1};

use super::armor::without_armor;
use super::packet::{
    Bytes, PUBLIC_KEY, PUBLIC_SUBKEY, SECRET_KEY, SECRET_SUBKEY, SIGNATURE, USER_ATTRIBUTE, USER_ID,
};
use super::signature::{Claims, Signature};
use crate::tlv::{INTEGER, SEQUENCE, encode};

/// The longest keyring, and the most keys and own signatures of one key.
const MAX_BYTES: usize = 1 << 20;
const MAX_KEYS: usize = 32;
const MAX_OWN: usize = 128;

const VERSION: u8 = 4;
/// Algorithms (RFC 4880, section 9.1; RFC 6637; RFC 9580).
const RSA: u8 = 1;
const RSA_SIGNS: u8 = 3;
const ECDSA: u8 = 19;
const EDDSA: u8 = 22;
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
/// SubjectPublicKeyInfo before a key on Ed25519 (RFC 8410, section 4).
const ED25519_INFO: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// A point on Ed25519 as such.
const NATIVE: u8 = 0x40;
/// Kinds of signatures (RFC 4880, section 5.2.1).
const CERTIFIES: std::ops::RangeInclusive<u8> = 0x10..=0x13;
const OF_KEY: u8 = 0x1f;
const REVOKES_KEY: u8 = 0x20;
const REVOKES_USER: u8 = 0x30;

/// A key that may have signed, and when it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    fingerprint: [u8; 20],
    key: PublicKey,
    algorithm: u8,
    /// Of a signature by it.
    length: usize,
    pub(super) created: UnixTime,
    state: State,
}

/// What a key says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It signs.
    Signs {
        /// Until this time.
        until: Option<UnixTime>,
    },
    /// It was taken back.
    Revoked,
    /// Why it does not sign.
    Useless(&'static str),
}

/// Why bytes are no keyring that can be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyringError {
    #[error("this is no keyring: {part} cannot be read")]
    Form { part: &'static str },
    #[error("this is a private key: export the public one")]
    Private,
    #[error(
        "a key of the keyring is of a kind that is not supported: RSA, ECDSA on P-256 to P-521 and Ed25519 of version 4 are"
    )]
    Unsupported,
    #[error("the keyring has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("a key of the keyring has more than {MAX_OWN} signatures of its own")]
    TooManySignatures,
    #[error("the keyring has no key")]
    Empty,
}

/// Keyrings, while they are read.
#[derive(Default)]
struct Keyrings {
    keys: Vec<Reading>,
    /// Revocations of keys, each with the key behind which it stands.
    revocations: Vec<(usize, Vec<u8>)>,
}

/// One key with its packets, while they are read.
struct Reading {
    key: Key,
    /// What is hashed of it.
    hashed: Vec<u8>,
    /// What signatures are about now.
    about: About,
    users: Vec<User>,
    direct: Own,
    is_revoked: bool,
    own: usize,
}

#[derive(Clone, Copy)]
enum About {
    Key,
    /// The user id, or the like, of this number.
    User(usize),
    Subkey,
}

/// What a key says of one of its user ids.
struct User {
    /// What is hashed of it.
    hashed: Vec<u8>,
    word: Own,
    is_revoked: bool,
}

/// What a key says in signatures of one kind.
#[derive(Default)]
struct Own {
    newest: Option<Signature>,
    /// When the newest was made that claims to be its own and cannot be judged.
    unjudged: Option<UnixTime>,
}

impl Key {
    /// Every key of keyrings, each in bytes or printable. What any of them says of a key counts.
    pub(crate) fn read_all(keyrings: &[Vec<u8>]) -> Result<Vec<Self>, KeyringError> {
        let mut all = Keyrings::default();
        for keyring in keyrings {
            all.read(keyring)?;
        }
        all.revoke()?;
        Ok(all.keys.into_iter().map(Reading::finish).collect())
    }

    /// Reads the body of a public key (RFC 4880, section 5.5.2).
    fn read(body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        if bytes.byte()? != VERSION {
            return None;
        }
        let created = UnixTime(u64::from(bytes.number(4)?));
        let algorithm = bytes.byte()?;
        let (key, length) = match algorithm {
            RSA | RSA_SIGNS => {
                let (modulus, exponent) = (bytes.integer()?, bytes.integer()?);
                (PublicKey::rsa(modulus, exponent).ok()?, modulus.len())
            }
            ECDSA | EDDSA => {
                let length = usize::from(bytes.byte()?);
                let curve = bytes.take(length)?;
                let point = bytes.integer()?;
                (on_curve(algorithm, curve, point)?, 64)
            }
            _ => return None,
        };
        let fingerprint = Sha1::digest(hashed(0x99, 2, body)?).into();
        let state = State::Useless("it says nothing of itself");
        bytes.is_empty().then_some(Self { fingerprint, key, algorithm, length, created, state })
    }

    /// What its newest word about a user id says, and before it what it says of itself alone.
    fn state_by(&self, newest: &Signature, direct: Option<&Signature>) -> State {
        let signs = direct.and_then(|direct| direct.signs).or(newest.signs);
        if signs == Some(false) {
            return State::Useless("it is not for signing");
        }
        let lifetime = direct.and_then(|direct| direct.key_expires_after).or(newest.key_expires_after);
        let of_key = lifetime.and_then(|seconds| self.created.0.checked_add(seconds));
        let of_word = newest.expires_after.and_then(|seconds| newest.created.0.checked_add(seconds));
        State::Signs { until: of_key.into_iter().chain(of_word).min().map(UnixTime) }
    }

    /// How people call it.
    pub(crate) fn name(&self) -> String {
        format!("OpenPGP {}", hex::encode_upper(self.fingerprint))
    }

    /// Whether it may sign at `at`, by its own word, or why not.
    pub(crate) fn check_may_sign(&self, at: UnixTime) -> Result<(), String> {
        match &self.state {
            State::Revoked => Err("it is revoked".to_owned()),
            State::Useless(why) => Err((*why).to_owned()),
            State::Signs { until: Some(until) } if *until <= at => Err(format!("it expired at {until}")),
            State::Signs { .. } if self.created > at => {
                Err(format!("it was made at {}, which is to come", self.created))
            }
            State::Signs { .. } => Ok(()),
        }
    }

    /// Whether a signature that names `issuer` may be by it.
    pub(super) fn may_be(&self, issuer: Option<[u8; 8]>) -> bool {
        issuer.is_none_or(|issuer| self.fingerprint.ends_with(&issuer))
    }

    /// Verifies a signature over `message`.
    pub(super) fn verify(&self, signature: &Signature, message: &[u8]) -> Result<(), String> {
        let hash = signature.hash.ok_or("its hash is not supported: SHA-256, SHA-384 and SHA-512 are")?;
        let covered = signature.covered(message);
        let is_kind = |kind: u8| self.algorithm == kind && signature.algorithm == kind;
        let (rsa, numbers) = ([RSA, RSA_SIGNS], signature.numbers.as_slice());
        let found = match numbers {
            [number] if rsa.contains(&self.algorithm) && rsa.contains(&signature.algorithm) => {
                self.key.verify(hash.rsa(), &covered, &padded(number, self.length))
            }
            [r, s] if is_kind(ECDSA) => {
                let pair = [der_integer(r), der_integer(s)].concat();
                self.key.verify(hash.ecdsa(), &covered, &encode(SEQUENCE, &pair))
            }
            [r, s] if is_kind(EDDSA) => {
                let pair = [padded(r, 32), padded(s, 32)].concat();
                self.key.verify(Algorithm::Ed25519, &hash.digest(&covered), &pair)
            }
            _ => return Err("it is by a key of another kind".to_owned()),
        };
        found.map_err(|error| error.to_string())
    }
}

impl Keyrings {
    fn read(&mut self, keyring: &[u8]) -> Result<(), KeyringError> {
        let form = |part| KeyringError::Form { part };
        if keyring.len() > MAX_BYTES {
            return Err(form("a keyring of that length"));
        }
        let keyring = without_armor(keyring).ok_or(form("its printable form"))?;
        let mut bytes = Bytes(&keyring);
        let mut at = None;
        while !bytes.is_empty() {
            let packet = bytes.packet().ok_or(form("a packet"))?;
            match (packet.tag, at) {
                (SECRET_KEY | SECRET_SUBKEY, _) => return Err(KeyringError::Private),
                (PUBLIC_KEY, _) => at = Some(self.key(&packet.body)?),
                (_, None) => return Err(form("what stands before a key")),
                (tag, Some(at)) => self.take(at, tag, &packet.body)?,
            }
        }
        at.map(|_| ()).ok_or(KeyringError::Empty)
    }

    /// The number of a key, which may have been read before.
    fn key(&mut self, body: &[u8]) -> Result<usize, KeyringError> {
        let read = Reading::of(body).ok_or(KeyringError::Unsupported)?;
        if let Some(at) = self.keys.iter().position(|found| found.hashed == read.hashed) {
            if let Some(found) = self.keys.get_mut(at) {
                found.about = About::Key;
            }
            return Ok(at);
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(KeyringError::TooMany);
        }
        self.keys.push(read);
        Ok(self.keys.len() - 1)
    }

    fn take(&mut self, at: usize, tag: u8, body: &[u8]) -> Result<(), KeyringError> {
        let claims = (tag == SIGNATURE).then(|| Claims::read(body)).flatten();
        if claims.is_some_and(|claims| claims.kind == REVOKES_KEY) {
            self.revocations.push((at, body.to_vec()));
            return Ok(());
        }
        self.keys.get_mut(at).map_or(Ok(()), |reading| reading.take((tag, body), claims))
    }

    /// A revocation counts wherever it stands: programs put it behind a key, its subkeys, or other keys.
    fn revoke(&mut self) -> Result<(), KeyringError> {
        for (at, body) in &self.revocations {
            for (number, reading) in self.keys.iter_mut().enumerate() {
                reading.revoke(body, number == *at)?;
            }
        }
        Ok(())
    }
}

impl Reading {
    fn of(body: &[u8]) -> Option<Self> {
        let (key, hashed) = (Key::read(body)?, hashed(0x99, 2, body)?);
        let (about, users, direct) = (About::Key, Vec::new(), Own::default());
        Some(Self { key, hashed, about, users, direct, is_revoked: false, own: 0 })
    }

    fn take(&mut self, (tag, body): (u8, &[u8]), claims: Option<Claims>) -> Result<(), KeyringError> {
        match (tag, claims) {
            (USER_ID | USER_ATTRIBUTE, _) => {
                let head = if tag == USER_ID { 0xb4 } else { 0xd1 };
                let hashed = hashed(head, 4, body).unwrap_or_default();
                let found = self.users.iter().position(|user| user.hashed == hashed);
                self.about = About::User(found.unwrap_or(self.users.len()));
                if found.is_none() {
                    self.users.push(User { hashed, word: Own::default(), is_revoked: false });
                }
            }
            (PUBLIC_SUBKEY, _) => self.about = About::Subkey,
            (SIGNATURE, Some(claims)) => return self.signature(body, claims),
            _ => {}
        }
        Ok(())
    }

    /// Takes what the key itself signed of itself or a user id.
    fn signature(&mut self, body: &[u8], claims: Claims) -> Result<(), KeyringError> {
        let user = match self.about {
            About::User(number) => self.users.get(number).map(|user| user.hashed.as_slice()),
            About::Key | About::Subkey => None,
        };
        let message = match (claims.kind, user) {
            (OF_KEY, _) => self.hashed.clone(),
            (_, Some(user)) => [&self.hashed, user].concat(),
            _ => return Ok(()),
        };
        let Some(word) = self.own_word(body, &message, claims)? else { return Ok(()) };
        let user = match self.about {
            About::User(number) => self.users.get_mut(number),
            About::Key | About::Subkey => None,
        };
        match (claims.kind, user) {
            (OF_KEY, _) => self.direct.take(word),
            // It may be one, and can only take something away.
            (REVOKES_USER, Some(user)) => user.is_revoked = true,
            (kind, Some(user)) if CERTIFIES.contains(&kind) => user.word.take(word),
            _ => {}
        }
        Ok(())
    }

    /// Takes a revocation of a key; one that cannot be judged is one too, of the key that it names or stands behind.
    fn revoke(&mut self, body: &[u8], is_behind: bool) -> Result<(), KeyringError> {
        let Some(claims) = Claims::read(body) else { return Ok(()) };
        let message = self.hashed.clone();
        self.is_revoked |= match self.own_word(body, &message, claims)? {
            Some(Ok(_)) => true,
            Some(Err(_)) => is_behind || claims.issuer.is_some(),
            None => false,
        };
        Ok(())
    }

    /// A signature over `message` that is the key's own; or when it was made, if it claims to be that and cannot be judged.
    fn own_word(
        &mut self,
        body: &[u8],
        message: &[u8],
        claims: Claims,
    ) -> Result<Option<Result<Signature, UnixTime>>, KeyringError> {
        if !self.key.may_be(claims.issuer) {
            return Ok(None);
        }
        self.own += 1;
        if self.own > MAX_OWN {
            return Err(KeyringError::TooManySignatures);
        }
        Ok(match Signature::read(body).filter(|signature| signature.hash.is_some()) {
            Some(signature) => self.key.verify(&signature, message).is_ok().then_some(Ok(signature)),
            None => Some(Err(claims.created.unwrap_or(UnixTime(u64::MAX)))),
        })
    }

    /// The newest word about a user id counts, and what was said of the key alone before it (as GnuPG has it).
    fn finish(self) -> Key {
        let Self { mut key, users, direct, is_revoked, .. } = self;
        let mut word = Own::default();
        for user in users.into_iter().filter(|user| !user.is_revoked) {
            user.word.newest.into_iter().for_each(|newest| word.take(Ok(newest)));
            user.word.unjudged.into_iter().for_each(|at| word.take(Err(at)));
        }
        key.state = match &word.newest {
            _ if is_revoked => State::Revoked,
            None => State::Useless("none of its user ids is signed by it in a way that is supported"),
            Some(_) if word.may_be_outdated() || direct.may_be_outdated() => {
                State::Useless("its newest word of itself cannot be judged")
            }
            Some(newest) => key.state_by(newest, direct.newest.as_ref()),
        };
        key
    }
}

impl Own {
    fn take(&mut self, word: Result<Signature, UnixTime>) {
        match word {
            Ok(signature) if self.newest.as_ref().is_none_or(|found| found.created <= signature.created) => {
                self.newest = Some(signature);
            }
            Ok(_) => {}
            Err(at) => self.unjudged = self.unjudged.max(Some(at)),
        }
    }

    /// Whether the newest that counts may have been taken back or narrowed since.
    fn may_be_outdated(&self) -> bool {
        let newest = self.newest.as_ref().map(|newest| newest.created);
        self.unjudged.is_some_and(|at| newest.is_none_or(|newest| newest <= at))
    }
}

/// What is hashed of a packet's body: a head, and its length in `count` bytes (RFC 4880, section 5.2.4).
fn hashed(head: u8, count: usize, body: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(body.len()).ok()?.to_be_bytes();
    let (above, used) = length.split_at_checked(length.len().checked_sub(count)?)?;
    above.iter().all(|byte| *byte == 0).then(|| [&[head], used, body].concat())
}

fn on_curve(algorithm: u8, curve: &[u8], point: &[u8]) -> Option<PublicKey> {
    if algorithm == EDDSA {
        let (&NATIVE, point) = point.split_first()? else { return None };
        return (curve == ED25519)
            .then(|| PublicKey::from_file(&[ED25519_INFO, point].concat()).ok())
            .flatten();
    }
    match curve {
        P256 => PublicKey::p256(point).ok(),
        P384 => PublicKey::p384(point).ok(),
        P521 => PublicKey::p521(point).ok(),
        _ => None,
    }
}

/// With zeros before it up to `length`; what is longer stays as it is.
fn padded(number: &[u8], length: usize) -> Vec<u8> {
    let mut whole = vec![0; length.saturating_sub(number.len())];
    whole.extend(number);
    whole
}

fn der_integer(number: &[u8]) -> Vec<u8> {
    // A first bit that is set would be a sign.
    let sign: &[u8] = if number.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    encode(INTEGER, &[sign, number].concat())
}
