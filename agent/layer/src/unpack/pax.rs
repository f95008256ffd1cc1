//! Records of a POSIX extended header: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.

use super::error::ArchiveFault;

/// What an extended header says of the entry after it. Of a key that is there twice the last counts; keys that nobody here knows
/// are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: Option<(i64, u32)>,
    /// Names and values of extended attributes; a later one of the same name is set over the earlier.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// What is said of a sparse file, in GNU's three versions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// 1.0 if set: the places of pieces are in the entry's data.
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    /// The file's name: `path` is then one that older readers can do something with.
    pub(super) name: Option<Vec<u8>>,
    /// The file's size, in 0.0 and 0.1 (`size`) or 1.0 (`realsize`).
    pub(super) size: Option<u64>,
    /// Offsets and lengths in turn, of 0.0 and 0.1.
    pub(super) places: Vec<u64>,
}

impl Extended {
    /// Reads all records.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, ArchiveFault> {
        let mut extended = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(ArchiveFault::Extension)?;
            extended.take(key, value)?;
            bytes = rest;
        }
        Ok(extended)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveFault> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return self.xattr(name, value);
        }
        let text = || if value.contains(&0) { Err(ArchiveFault::Extension) } else { Ok(value.to_vec()) };
        let said = !value.is_empty();
        match key {
            // An empty value takes an earlier one back.
            b"path" => self.path = said.then(text).transpose()?,
            b"linkpath" => self.link = said.then(text).transpose()?,
            b"size" => self.size = said.then(|| decimal(value, "a size")).transpose()?,
            b"uid" => self.uid = said.then(|| small(value, "an owner")).transpose()?,
            b"gid" => self.gid = said.then(|| small(value, "a group")).transpose()?,
            b"mtime" => self.mtime = said.then(|| time(value)).transpose()?,
            b"GNU.sparse.name" => self.sparse.name = Some(text()?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value, "a version")?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value, "a version")?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = Some(decimal(value, "a sparse file's size")?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.place(key, value)?,
            b"GNU.sparse.map" => {
                let places = value.split(|byte| *byte == b',').map(|place| decimal(place, "a piece's place"));
                self.sparse.places = places.collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn place(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveFault> {
        let second = key.ends_with(b"numbytes");
        if second == self.sparse.places.len().is_multiple_of(2) {
            return Err(ArchiveFault::Sparse);
        }
        self.sparse.places.push(decimal(value, "a piece's place")?);
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), ArchiveFault> {
        if name.is_empty() || name.contains(&0) {
            return Err(ArchiveFault::Extension);
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl Sparse {
    /// Whether anything is said of one.
    pub(super) fn is_said(&self) -> bool {
        *self != Self::default()
    }
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// The first record's key and value, and what follows it.
fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let blank = bytes.iter().take(12).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..blank)?, "").ok()?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let said = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = said.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((said.get(..equals)?, said.get(equals + 1..)?, rest))
}

/// A decimal number without sign.
pub(super) fn decimal(digits: &[u8], field: &'static str) -> Result<u64, ArchiveFault> {
    let number = digits.iter().try_fold(0u64, |sum, digit| match digit {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    });
    number.filter(|_| !digits.is_empty()).ok_or(ArchiveFault::Number { field })
}

fn small(digits: &[u8], field: &'static str) -> Result<u32, ArchiveFault> {
    u32::try_from(decimal(digits, field)?).map_err(|_| ArchiveFault::Number { field })
}

/// `SECONDS[.FRACTION]`; times before the epoch become it.
fn time(text: &[u8]) -> Result<(i64, u32), ArchiveFault> {
    const FIELD: &str = "a time";
    let (digits, negative) = text.strip_prefix(b"-").map_or((text, false), |digits| (digits, true));
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = decimal(parts.next().unwrap_or_default(), FIELD)?;
    let fraction = parts.next().unwrap_or_default();
    let mut nanoseconds: u32 = 0;
    for at in 0..9 {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit.wrapping_sub(b'0').min(9));
    }
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(ArchiveFault::Number { field: FIELD });
    }
    let seconds = i64::try_from(seconds).map_err(|_| ArchiveFault::Number { field: FIELD })?;
    Ok(if negative { (0, 0) } else { (seconds, nanoseconds) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(key: &[u8], value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
    }

    #[test]
    fn records_are_cut_by_their_length_and_not_by_their_lines() {
        let value = b"\x01\n17 path=evil\n\x00=";
        let extended = Extended::parse(&written(b"SCHILY.xattr.security.capability", value)).unwrap();
        assert_eq!(extended.xattrs, [(b"security.capability".to_vec(), value.to_vec())]);
        assert_eq!(extended.path, None);
    }

    #[test]
    fn the_last_of_two_counts_and_an_empty_one_takes_back() {
        let twice =
            [written(b"path", b"a"), written(b"path", b"b"), written(b"uid", b"7"), written(b"uid", b"")];
        let extended = Extended::parse(&twice.concat()).unwrap();
        assert_eq!((extended.path, extended.uid), (Some(b"b".to_vec()), None));
    }

    #[test]
    fn times_have_fractions() {
        let extended = Extended::parse(&written(b"mtime", b"1350244992.023960108")).unwrap();
        assert_eq!(extended.mtime, Some((1_350_244_992, 23_960_108)));
        assert_eq!(Extended::parse(&written(b"mtime", b"-5.5")).unwrap().mtime, Some((0, 0)));
        assert_eq!(Extended::parse(&written(b"mtime", b"5.5")).unwrap().mtime, Some((5, 500_000_000)));
    }

    #[test]
    fn malformed_records_are_refused() {
        let odd: [&[u8]; 9] =
            [b"4 a=\n", b"7 a=bc", b"x a=b\n", b"6 a=b\n6 a=", b"5 abc", b"5 =b\n", b"99 a=b\n", b" ", b"0 "];
        assert!(odd.iter().all(|odd| Extended::parse(odd) == Err(ArchiveFault::Extension)));
    }

    #[test]
    fn a_path_with_a_zero_byte_is_refused() {
        assert_eq!(Extended::parse(&written(b"path", b"a\0b")), Err(ArchiveFault::Extension));
    }

    #[test]
    fn owners_beyond_32_bits_are_refused() {
        let refused = Extended::parse(&written(b"uid", b"4294967296"));
        assert_eq!(refused, Err(ArchiveFault::Number { field: "an owner" }));
    }

    proptest! {
        #[test]
        fn whatever_value_is_written_is_read(value in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let bytes = [written(b"SCHILY.xattr.user.a", &value), written(b"path", b"p")].concat();
            let extended = Extended::parse(&bytes).unwrap();
            prop_assert_eq!(extended.xattrs, [(b"user.a".to_vec(), value)]);
            prop_assert_eq!(extended.path, Some(b"p".to_vec()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Extended::parse(&bytes));
        }
    }
}
