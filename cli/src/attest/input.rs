//! Files and values of the command line, read and bounded; an error names the file, what it should be and what to do.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use coffer_attestation::x509::{Certificate, RevocationList};

/// The most that is read of any file, in bytes.
const MOST: u64 = 8 << 20;

/// Reads a file whole.
pub(crate) fn file(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    let whole = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = whole().with_context(|| format!("reading {what} from {}", path.display()))?;
    let short = u64::try_from(bytes.len()).is_ok_and(|length| length <= MOST);
    ensure!(short, "{} is larger than {MOST} bytes: it cannot be {what}", path.display());
    Ok(bytes)
}

/// Reads one certificate, PEM or DER.
pub(crate) fn certificate(path: &Path, what: &str) -> anyhow::Result<Certificate> {
    let mut all = certificates(path, what)?;
    match (all.pop(), all.len()) {
        (Some(one), 0) => Ok(one),
        (_, others) => {
            bail!("{} has {} certificates: give a file with {what} alone", path.display(), others + 1)
        }
    }
}

/// Reads one or several certificates.
pub(crate) fn certificates(path: &Path, what: &str) -> anyhow::Result<Vec<Certificate>> {
    let bytes = file(path, what)?;
    Certificate::from_file(&bytes)
        .with_context(|| format!("{} should be {what}: give a certificate in PEM or DER", path.display()))
}

/// Reads a revocation list, PEM or DER.
pub(crate) fn revocation_list(path: &Path) -> anyhow::Result<RevocationList> {
    let bytes = file(path, "a revocation list")?;
    RevocationList::from_file(&bytes)
        .with_context(|| format!("{} should be a revocation list: give one in PEM or DER", path.display()))
}

/// Takes exactly `N` bytes in hexadecimal: nothing is padded or cut to fit.
pub(crate) fn hex_bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = hex::decode(text).map_err(|err| format!("it is not hexadecimal: {err}"))?;
    let found = bytes.len();
    bytes.try_into().map_err(|_| format!("it has {found} bytes, {N} are needed: nothing is padded or cut"))
}

/// Takes a number in hexadecimal, with `0x` before it or without, as verdicts write one.
pub(crate) fn hex_u64(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("it is not hexadecimal".to_owned());
    }
    u64::from_str_radix(digits, 16).map_err(|err| format!("it is no number of 64 bits: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_too_short_is_not_padded() {
        assert_eq!(
            hex_bytes::<4>("aabbcc"),
            Err("it has 3 bytes, 4 are needed: nothing is padded or cut".to_owned())
        );
    }

    #[test]
    fn a_number_is_read_as_a_verdict_writes_it() {
        assert_eq!((hex_u64("0x642e7"), hex_u64("10000000")), (Ok(0x642e7), Ok(0x1000_0000)));
        assert!(hex_u64("+1").is_err() && hex_u64("").is_err() && hex_u64("10000000000000000").is_err());
    }

    #[test]
    fn a_value_is_read_in_either_case() {
        assert_eq!(hex_bytes::<2>("aBcD"), Ok([0xab, 0xcd]));
    }
}
