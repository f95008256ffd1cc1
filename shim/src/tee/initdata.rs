//! Initdata from a pod's annotations: base64 of gzip of TOML, as in Confidential Containers.

use std::collections::HashMap;
use std::io::Read;

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::{InitData, MAX_INITDATA_BYTES};
use flate2::read::GzDecoder;

use super::TeeError;

/// Our annotation, and the one that Kata Containers reads.
pub(crate) const ANNOTATIONS: [&str; 2] =
    ["io.coffer.initdata", "io.katacontainers.config.hypervisor.cc_init_data"];

/// The pod's initdata, if it has any.
///
/// # Errors
/// [`TeeError::InitData`], and [`TeeError::TwoInitData`] when the two annotations say different things.
pub(super) fn of(annotations: &HashMap<String, String>) -> Result<Option<InitData>, TeeError> {
    let [ours, kata] = ANNOTATIONS.map(|key| annotations.get(key).map(|text| (key, text)));
    let (key, text) = match (ours, kata) {
        (Some((_, one)), Some((_, other))) if one != other => return Err(TeeError::TwoInitData),
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => return Ok(None),
    };
    let refused = |reason: String| TeeError::InitData { key, reason };
    let packed = Base64::decode_vec(text.trim()).map_err(|_| refused("it is not base64".to_owned()))?;
    let mut body = String::new();
    let most = MAX_INITDATA_BYTES as u64 + 1;
    let unpacked = GzDecoder::new(packed.as_slice()).take(most).read_to_string(&mut body);
    unpacked.map_err(|error| refused(format!("it is no text packed with gzip ({error})")))?;
    InitData::parse("toml", body).map(Some).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    const TEXT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";

    fn packed(text: &[u8]) -> String {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        Base64::encode_string(&encoder.finish().unwrap())
    }

    fn read(pairs: &[(&str, String)]) -> Result<Option<InitData>, TeeError> {
        of(&pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }

    #[test]
    fn either_annotation_is_read_to_the_byte() {
        for key in ANNOTATIONS {
            assert_eq!(read(&[(key, packed(TEXT.as_bytes()))]).unwrap().unwrap().body(), TEXT);
        }
        assert_eq!(read(&[]).unwrap(), None);
    }

    #[test]
    fn two_that_differ_are_refused() {
        let other = packed(format!("{TEXT}\n").as_bytes());
        let both = [(ANNOTATIONS[0], packed(TEXT.as_bytes())), (ANNOTATIONS[1], other)];
        assert!(matches!(read(&both), Err(TeeError::TwoInitData)));
    }

    #[test]
    fn what_unpacks_to_more_than_is_read_is_refused_before_it_is_unpacked() {
        let bomb = packed(&vec![b'#'; MAX_INITDATA_BYTES + 1]);
        let error = read(&[(ANNOTATIONS[0], bomb)]).unwrap_err();
        assert!(error.to_string().contains("1048576"), "{error}");
    }

    #[test]
    fn what_is_not_packed_is_refused_with_the_annotation_s_name() {
        let error = read(&[(ANNOTATIONS[0], Base64::encode_string(TEXT.as_bytes()))]).unwrap_err();
        assert!(error.to_string().contains("io.coffer.initdata"), "{error}");
        assert!(read(&[(ANNOTATIONS[0], "?".to_owned())]).is_err());
    }
}
