//! Making nonces, and taking them back.

use std::sync::{Arc, Mutex, PoisonError};

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::{Challenge, HashAlgorithm, Request, Tee};
use coffer_attestation::time::UnixTime;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::spent::{NonceId, Spent, SpentError};
use crate::database::{Burnt, Pool};

const VERSION: u8 = 1;
const TAG_BYTES: usize = 32;
const TEES: [Tee; 4] = [Tee::Snp, Tee::Tdx, Tee::AzSnpVtpm, Tee::Sample];
const HASHES: [HashAlgorithm; 3] = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
/// What keeps this key's tags from meaning anything elsewhere.
const CONTEXT: &[u8] = b"coffer challenge 1";

/// The secret that replicas share. It is wiped when it is dropped.
pub struct ChallengeKey(Zeroizing<[u8; 32]>);

/// Gives out challenges and takes answers.
pub struct Challenger {
    /// The first one makes tags; all of them are accepted, so that a key can be replaced without refusing anybody.
    keys: Vec<ChallengeKey>,
    lifetime: u64,
    spent: Remembered,
}

/// Where those are that were answered.
enum Remembered {
    /// In memory: there is one verifier.
    Here(Mutex<Spent>),
    /// Where all replicas look.
    Shared(Arc<Pool>),
}

/// A challenge of ours that was answered in time and for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redeemed {
    /// The kind of evidence that was announced.
    pub tee: Tee,
    /// The hash that was agreed on.
    pub hash: HashAlgorithm,
}

/// Why no challenge is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The source of randomness.
    #[error("there is no randomness to make a nonce of")]
    Randomness,
    /// No key.
    #[error("there is no key to sign nonces with")]
    NoKey,
}

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Not made with a key of ours, or changed.
    #[error("the nonce was not given out here")]
    Foreign,
    /// Too late.
    #[error("the challenge expired at {expiry}, it is {at}")]
    Expired {
        /// From when on it was not good.
        expiry: UnixTime,
        /// Now.
        at: UnixTime,
    },
    /// Answered before, or too many were answered.
    #[error(transparent)]
    Spent(#[from] SpentError),
}

impl ChallengeKey {
    /// Takes 32 random bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    fn mac(&self, signed: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).ok()?;
        mac.update(CONTEXT);
        mac.update(signed);
        Some(mac)
    }
}

impl Challenger {
    /// `keys`: the current one first, then those that are still accepted. `lifetime` of a challenge in seconds.
    pub fn new(keys: Vec<ChallengeKey>, lifetime: u64, spent: Spent) -> Self {
        Self { keys, lifetime, spent: Remembered::Here(Mutex::new(spent)) }
    }

    /// The same for a verifier that has replicas: what is answered to one is answered to all.
    pub fn shared(keys: Vec<ChallengeKey>, lifetime: u64, replicas: Arc<Pool>) -> Self {
        Self { keys, lifetime, spent: Remembered::Shared(replicas) }
    }

    /// A name of each key, which says nothing about it.
    pub fn key_names(&self) -> Vec<String> {
        self.keys
            .iter()
            .filter_map(|key| key.mac(b"name"))
            .map(|mac| hex::encode(mac.finalize().into_bytes()))
            .collect()
    }

    /// Makes a challenge. Nothing is stored.
    ///
    /// # Errors
    /// [`IssueError`]
    pub fn issue(&self, request: &Request, now: UnixTime) -> Result<Challenge, IssueError> {
        let mut id: NonceId = [0; 16];
        getrandom::fill(&mut id).map_err(|_| IssueError::Randomness)?;
        let expiry = now.0.saturating_add(self.lifetime);
        let mut nonce = vec![VERSION, number_of(&TEES, request.tee), number_of(&HASHES, request.hash)];
        nonce.extend(expiry.to_be_bytes());
        nonce.extend(id);
        let mac = self.keys.first().and_then(|key| key.mac(&nonce)).ok_or(IssueError::NoKey)?;
        nonce.extend(mac.finalize().into_bytes());
        Ok(Challenge { nonce: Base64::encode_string(&nonce), hash: request.hash })
    }

