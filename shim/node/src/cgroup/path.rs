//! From a container's `cgroupsPath` to a path below a hierarchy's root.

use std::path::PathBuf;

/// The path below a hierarchy's root; `None` for what is neither a path without `..` nor `slice:prefix:name`.
pub(super) fn expand(cgroups_path: &str) -> Option<PathBuf> {
    let plain = match cgroups_path.split(':').collect::<Vec<_>>().as_slice() {
        [path] => path.trim_start_matches('/').to_owned(),
        [slice, prefix, name] => {
            let slices = expand_slice(slice)?;
            let unit =
                if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
            // A name that is a unit already keeps its suffix.
            let unit = if name.ends_with(".slice") { (*name).to_owned() } else { unit };
            if name.is_empty() || unit.contains('/') {
                return None;
            }
            format!("{slices}{unit}")
        }
        _ => return None,
    };
    let parts = plain.split('/').filter(|part| !part.is_empty());
    if plain.split('/').any(|part| part == ".." || part == ".") || parts.clone().count() == 0 {
        return None;
    }
    Some(parts.collect())
}

/// `a-b-c.slice` lies in `a.slice/a-b.slice/`; no slice means systemd's `system.slice`, `-.slice` the root.
fn expand_slice(slice: &str) -> Option<String> {
    if slice.is_empty() {
        return Some("system.slice/".to_owned());
    }
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(String::new());
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in stem.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        prefix.push_str(part);
        path.push_str(&format!("{prefix}.slice/"));
        prefix.push('-');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systemd_path_is_expanded_slice_by_slice() {
        let path = expand("kubepods-burstable-podab_c.slice:cri-containerd:id1").expect("expands");
        let expected = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_c.slice/cri-containerd-id1.scope";
        assert_eq!(path, PathBuf::from(expected));
    }

    #[test]
    fn a_systemd_path_without_a_slice_lies_in_the_systems() {
        assert_eq!(expand(":docker:id1").expect("expands"), PathBuf::from("system.slice/docker-id1.scope"));
    }

    #[test]
    fn a_plain_path_is_taken_below_the_root() {
        assert_eq!(expand("/default/id1").expect("expands"), PathBuf::from("default/id1"));
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        assert_eq!(expand("/a/../../b"), None);
        assert_eq!(expand("a.slice:x:../../y"), None);
    }

    #[test]
    fn the_root_is_refused() {
        assert_eq!(expand("/"), None);
        assert_eq!(expand(""), None);
    }
}
