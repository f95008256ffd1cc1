//! Kubelet's directories, told by the shape of their paths.

use std::path::{Component, Path, PathBuf};

/// Where kubelet keeps its pods: below a directory that every distribution names `kubelet`, wherever it is, or below
/// the one that is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kubelet {
    root: Option<PathBuf>,
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

impl Kubelet {
    /// A kubelet whose `--root-dir` is `root`.
    #[cfg(test)]
    pub(crate) fn at(root: PathBuf) -> Kubelet {
        Kubelet { root: Some(root) }
    }

    /// What `path` is, if its shape is one of kubelet's.
    pub(crate) fn parse(&self, path: &Path) -> Option<KubeletPath> {
        let (pods, names) = self.split(path)?;
        match names.as_slice() {
            [_, "etc-hosts"] => Some(KubeletPath::HostsFile),
            [_, "containers", _, _] => Some(KubeletPath::ContainerFile),
            [_, "volume-subpaths", _, _, _] => Some(KubeletPath::SubPath),
            [pod, "volumes", "kubernetes.io~empty-dir", name, rest @ ..] => {
                Some(KubeletPath::EmptyDirectory {
                    root: pods.join(pod).join("volumes/kubernetes.io~empty-dir").join(name),
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
        let (pods, names) = self.split(path)?;
        match names.as_slice() {
            [pod, "volume-subpaths", volume, _, _] => {
                Some((pods.join(pod).join("volumes"), (*volume).to_owned()))
            }
            _ => None,
        }
    }

    /// The directory of all pods and the names below it, if the path has nothing but plain names there.
    fn split<'a>(&self, path: &'a Path) -> Option<(PathBuf, Vec<&'a str>)> {
        let root = match &self.root {
            Some(root) => root.as_path(),
            None => path.ancestors().find(|above| above.ends_with("kubelet/pods"))?.parent()?,
        };
        let pods = root.join("pods");
        let plain = |component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        };
        let names = path.strip_prefix(&pods).ok()?.components().map(plain).collect::<Option<_>>()?;
        Some((pods, names))
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
    fn a_kubelet_is_found_wherever_it_is() {
        let path = Path::new("/var/snap/k8s/common/var/lib/kubelet/pods/u/etc-hosts");
        assert_eq!(Kubelet::default().parse(path), Some(KubeletPath::HostsFile));
        assert_eq!(Kubelet::default().parse(Path::new("/srv/pods/u/etc-hosts")), None);
    }

    #[test]
    fn a_given_root_is_the_only_one() {
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
