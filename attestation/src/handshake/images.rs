//! Further evidence of a guest that judges images: which ones it has admitted since it began, and who signed them.
//!
//! ```text
//! {"dev.coffer.images.v1":[{"image":"r.example.com/app:1","digest":"sha256:…","rule":"/default/0","signers":["…"]},…]}
//! ```
//! Records are in ascending order, none twice, so that one state has one text. What is not exactly of this form is refused.

use serde::{Deserialize, Serialize};

use super::strict::{JsonError, Limits, read};
use crate::verdict::printable;

/// The most images.
pub const MAX_IMAGES: usize = 256;
/// The longest text, in bytes: a token carries it twice, and is carried in a header.
pub const MAX_IMAGES_BYTES: usize = 16 << 10;
/// The longest name of a signer, in bytes.
pub const MAX_SIGNER_BYTES: usize = 512;
/// The most signers of one image.
const MAX_SIGNERS: usize = 64;
/// The longest name of an image and of a rule, in bytes.
const MAX_NAME: usize = 512;
const MAX_RULE: usize = 1024;
const DIGEST: &str = "sha256:";

const LIMITS: Limits = Limits { bytes: MAX_IMAGES_BYTES, depth: 5 };

/// One image that was admitted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The name that was asked for.
    pub image: String,
    /// Of its manifest: `sha256:` and 64 lower-case digits.
    pub digest: String,
    /// What of the guest's policy decided, as a JSON pointer.
    pub rule: String,
    /// Who signed, as the guest's policy made it out; nobody where that takes anything.
    pub signers: Vec<String>,
}

/// Every image that a guest has admitted. Only [`Images::parse`] and [`Images::with`] make one that has any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<ImageRecord>", into = "Vec<ImageRecord>")]
pub struct Images(Vec<ImageRecord>);

/// Why records of images are refused.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// Not JSON of this form.
    #[error("these are no records of images")]
    Json(#[from] JsonError),
    /// Too many.
    #[error("there are records of {found} images, at most {MAX_IMAGES} may be")]
    Count {
        /// How many.
        found: usize,
    },
    /// Too much.
    #[error("the records of {images} images have {found} bytes, at most {MAX_IMAGES_BYTES} may be")]
    TooLong {
        /// How many images they are of.
        images: usize,
        /// Their length in JSON.
        found: usize,
    },
    /// A record that cannot be one.
    #[error("{member} of record {place} is empty, too long, or has characters that it may not have")]
    Record {
        /// Counted from 0.
        place: usize,
        /// Which member.
        member: &'static str,
    },
    /// Not in the one order.
    #[error("record {place} is not behind the one before it in order, or is there twice")]
    Order {
        /// Counted from 0.
        place: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "dev.coffer.images.v1")]
    images: Vec<ImageRecord>,
}

impl Images {
    /// Reads what a guest sent.
    ///
    /// # Errors
    /// [`ImagesError`]
    pub fn parse(text: &str) -> Result<Self, ImagesError> {
        let document: Document = read(text.as_bytes(), LIMITS)?;
        Self::try_from(document.images)
    }

    /// These and one more. One that is among them changes nothing.
    ///
    /// # Errors
    /// [`ImagesError`], if they would be more than may be shown.
    pub fn with(&self, record: ImageRecord) -> Result<Self, ImagesError> {
        let Err(place) = self.0.binary_search(&record) else { return Ok(self.clone()) };
        let mut records = self.0.clone();
        records.insert(place, record);
        Self::try_from(records)
    }

    /// As a guest sends them: the same bytes for the same images.
    pub fn to_json(&self) -> String {
        // Plain data: it has a JSON form.
        serde_json::to_string(&Document { images: self.0.clone() }).unwrap_or_default()
    }

    /// In ascending order.
    pub fn records(&self) -> &[ImageRecord] {
        &self.0
    }

    /// The first image that none of `signers` signed.
    pub fn first_not_signed_by(&self, signers: &[String]) -> Option<&ImageRecord> {
        self.0.iter().find(|record| !record.signers.iter().any(|signer| signers.contains(signer)))
    }
}

impl TryFrom<Vec<ImageRecord>> for Images {
    type Error = ImagesError;

    fn try_from(records: Vec<ImageRecord>) -> Result<Self, ImagesError> {
        if records.len() > MAX_IMAGES {
            return Err(ImagesError::Count { found: records.len() });
        }
        for (place, record) in records.iter().enumerate() {
            record.check(place)?;
        }
        let unordered = records.windows(2).position(|pair| !pair.is_sorted_by(|one, next| one < next));
        if let Some(place) = unordered {
            return Err(ImagesError::Order { place: place + 1 });
        }
        let images = Self(records);
        let found = images.to_json().len();
        if found > MAX_IMAGES_BYTES {
            return Err(ImagesError::TooLong { images: images.0.len(), found });
        }
        Ok(images)
    }
}