    /// Takes a nonce back, once.
    ///
    /// # Errors
    /// [`ChallengeError`]
    pub fn redeem(&self, nonce: &str, now: UnixTime) -> Result<Redeemed, ChallengeError> {
        let bytes = Base64::decode_vec(nonce).map_err(|_| ChallengeError::Foreign)?;
        let (signed, tag) = bytes
            .len()
            .checked_sub(TAG_BYTES)
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or(ChallengeError::Foreign)?;
        let ours = |key: &ChallengeKey| key.mac(signed).is_some_and(|mac| mac.verify_slice(tag).is_ok());
        if !self.keys.iter().any(ours) {
            return Err(ChallengeError::Foreign);
        }
        let (redeemed, expiry, id) = read(signed).ok_or(ChallengeError::Foreign)?;
        if now >= expiry {
            return Err(ChallengeError::Expired { expiry, at: now });
        }
        match &self.spent {
            Remembered::Here(spent) => {
                // The list is whole even if a thread died with it: each change is one insertion.
                spent.lock().unwrap_or_else(PoisonError::into_inner).burn(id, expiry, now)?;
            }
            Remembered::Shared(replicas) => match replicas.burn(&id, expiry.0) {
                Ok(Burnt::Now) => {}
                Ok(Burnt::Before) => return Err(SpentError::Replayed.into()),
                Ok(Burnt::Late) => return Err(ChallengeError::Expired { expiry, at: now }),
                Ok(Burnt::Full) => return Err(SpentError::SharedFull.into()),
                Err(_) => return Err(SpentError::Unknown.into()),
            },
        }
        Ok(redeemed)
    }
}

fn number_of<T: PartialEq>(all: &[T], one: T) -> u8 {
    let position = all.iter().position(|known| *known == one);
    position.and_then(|position| u8::try_from(position).ok()).unwrap_or(u8::MAX)
}

fn read(signed: &[u8]) -> Option<(Redeemed, UnixTime, NonceId)> {
    let ([VERSION, tee, hash], rest) = signed.split_first_chunk()? else {
        return None;
    };
    let (expiry, id) = rest.split_first_chunk()?;
    let redeemed = Redeemed { tee: *TEES.get(usize::from(*tee))?, hash: *HASHES.get(usize::from(*hash))? };
    Some((redeemed, UnixTime(u64::from_be_bytes(*expiry)), id.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Request = Request { tee: Tee::Tdx, hash: HashAlgorithm::Sha512 };

    fn challenger(keys: &[u8]) -> Challenger {
        let keys = keys.iter().map(|byte| ChallengeKey::new([*byte; 32])).collect();
        Challenger::new(keys, 300, Spent::new(8))
    }

    fn nonce(of: &Challenger) -> String {
        of.issue(&ASKED, UnixTime(1000)).expect("a challenge").nonce
    }

    #[test]
    fn another_replica_takes_the_answer_and_knows_what_was_asked() {
        let nonce = nonce(&challenger(&[1]));
        let redeemed = challenger(&[1]).redeem(&nonce, UnixTime(1299));
        assert_eq!(redeemed, Ok(Redeemed { tee: Tee::Tdx, hash: HashAlgorithm::Sha512 }));
    }

    #[test]
    fn a_challenge_ends_on_its_second() {
        let one = challenger(&[1]);
        let late = one.redeem(&nonce(&one), UnixTime(1300));
        assert_eq!(late, Err(ChallengeError::Expired { expiry: UnixTime(1300), at: UnixTime(1300) }));
    }

    #[test]
    fn an_answer_is_taken_once() {
        let one = challenger(&[1]);
        let nonce = nonce(&one);
        assert!(one.redeem(&nonce, UnixTime(1001)).is_ok());
        assert_eq!(one.redeem(&nonce, UnixTime(1001)), Err(SpentError::Replayed.into()));
    }

    #[test]
    fn any_changed_bit_makes_a_nonce_foreign() {
        let one = challenger(&[1]);
        let bytes = Base64::decode_vec(&nonce(&one)).expect("base64");
        let changed = (0..bytes.len() * 8).map(|bit| {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            one.redeem(&Base64::encode_string(&changed), UnixTime(1001))
        });
        let refused = changed.filter(|result| *result == Err(ChallengeError::Foreign)).count();
        assert_eq!(refused, 59 * 8);
    }

    #[test]
    fn a_replaced_key_is_accepted_until_it_is_dropped() {
        let old = nonce(&challenger(&[1]));
        assert!(challenger(&[2, 1]).redeem(&old, UnixTime(1001)).is_ok());
        assert_eq!(challenger(&[2]).redeem(&old, UnixTime(1001)), Err(ChallengeError::Foreign));
    }

    #[test]
    fn what_is_no_nonce_at_all_is_foreign() {
        let one = challenger(&[1]);
        assert_eq!(one.redeem("", UnixTime(0)), Err(ChallengeError::Foreign));
        assert_eq!(one.redeem("AAAA", UnixTime(0)), Err(ChallengeError::Foreign));
    }

    #[test]
    fn without_a_key_there_is_no_challenge_and_no_answer() {
        let none = challenger(&[]);
        assert_eq!(none.issue(&ASKED, UnixTime(0)), Err(IssueError::NoKey));
        assert_eq!(none.redeem(&nonce(&challenger(&[1])), UnixTime(1001)), Err(ChallengeError::Foreign));
    }
}
