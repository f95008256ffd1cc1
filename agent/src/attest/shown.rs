//! The images that the guest shows with its evidence: all that it has admitted since it began.
//!
//! ```text
//! AdmitImage ── note ── a new image: what was given to the guest as it was before counts no more
//!                         tokens: the next question attests anew      (session)
//!                         secrets: each is asked for again            (held, Attested::confirm)
//! ```
//! None is ever taken out: what has run may have left something behind.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coffer_attestation::handshake::{ImageRecord, Images, ImagesError};
use zeroize::Zeroizing;

/// What was admitted; nothing of it is shown by a guest that judges no images by what its processor vouches for.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    images: Images,
    /// How often they became other ones.
    changes: u64,
    judges: bool,
}

/// A secret, as it was given to the guest when it had shown its images of then.
#[derive(Clone)]
pub(crate) struct Fetched {
    pub(crate) value: Zeroizing<Vec<u8>>,
    /// Of [`Shown::changes`].
    pub(crate) changes: u64,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("changes", &self.changes).finish_non_exhaustive()
    }
}

impl Shown {
    /// Adds an image that is about to be let run. Answers whether it is a new one.
    ///
    /// # Errors
    /// When no more can be shown.
    pub(crate) fn note(&self, record: ImageRecord) -> Result<bool, ImagesError> {
        let mut state = self.state();
        let images = state.images.with(record)?;
        let new = images != state.images;
        if new {
            state.images = images;
            state.changes = state.changes.wrapping_add(1);
        }
        Ok(new)
    }

    /// From now on they are shown, also while there are none.
    pub(super) fn begin(&self) {
        self.state().judges = true;
    }

    /// How often the images became other ones.
    pub(crate) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// The same, and further evidence of the images that there are.
    pub(super) fn evidence(&self) -> (u64, String) {
        let state = self.state();
        let evidence = if state.judges { state.images.to_json() } else { String::new() };
        (state.changes, evidence)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is noted of an image that nobody signed.
#[cfg(test)]
pub(crate) fn sample_record(image: &str) -> ImageRecord {
    ImageRecord {
        image: image.to_owned(),
        digest: format!("sha256:{}", "0a".repeat(32)),
        rule: "/default/0".to_owned(),
        signers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_change_once_and_stays() {
        let shown = Shown::default();
        shown.begin();
        assert_eq!(shown.evidence(), (0, r#"{"dev.coffer.images.v1":[]}"#.to_owned()));
        assert!(shown.note(sample_record("b")).unwrap() && shown.note(sample_record("a")).unwrap());
        assert!(!shown.note(sample_record("b")).unwrap());
        let (changes, evidence) = shown.evidence();
        let read = Images::parse(&evidence).unwrap();
        let names: Vec<&str> = read.records().iter().map(|record| record.image.as_str()).collect();
        assert_eq!((changes, names), (2, vec!["a", "b"]));
    }

    #[test]
    fn a_guest_that_judges_no_images_shows_none() {
        let shown = Shown::default();
        shown.note(sample_record("a")).unwrap();
        assert_eq!(shown.evidence(), (1, String::new()));
    }

    #[test]
    fn an_image_that_cannot_be_shown_beside_the_others_is_refused_and_changes_nothing() {
        let shown = Shown::default();
        let refused = (0..300).find_map(|number| shown.note(sample_record(&format!("{number:03}"))).err());
        assert!(refused.is_some());
        let (changes, _) = shown.evidence();
        assert!(shown.note(sample_record("000")).is_ok() && shown.changes() == changes);
    }
}