impl From<Images> for Vec<ImageRecord> {
    fn from(images: Images) -> Self {
        images.0
    }
}

impl ImageRecord {
    fn check(&self, place: usize) -> Result<(), ImagesError> {
        let sound = |text: &str, most| (1..=most).contains(&text.len()) && printable(text) == text;
        let digits = self.digest.strip_prefix(DIGEST).unwrap_or_default();
        let digest =
            digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let signers = self.signers.len() <= MAX_SIGNERS
            && self.signers.iter().all(|signer| sound(signer, MAX_SIGNER_BYTES));
        let members = [
            ("image", sound(&self.image, MAX_NAME)),
            ("digest", digest),
            ("rule", sound(&self.rule, MAX_RULE)),
            ("signers", signers),
        ];
        match members.into_iter().find(|(_, holds)| !holds) {
            Some((member, _)) => Err(ImagesError::Record { place, member }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(image: &str, signers: &[&str]) -> ImageRecord {
        ImageRecord {
            image: image.to_owned(),
            digest: format!("sha256:{}", "0a".repeat(32)),
            rule: "/default/0".to_owned(),
            signers: signers.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn images(records: &[ImageRecord]) -> Images {
        records.iter().fold(Images::default(), |all, one| all.with(one.clone()).expect("a record"))
    }

    fn refused(text: &str) -> String {
        let error = Images::parse(text).expect_err("refused");
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    }

    #[test]
    fn the_same_images_have_one_text_however_they_came() {
        let (a, b) = (record("a", &["one"]), record("b", &[]));
        let forth = images(&[a.clone(), b.clone(), a.clone()]);
        assert_eq!(forth, images(&[b, a]));
        assert_eq!(Images::parse(&forth.to_json()).expect("records"), forth);
        assert_eq!(forth.records().len(), 2);
        assert_eq!(Images::default().to_json(), r#"{"dev.coffer.images.v1":[]}"#);
    }

    #[test]
    fn an_image_is_found_that_none_of_the_wanted_signed() {
        let all = images(&[record("a", &["one", "two"]), record("b", &["two"]), record("c", &["one"])]);
        let first = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            all.first_not_signed_by(&names).map(|found| found.image.as_str())
        };
        assert_eq!([first(&["one"]), first(&["two"]), first(&["one", "two"])], [Some("b"), Some("c"), None]);
        assert_eq!(first(&[]), Some("a"));
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        let good = images(&[record("a", &["one"])]).to_json();
        assert!(refused("{\"nvidia\":{}}").contains("unknown field"));
        assert!(refused("").contains("no records of images"));
        assert!(refused(&good.replace("\"rule\"", "\"more\":1,\"rule\"")).contains("unknown field `more`"));
        assert!(refused(&good.replace("\"rule\"", "\"image\":\"b\",\"rule\"")).contains("twice"));
        assert!(refused(&good.replace("\"/default/0\"", "7")).contains("string"));
        assert!(refused(&good.replace("0a0a", "0A0a")).contains("digest of record 0"));
        assert!(refused(&good.replace("sha256:", "sha512:")).contains("digest of record 0"));
        assert!(refused(&good.replace("\"a\"", "\"\"")).contains("image of record 0"));
        assert!(refused(&good.replace("one", "\\u001b[2K")).contains("signers of record 0"));
        assert!(refused(&good.replace("one", &"x".repeat(513))).contains("signers of record 0"));
    }

    #[test]
    fn records_out_of_order_or_twice_are_refused() {
        let (a, b) = (record("a", &[]), record("b", &[]));
        let text = |records: Vec<ImageRecord>| {
            serde_json::to_string(&Document { images: records }).expect("plain data")
        };
        assert!(refused(&text(vec![b.clone(), a.clone()])).contains("record 1"));
        assert!(refused(&text(vec![a.clone(), a.clone()])).contains("record 1"));
        assert!(Images::parse(&text(vec![a, b])).is_ok());
    }

    #[test]
    fn more_images_or_bytes_than_may_be_are_refused() {
        let many = (0..=MAX_IMAGES).map(|number| record(&format!("{number:03}"), &[]));
        let error = Images::try_from(many.collect::<Vec<_>>()).expect_err("refused");
        assert!(matches!(error, ImagesError::Count { found: 257 }));
        let long = (0..20).map(|number| record(&format!("{number:03}"), &["x".repeat(500).as_str(); 2]));
        let error = Images::try_from(long.collect::<Vec<_>>()).expect_err("refused");
        assert!(matches!(error, ImagesError::TooLong { images: 20, .. }));
        assert!(refused(&" ".repeat(MAX_IMAGES_BYTES + 1)).contains("at most 16384 are read"));
    }
}
