//! A TPM's quote (TPM 2.0 Library, part 2: TPMS_ATTEST with TPMS_QUOTE_INFO), big endian.
//!
//! ```text
//! ff544347 | 8018 | signer: u16 size, bytes | extra data: u16 size, bytes | clock u64, resets u32, restarts u32, safe u8
//! firmware u64 | selections u32 = 1 | hash u16 = 000b (SHA-256) | u8 = 3, bitmap[3] | digest: u16 size, bytes
//! ```

use sha2::{Digest, Sha256};

/// How many PCRs a TPM of a PC has.
pub const PCR_COUNT: usize = 24;

const MAGIC: [u8; 4] = [0xff, b'T', b'C', b'G'];
const QUOTE: [u8; 2] = [0x80, 0x18];
const ONE_SELECTION: [u8; 4] = [0, 0, 0, 1];
const SHA256: [u8; 2] = [0x00, 0x0b];

/// A quote as evidence carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmQuote {
    /// RSASSA-PKCS1-v1_5 with SHA-256 over the message.
    pub signature: Vec<u8>,
    /// What the TPM signed.
    pub message: Vec<u8>,
    /// PCR values of the SHA-256 bank, from PCR 0 on.
    pub pcrs: Vec<[u8; 32]>,
}

/// What a quote's message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// What the TPM was asked to sign in: the challenge.
    pub extra_data: Vec<u8>,
    /// Which PCRs were quoted, by number.
    pub selection: Vec<usize>,
    /// SHA-256 of the selected PCRs' values, one behind the other.
    pub pcr_digest: Vec<u8>,
    /// How often the TPM was reset.
    pub resets: u32,
    /// How often it was restarted or resumed since.
    pub restarts: u32,
    /// Its firmware.
    pub firmware: u64,
}

/// Why a message is no quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Not made by a TPM.
    #[error("the message does not begin as what a TPM signs does")]
    Magic,
    /// Another attestation than a quote.
    #[error("the message is a TPM attestation of another kind than a quote")]
    Kind,
    /// Too short for its own parts.
    #[error("the message ends inside {field}")]
    Short {
        /// The part.
        field: &'static str,
    },
    /// Something behind the digest.
    #[error("{count} bytes follow the quote")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// Several banks, or another one than SHA-256, or other than 24 PCRs.
    #[error("the quote selects PCRs otherwise than from the SHA-256 bank alone, 24 of them at most")]
    Selection,
}

impl Quote {
    /// Parses a message. Bytes behind it are refused.
    pub fn parse(message: &[u8]) -> Result<Self, QuoteError> {
        let mut rest = Rest(message);
        if rest.take("the magic")? != MAGIC {
            return Err(QuoteError::Magic);
        }
        if rest.take("the kind")? != QUOTE {
            return Err(QuoteError::Kind);
        }
        rest.sized("the signer")?;
        let extra_data = rest.sized("the extra data")?.to_vec();
        rest.take::<8>("the clock")?;
        let resets = u32::from_be_bytes(rest.take("the resets")?);
        let restarts = u32::from_be_bytes(rest.take("the restarts")?);
        rest.take::<1>("the clock's state")?;
        let firmware = u64::from_be_bytes(rest.take("the firmware")?);
        let selection = rest.selection()?;
        let pcr_digest = rest.sized("the digest")?.to_vec();
        match rest.0.len() {
            0 => Ok(Self { extra_data, selection, pcr_digest, resets, restarts, firmware }),
            count => Err(QuoteError::Trailing { count }),
        }
    }

    /// SHA-256 over those of `pcrs` that were selected; `None` if one of them is not there.
    pub fn digest_of(&self, pcrs: &[[u8; 32]]) -> Option<[u8; 32]> {
        let mut digest = Sha256::new();
        for number in &self.selection {
            digest.update(pcrs.get(*number)?);
        }
        Some(digest.finalize().into())
    }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], QuoteError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(QuoteError::Short { field })?;
        self.0 = rest;
        Ok(*taken)
    }

    fn sized(&mut self, field: &'static str) -> Result<&'a [u8], QuoteError> {
        let length = usize::from(u16::from_be_bytes(self.take(field)?));
        let (taken, rest) = self.0.split_at_checked(length).ok_or(QuoteError::Short { field })?;
        self.0 = rest;
        Ok(taken)
    }

    fn selection(&mut self) -> Result<Vec<usize>, QuoteError> {
        let count: [u8; 4] = self.take("the selection")?;
        let hash: [u8; 2] = self.take("the selection")?;
        let [size]: [u8; 1] = self.take("the selection")?;
        if (count, hash, size) != (ONE_SELECTION, SHA256, 3) {
            return Err(QuoteError::Selection);
        }
        let bitmap: [u8; 3] = self.take("the selection")?;
        let chosen =
            |number: &usize| bitmap.get(number / 8).is_some_and(|byte| byte & (1 << (number % 8)) != 0);
        Ok((0..PCR_COUNT).filter(chosen).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Vec<u8> {
        let parts: [&[u8]; 9] = [
            &MAGIC,
            &QUOTE,
            &[0, 1, 0xaa],
            &[0, 2, 0xbb, 0xcc],
            &[0; 25],
            &ONE_SELECTION,
            &SHA256,
            &[3, 0x01, 0x01, 0x00],
            &[0, 1, 0xdd],
        ];
        parts.concat()
    }

    #[test]
    fn a_selection_is_read_bit_by_bit() {
        assert_eq!(Quote::parse(&message()).map(|quote| quote.selection), Ok(vec![0, 8]));
    }

    #[test]
    fn the_extra_data_is_the_challenge() {
        assert_eq!(Quote::parse(&message()).map(|quote| quote.extra_data), Ok(vec![0xbb, 0xcc]));
    }

    #[test]
    fn every_truncation_is_refused() {
        let message = message();
        let read = (0..message.len()).filter(|length| Quote::parse(&message[..*length]).is_ok()).count();
        assert_eq!(read, 0);
    }

    #[test]
    fn a_byte_too_many_is_refused() {
        let mut message = message();
        message.push(0);
        assert_eq!(Quote::parse(&message), Err(QuoteError::Trailing { count: 1 }));
    }

    #[test]
    fn a_certification_is_no_quote() {
        let mut message = message();
        message[5] = 0x17;
        assert_eq!(Quote::parse(&message), Err(QuoteError::Kind));
    }

    #[test]
    fn the_sha1_bank_is_refused() {
        let mut message = message();
        let at = message.windows(2).position(|window| window == SHA256).expect("the bank");
        message[at + 1] = 0x04;
        assert_eq!(Quote::parse(&message), Err(QuoteError::Selection));
    }

    #[test]
    fn a_selected_pcr_that_is_not_given_has_no_digest() {
        let quote = Quote::parse(&message()).expect("a quote");
        assert_eq!(quote.digest_of(&[[0; 32]; 8]), None);
    }
}
