//! The runtime options that containerd passes with `start` and with Create, as far as they are about us.

use std::path::PathBuf;

use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;

/// The `ConfigPath` of `runtimeoptions.v1.Options`; other options (runc's, for instance) say nothing to us.
pub(crate) fn config_path(options: &Any) -> Option<PathBuf> {
    let name = options.type_url.rsplit('/').next().unwrap_or_default();
    if name != "runtimeoptions.v1.Options" {
        return None;
    }
    // message Options { string type_url = 1; string config_path = 2; bytes config_body = 3; }
    const CONFIG_PATH_TAG: u32 = 2 << 3 | 2;
    let mut input = CodedInputStream::from_bytes(&options.value);
    let mut path = None;
    while let Ok(Some(tag)) = input.read_raw_tag_or_eof() {
        if tag == CONFIG_PATH_TAG {
            path = input.read_string().ok();
        } else {
            skip_field(&mut input, tag)?;
        }
    }
    path.filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn skip_field(input: &mut CodedInputStream<'_>, tag: u32) -> Option<()> {
    let wire_type = protobuf::rt::WireType::new(tag & 7)?;
    input.skip_field(wire_type).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(type_url: &str, value: &[u8]) -> Any {
        Any { type_url: type_url.to_owned(), value: value.to_vec(), ..Default::default() }
    }

    #[test]
    fn the_path_is_found_behind_other_fields() {
        let any = options("runtimeoptions.v1.Options", &[0x0a, 1, b'x', 0x12, 2, b'/', b'c']);
        assert_eq!(config_path(&any), Some(PathBuf::from("/c")));
    }

    #[test]
    fn a_type_with_a_host_part_is_the_same_type() {
        let any = options("type.googleapis.com/runtimeoptions.v1.Options", &[0x12, 2, b'/', b'c']);
        assert_eq!(config_path(&any), Some(PathBuf::from("/c")));
    }

    #[test]
    fn options_of_runc_are_ignored() {
        let any = Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: vec![0x12, 1, b'x'],
            ..Default::default()
        };
        assert_eq!(config_path(&any), None);
    }

    #[test]
    fn options_that_are_cut_off_name_no_path() {
        assert_eq!(config_path(&options("runtimeoptions.v1.Options", &[0x12, 9, b'/'])), None);
    }
}
