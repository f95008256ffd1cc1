//! Which way an image's bytes go to the guest: decided before the machine boots, and again when the guest has answered.
//!
//! | image | guest's answer | way |
//! |---|---|---|
//! | sealed | no policy, dry run, sealed | its own files as disks |
//! | plain | no policy, dry run | disks made of containerd's snapshots, as everywhere |
//! | plain | sealed | refused: nobody has such files |
//! | either | blobs wanted | they are streamed, and there is no disk |
//! | encrypted | no policy, dry run | refused: the node's snapshots of it hold placeholders |
//!
//! On a node where no guest is asked nothing here is: there `coffer_node::layers` refuses snapshots that are placeholders.
//!
//! Never here: asking anybody.

use coffer_image::artefact::Digest;
use coffer_protocol::agent::AdmitImageResponse;

use super::ImageError;
use super::said::Said;

/// The disks that a container which is a pod of its own may be booted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    /// Those made of containerd's snapshots.
    Snapshots,
    /// The files of a sealed image.
    Sealed,
    /// None: the guest is asked first.
    Nothing,
}

/// How a container's root file system comes to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// As disks made of containerd's snapshots.
    Snapshots,
    /// As the files of a sealed image.
    Sealed,
    /// As these blobs.
    Blobs(Vec<Digest>),
}

/// Before the boot; `sealed` says of an image that the guest will judge whether it is one.
pub(crate) fn before_boot(sealed: Option<bool>, rehearsal: bool) -> Boot {
    match (sealed, rehearsal) {
        (Some(true), _) => Boot::Sealed,
        (None, _) | (Some(false), true) => Boot::Snapshots,
        (Some(false), false) => Boot::Nothing,
    }
}

/// After the guest's answer about an image; a rehearsal changes nothing of how it runs.
pub(crate) fn answered(answer: &AdmitImageResponse, said: &Said, rehearsal: bool) -> Result<Way, ImageError> {
    let layers = |digest: &Digest| said.layer(digest).is_some();
    if (rehearsal || !answer.judged) && !said.encrypted().is_empty() {
        return Err(ImageError::Encrypted { name: said.reference().to_owned() });
    }
    decided(answer, (said.is_sealed(), rehearsal), layers)
        .map_err(|reason| ImageError::Answer { name: said.reference().to_owned(), reason })
}

fn decided(
    answer: &AdmitImageResponse,
    (sealed, rehearsal): (bool, bool),
    is_layer: impl Fn(&Digest) -> bool,
) -> Result<Way, String> {
    let as_it_is = rehearsal || !answer.judged;
    match (as_it_is, answer.sealed, sealed) {
        (true, _, true) | (false, true, true) => Ok(Way::Sealed),
        (true, _, false) => Ok(Way::Snapshots),
        (false, true, false) => {
            Err("it takes the image for a sealed one, and its manifest has no seal".to_owned())
        }
        (false, false, _) => {
            let mut wanted = Vec::new();
            for text in &answer.wanted {
                let digest = text.parse().map_err(|err| format!("it asks for {text:?}: {err}"))?;
                if !is_layer(&digest) {
                    return Err(format!("it asks for {digest}, which is no layer of the image"));
                }
                if !wanted.contains(&digest) {
                    wanted.push(digest);
                }
            }
            Ok(Way::Blobs(wanted))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(judged: bool, sealed: bool, wanted: &[Digest], would_refuse: &str) -> AdmitImageResponse {
        AdmitImageResponse {
            judged,
            sealed,
            wanted: wanted.iter().map(Digest::to_string).collect(),
            would_refuse: would_refuse.to_owned(),
            ..Default::default()
        }
    }

    fn decide(answer: &AdmitImageResponse, sealed: bool) -> Result<Way, String> {
        let rehearsal = !answer.would_refuse.is_empty();
        decided(answer, (sealed, rehearsal), |digest| *digest == Digest::of(b"layer"))
    }

    #[test]
    fn without_a_policy_a_machine_boots_with_its_layers() {
        assert_eq!(before_boot(None, false), Boot::Snapshots);
    }

    #[test]
    fn nothing_is_converted_for_an_image_that_is_going_to_be_judged() {
        assert_eq!(before_boot(Some(false), false), Boot::Nothing);
        assert_eq!(before_boot(Some(true), false), Boot::Sealed);
    }

    #[test]
    fn a_rehearsal_boots_a_machine_as_everywhere() {
        assert_eq!(before_boot(Some(false), true), Boot::Snapshots);
        assert_eq!(before_boot(Some(true), true), Boot::Sealed);
    }

    #[test]
    fn a_rehearsal_streams_nothing_whatever_the_guest_wants() {
        let wants = answer(true, false, &[Digest::of(b"layer")], "");
        let decide = |sealed| decided(&wants, (sealed, true), |_| true);
        assert_eq!((decide(false), decide(true)), (Ok(Way::Snapshots), Ok(Way::Sealed)));
    }

    #[test]
    fn an_image_that_is_not_judged_goes_as_it_is() {
        let answer = answer(false, false, &[], "");
        assert_eq!(decide(&answer, false), Ok(Way::Snapshots));
        assert_eq!(decide(&answer, true), Ok(Way::Sealed));
    }

    #[test]
    fn an_image_that_a_dry_run_would_refuse_goes_as_it_is() {
        let answer = answer(true, false, &[], "nobody signed it");
        assert_eq!(decide(&answer, false), Ok(Way::Snapshots));
        assert_eq!(decide(&answer, true), Ok(Way::Sealed));
    }

    #[test]
    fn a_sealed_image_goes_as_its_files() {
        assert_eq!(decide(&answer(true, true, &[], ""), true), Ok(Way::Sealed));
    }

    #[test]
    fn a_seal_that_nobody_wrote_is_an_error() {
        assert!(decide(&answer(true, true, &[], ""), false).is_err());
    }

    #[test]
    fn a_wanted_blob_goes_once() {
        let layer = Digest::of(b"layer");
        assert_eq!(decide(&answer(true, false, &[layer, layer], ""), false), Ok(Way::Blobs(vec![layer])));
    }

    #[test]
    fn the_blobs_of_a_sealed_image_go_if_the_guest_wants_them() {
        let layer = Digest::of(b"layer");
        assert_eq!(decide(&answer(true, false, &[layer], ""), true), Ok(Way::Blobs(vec![layer])));
    }

    #[test]
    fn a_blob_that_is_no_layer_is_not_given() {
        assert!(decide(&answer(true, false, &[Digest::of(b"secret")], ""), false).is_err());
    }

    #[test]
    fn an_image_without_layers_wants_nothing() {
        assert_eq!(decide(&answer(true, false, &[], ""), false), Ok(Way::Blobs(Vec::new())));
    }
}
