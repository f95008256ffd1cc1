//! One header of a tar archive: 512 bytes, in the forms of POSIX, GNU, star and before them all.

use super::error::ArchiveFault;

/// Bytes of a header, and what everything in an archive is padded to.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
pub(super) struct Header {
    bytes: [u8; BLOCK],
}

/// Who wrote a header, as far as its fields differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Old,
    Posix,
    Star,
    Gnu,
}

/// Which bytes of a header a number is in, and what it is called in an error.
pub(super) struct Field(usize, usize, &'static str);

pub(super) const MODE: Field = Field(100, 8, "a mode");
pub(super) const UID: Field = Field(108, 8, "an owner");
pub(super) const GID: Field = Field(116, 8, "a group");
pub(super) const SIZE: Field = Field(124, 12, "a size");
pub(super) const MTIME: Field = Field(136, 12, "a time");
const CHECKSUM: Field = Field(148, 8, "a checksum");
const MAJOR: Field = Field(329, 8, "a device's major number");
const MINOR: Field = Field(337, 8, "a device's minor number");
const REAL_SIZE: Field = Field(483, 12, "a sparse file's size");

impl Header {
    /// Checks the checksum.
    pub(super) fn new(bytes: [u8; BLOCK]) -> Result<Self, ArchiveFault> {
        let header = Self { bytes };
        let without = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let field = || bytes.iter().enumerate().map(|(at, byte)| without(at, *byte));
        // Some old programs took bytes for signed ones.
        let sum: i64 = field().map(i64::from).sum();
        let signed: i64 = field().map(|byte| i64::from(byte.cast_signed())).sum();
        let said = header.number(&CHECKSUM).map_err(|_| ArchiveFault::Checksum)?;
        if said == sum || said == signed { Ok(header) } else { Err(ArchiveFault::Checksum) }
    }

    /// The type's byte.
    pub(super) fn flag(&self) -> u8 {
        self.bytes.get(156).copied().unwrap_or_default()
    }

    /// The name, with its prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = match self.form() {
            Form::Posix => self.text(345, 155),
            Form::Star => self.text(345, 131),
            Form::Old | Form::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// What a link points to.
    pub(super) fn link(&self) -> &[u8] {
        self.text(157, 100)
    }

    /// Major and minor number.
    pub(super) fn device(&self) -> Result<(u32, u32), ArchiveFault> {
        if self.form() == Form::Old {
            return Ok((0, 0));
        }
        Ok((self.small(&MAJOR)?, self.small(&MINOR)?))
    }

    /// A number that cannot be negative.
    pub(super) fn size(&self, field: &Field) -> Result<u64, ArchiveFault> {
        u64::try_from(self.number(field)?).map_err(|_| ArchiveFault::Number { field: field.2 })
    }

    /// A number of 32 bits.
    pub(super) fn small(&self, field: &Field) -> Result<u32, ArchiveFault> {
        u32::try_from(self.number(field)?).map_err(|_| ArchiveFault::Number { field: field.2 })
    }

    /// A number.
    pub(super) fn number(&self, field: &Field) -> Result<i64, ArchiveFault> {
        number(self.part(field.0, field.1)).ok_or(ArchiveFault::Number { field: field.2 })
    }

    /// Places of a sparse file's first four pieces, whether more follow in blocks of their own, and the file's size.
    pub(super) fn sparse(&self) -> Result<(&[u8], bool, u64), ArchiveFault> {
        if self.form() != Form::Gnu {
            return Err(ArchiveFault::Sparse);
        }
        Ok((self.part(386, 96), self.bytes.get(482) != Some(&0), self.size(&REAL_SIZE)?))
    }

    fn form(&self) -> Form {
        match (self.part(257, 8), self.part(508, 4)) {
            (b"ustar  \0", _) => Form::Gnu,
            (b"ustar\x0000", b"tar\0") => Form::Star,
            (magic, _) if magic.starts_with(b"ustar\0") => Form::Posix,
            _ => Form::Old,
        }
    }

    fn text(&self, from: usize, length: usize) -> &[u8] {
        let field = self.part(from, length);
        field.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn part(&self, from: usize, length: usize) -> &[u8] {
        self.bytes.get(from..from + length).unwrap_or_default()
    }
}

/// A number as tar writes it: octal digits, or from a set first bit on binary, the highest byte first.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return binary(field, first);
    }
    let text = field.split(|byte| *byte == 0).find(|part| !part.is_empty()).unwrap_or_default();
    let digits = text.trim_ascii();
    digits.iter().try_fold(0i64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn binary(field: &[u8], first: u8) -> Option<i64> {
    // The second bit is the sign; the first says only that the number is binary.
    let start = if first & 0x40 == 0 { i128::from(first & 0x3f) } else { i128::from(first | 0x80) - 256 };
    let sum = field
        .iter()
        .skip(1)
        .try_fold(start, |sum, byte| sum.checked_mul(256)?.checked_add(i128::from(*byte)));
    sum.and_then(|sum| i64::try_from(sum).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_with_blanks_around() {
        let fields: [&[u8]; 5] = [b"0000644\0", b" 644 \0\0\0", b"00000000644 ", b"\0\0\0\0", b"77777777"];
        assert_eq!(fields.map(number), [Some(0o644), Some(0o644), Some(0o644), Some(0), Some(0o77_777_777)]);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let fields: [&[u8]; 4] = [b"0000648\0", b"-644\0", b"6 4\0", b""];
        assert_eq!(fields.map(number), [None; 4]);
    }

    #[test]
    fn large_and_negative_numbers_are_binary() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), Some(1 << 32));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
    }

    #[test]
    fn a_binary_number_of_more_than_63_bits_is_refused() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(number(&[0xbf; 12]), None);
    }
}
