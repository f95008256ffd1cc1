//! Kubelet's directories, told by the shape of their paths.

use std::path::{Component, Path, PathBuf};

/// Where kubelet keeps its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kubelet {
    root: PathBuf,
}

/// What a path below kubelet's root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KubeletPath {
    /// A configMap, secret, projected or downward API volume, which kubelet publishes by its `..data` link.
    Published,
    /// An emptyDir.
    EmptyDirectory {
        /// The volume's directory.
        root: PathBuf,
        /// What follows it.
        rest: String,
    },
    /// A bind mount of a part of a volume, made for a `subPath`.
    SubPath,
    /// A file that kubelet made for one container: the termination log.
    ContainerFile,
    /// The pod's `/etc/hosts`.
    HostsFile,
}

impl Default for Kubelet {
    fn default() -> Self {
        Kubelet { root: PathBuf::from("/var/lib/kubelet") }
    }
}

impl Kubelet {
    /// A kubelet whose `--root-dir` is `root`.
    pub(crate) fn at(root: PathBuf) -> Kubelet {
        Kubelet { root }
    }

    /// What `path` is, if its shape is one of kubelet's.
    pub(crate) fn parse(&self, path: &Path) -> Option<KubeletPath> {
        let names = self.names(path)?;
        match names.as_slice() {
            [_, "etc-hosts"] => Some(KubeletPath::HostsFile),
            [_, "containers", _, _] => Some(KubeletPath::ContainerFile),
            [_, "volume-subpaths", _, _, _] => Some(KubeletPath::SubPath),
            [pod, "volumes", "kubernetes.io~empty-dir", name, rest @ ..] => {
                Some(KubeletPath::EmptyDirectory {
                    root: self.root.join("pods").join(pod).join("volumes/kubernetes.io~empty-dir").join(name),
                    rest: rest.join("/"),
                })
            }
            [
                _,
                "volumes",
                "kubernetes.io~configmap"
                | "kubernetes.io~secret"
                | "kubernetes.io~projected"
                | "kubernetes.io~downward-api",
                _,
            ] => Some(KubeletPath::Published),
            _ => None,
        }
    }

    /// For the bind mount of a part of a volume: the pod's `volumes` directory and the volume's name.
    pub(crate) fn volume_of_sub_path(&self, path: &Path) -> Option<(PathBuf, String)> {
        match self.names(path)?.as_slice() {
            [pod, "volume-subpaths", volume, _, _] => {
                Some((self.root.join("pods").join(pod).join("volumes"), (*volume).to_owned()))
            }
            _ => None,
        }
    }

    /// The names below `<root>/pods`, if the path has nothing but plain names there.
    fn names<'a>(&self, path: &'a Path) -> Option<Vec<&'a str>> {
        let below = path.strip_prefix(&self.root).ok()?.strip_prefix("pods").ok()?;
        below
            .components()
            .map(|component| match component {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_out_is_not_kubelets() {
        assert_eq!(Kubelet::default().parse(Path::new("/var/lib/kubelet/pods/u/../u/etc-hosts")), None);
    }

    #[test]
    fn another_root_is_another_kubelet() {
        let kubelet = Kubelet::at(PathBuf::from("/k"));
        assert_eq!(kubelet.parse(Path::new("/k/pods/u/etc-hosts")), Some(KubeletPath::HostsFile));
        assert_eq!(kubelet.parse(Path::new("/var/lib/kubelet/pods/u/etc-hosts")), None);
    }

    #[test]
    fn a_sub_path_names_its_volume() {
        let path = Path::new("/var/lib/kubelet/pods/u/volume-subpaths/cache/app/0");
        let expected = (PathBuf::from("/var/lib/kubelet/pods/u/volumes"), "cache".to_owned());
        assert_eq!(Kubelet::default().volume_of_sub_path(path), Some(expected));
    }
}
