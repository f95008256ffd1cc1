//! A container's root file system: its layers under a writable directory on scratch.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::disks::{DiskError, find_disks};
use super::layers::{Layer, LayerRefused, LayerSource, Layers};
use super::trash::Trash;

/// The kernel takes one page of mount options, its last byte being the end of the string.
const MAX_OPTIONS: usize = 4095;

/// Why a root file system could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// A container without layers has nothing to run.
    #[error("the container has no layer")]
    NoLayer,
    /// A layer's disk is not there.
    #[error("layer disk")]
    Disk {
        /// Why.
        source: DiskError,
    },
    /// A layer could not be mounted.
    #[error(
        "layer {index} ({serial}) on {device} could not be mounted as {fs_type}; is the disk a whole {fs_type} image?"
    )]
    Layer {
        /// Counted from 1, lowest first.
        index: usize,
        /// Its disk's serial.
        serial: String,
        /// Where it is.
        device: PathBuf,
        /// What it should be.
        fs_type: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A directory of the guest's own could not be made.
    #[error("making {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More layers than the kernel can stack in one mount.
    #[error("{layers} layers need {bytes} bytes of mount options, the kernel takes {MAX_OPTIONS}")]
    TooManyLayers {
        /// How many.
        layers: usize,
        /// Length of their list.
        bytes: usize,
    },
    /// The kernel refused the overlay.
    #[error("stacking {layers} layers on {target} refused")]
    Overlay {
        /// How many.
        layers: usize,
        /// Where.
        target: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The root file systems of all containers.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    layers: Layers,
    mounts: PathBuf,
    scratch: PathBuf,
    trash: Trash,
}

impl Images {
    /// Mounts below `run`; writable parts go below `scratch`, which is a mounted file system of the pod.
    pub(crate) fn new(run: &Path, scratch: &Path) -> Self {
        Images {
            layers: Layers::below(&run.join("l")),
            mounts: run.join("c"),
            scratch: scratch.join("c"),
            trash: Trash::below(&scratch.join("trash")),
        }
    }

    /// Mounts the root file system of container `id`, whose layers come lowest first.
    pub(crate) async fn mount(&self, id: &str, sources: &[LayerSource]) -> Result<Rootfs, ImageError> {
        let serials: Vec<&str> = sources.iter().map(|source| source.serial.as_str()).collect();
        let devices = find_disks(&serials).await.map_err(|source| ImageError::Disk { source })?;
        let layers: Vec<(LayerSource, PathBuf)> = sources.iter().cloned().zip(devices).collect();
        self.mount_on(id, &layers)
    }

    fn mount_on(&self, id: &str, sources: &[(LayerSource, PathBuf)]) -> Result<Rootfs, ImageError> {
        let mut layers = Vec::with_capacity(sources.len());
        for (index, (source, device)) in (1..).zip(sources) {
            let held = self.layers.hold(source, device);
            layers.push(held.map_err(|refused| layer_error(index, source, device, refused))?);
        }
        let mut rootfs = Rootfs {
            path: self.mounts.join(id).join("rootfs"),
            writable: self.scratch.join(id),
            mounted: false,
            layers,
            trash: self.trash.clone(),
        };
        rootfs.stack()?;
        Ok(rootfs)
    }
}

fn layer_error(index: usize, layer: &LayerSource, device: &Path, refused: LayerRefused) -> ImageError {
    match refused {
        LayerRefused::Directory { path, source } => ImageError::Directory { path, source },
        LayerRefused::Mount { source } => ImageError::Layer {
            index,
            serial: layer.serial.clone(),
            device: device.to_owned(),
            fs_type: layer.fs_type.clone(),
            source,
        },
    }
}

/// A mounted root file system; dropping it unmounts it and throws its writable part away.
#[derive(Debug)]
pub(crate) struct Rootfs {
    path: PathBuf,
    writable: PathBuf,
    mounted: bool,
    /// Dropped after the overlay is unmounted.
    layers: Vec<Layer>,
    trash: Trash,
}

impl Rootfs {
    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn stack(&mut self) -> Result<(), ImageError> {
        let top = self.layers.last().ok_or(ImageError::NoLayer)?.path();
        let (upper, work) = (self.writable.join("upper"), self.writable.join("work"));
        if let Some(place) = self.writable.parent() {
            make_dir(place)?;
        }
        // One that is there already holds another container's files: the scratch disk was not fresh.
        let made = DirBuilder::new().mode(0o700).create(&self.writable);
        made.map_err(|source| ImageError::Directory { path: self.writable.clone(), source })?;
        for path in [&self.path, &upper, &work] {
            make_dir(path)?;
        }
        // The root directory of an overlay shows the upper directory's owner and mode.
        like(top, &upper).map_err(|source| ImageError::Directory { path: upper.clone(), source })?;
        let options = options(&self.layers, &upper, &work)?;
        let count = self.layers.len();
        mount(Some("overlay"), &self.path, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|errno| ImageError::Overlay {
                layers: count,
                target: self.path.clone(),
                source: errno.into(),
            })?;
        self.mounted = true;
        Ok(())
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if self.mounted
            && let Err(errno) = umount2(&self.path, MntFlags::empty())
        {
            tracing::warn!(path = %self.path.display(), %errno, "root file system still in use, detached");
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
        self.trash.throw_away(&self.writable);
    }
}

/// The writable part lives as long as its pod at most, so nothing is gained by syncing it (`volatile`).
fn options(layers: &[Layer], upper: &Path, work: &Path) -> Result<String, ImageError> {
    // The kernel wants the topmost layer first.
    let lower: Vec<String> = layers.iter().rev().map(|layer| layer.path().display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    if options.len() > MAX_OPTIONS {
        return Err(ImageError::TooManyLayers { layers: layers.len(), bytes: options.len() });
    }
    Ok(options)
}

fn make_dir(path: &Path) -> Result<(), ImageError> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|source| ImageError::Directory { path: path.to_owned(), source })
}

fn like(model: &Path, path: &Path) -> io::Result<()> {
    let model = fs::metadata(model)?;
    chown(path, Some(model.uid()), Some(model.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(model.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// A directory with room for images, in a mount namespace that ends with the test.
    struct Bench {
        directory: tempfile::TempDir,
        images: Images,
    }

    /// Runs `test` where its mounts vanish with it.
    fn alone(test: fn(&Bench)) {
        let run = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let tmpfs = directory.path();
            mount(Some("test"), tmpfs, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            let images = Images::new(&tmpfs.join("run"), &tmpfs.join("scratch"));
            test(&Bench { directory, images });
        });
        run.join().unwrap();
    }

    impl Bench {
        /// Makes an EROFS image of these files and puts it on a loop device, which goes with its last user.
        fn layer(&self, name: &str, files: &[(&str, &str)]) -> (LayerSource, PathBuf) {
            let tree = self.directory.path().join(name);
            for (path, text) in files {
                let path = tree.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let image = self.directory.path().join(format!("{name}.erofs"));
            run("mkfs.erofs", &[image.to_str().unwrap(), tree.to_str().unwrap()]);
            let device = run("losetup", &["--find", "--show", "--read-only", image.to_str().unwrap()]);
            let source = LayerSource { serial: name.to_owned(), fs_type: "erofs".to_owned() };
            (source, PathBuf::from(device.trim()))
        }
    }

    fn run(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Detaches loop devices when the test ends, however it ends.
    struct Loops<'a>(&'a [(LayerSource, PathBuf)]);

    impl Drop for Loops<'_> {
        fn drop(&mut self) {
            for (_, device) in self.0 {
                let _ = Command::new("losetup").arg("--detach").arg(device).status();
            }
        }
    }

    #[test]
    fn upper_layers_hide_lower_ones_and_writes_stay_off_them() {
        alone(|bench| {
            let layers = [
                bench.layer("low", &[("etc/name", "low"), ("etc/only-low", "1")]),
                bench.layer("high", &[("etc/name", "high")]),
            ];
            let _loops = Loops(&layers);
            let rootfs = bench.images.mount_on("c1", &layers).unwrap();
            let etc = rootfs.path().join("etc");
            assert_eq!(fs::read_to_string(etc.join("name")).unwrap(), "high");
            assert_eq!(fs::read_to_string(etc.join("only-low")).unwrap(), "1");
            fs::write(etc.join("name"), "written").unwrap();
            drop(rootfs);
            let again = bench.images.mount_on("c1", &layers).unwrap();
            assert_eq!(fs::read_to_string(again.path().join("etc/name")).unwrap(), "high");
        });
    }

    #[test]
    fn a_layer_of_two_containers_is_mounted_once_and_goes_with_the_last() {
        alone(|bench| {
            let layers = [bench.layer("base", &[("file", "x")])];
            let _loops = Loops(&layers);
            let first = bench.images.mount_on("c1", &layers).unwrap();
            let second = bench.images.mount_on("c2", &layers).unwrap();
            assert_eq!(bench.images.layers.count(), 1);
            drop(first);
            assert_eq!(fs::read_to_string(second.path().join("file")).unwrap(), "x");
            drop(second);
            assert_eq!(bench.images.layers.count(), 0);
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert!(!mounts.contains(&bench.directory.path().join("run").display().to_string()), "{mounts}");
        });
    }

    #[test]
    fn the_root_directory_has_the_mode_of_the_topmost_layer() {
        alone(|bench| {
            let (source, device) = bench.layer("base", &[("file", "x")]);
            fs::set_permissions(bench.directory.path().join("base"), fs::Permissions::from_mode(0o700))
                .unwrap();
            let layers = [(source, device), bench.layer("base", &[("file", "x")])];
            let _loops = Loops(&layers);
            let rootfs = bench.images.mount_on("c1", &layers[1..]).unwrap();
            assert_eq!(fs::metadata(rootfs.path()).unwrap().mode() & 0o7777, 0o700);
        });
    }

    #[test]
    fn a_disk_that_is_no_image_is_refused_as_the_layer_it_should_be() {
        alone(|bench| {
            let good = bench.layer("good", &[("file", "x")]);
            let broken = bench.directory.path().join("broken");
            fs::write(&broken, vec![0; 1 << 20]).unwrap();
            let device = run("losetup", &["--find", "--show", broken.to_str().unwrap()]);
            let source = LayerSource { serial: "bad".to_owned(), fs_type: "erofs".to_owned() };
            let layers = [good, (source, PathBuf::from(device.trim()))];
            let _loops = Loops(&layers);
            let error = bench.images.mount_on("c1", &layers).unwrap_err();
            assert!(
                matches!(&error, ImageError::Layer { index: 2, serial, .. } if serial == "bad"),
                "{error}"
            );
            assert_eq!(bench.images.layers.count(), 0);
        });
    }

    #[test]
    fn a_hundred_and_twenty_layers_fit() {
        alone(|bench| {
            let empty = |index: usize| LayerSource { serial: index.to_string(), fs_type: "tmpfs".to_owned() };
            let layers: Vec<_> = (0..120).map(|index| (empty(index), PathBuf::from("none"))).collect();
            let rootfs = bench.images.mount_on("c1", &layers).unwrap();
            fs::write(rootfs.path().join("file"), "x").unwrap();
            assert_eq!(bench.images.layers.count(), 120);
        });
    }

    #[test]
    fn more_layers_than_the_kernel_can_stack_are_refused_by_number() {
        alone(|bench| {
            let empty = |index: usize| LayerSource { serial: index.to_string(), fs_type: "tmpfs".to_owned() };
            let layers: Vec<_> = (0..400).map(|index| (empty(index), PathBuf::from("none"))).collect();
            let error = bench.images.mount_on("c1", &layers).unwrap_err();
            assert!(matches!(error, ImageError::TooManyLayers { layers: 400, .. }), "{error}");
        });
    }

    #[test]
    fn files_that_another_container_left_are_never_taken_over() {
        alone(|bench| {
            let layers = [bench.layer("base", &[("file", "x")])];
            let _loops = Loops(&layers);
            let left = bench.directory.path().join("scratch/c/c1/upper");
            fs::create_dir_all(&left).unwrap();
            fs::write(left.join("secret"), "of another pod").unwrap();
            let error = bench.images.mount_on("c1", &layers).unwrap_err();
            assert!(matches!(error, ImageError::Directory { .. }), "{error}");
        });
    }

    #[test]
    fn a_container_without_layers_is_refused() {
        alone(|bench| {
            assert!(matches!(bench.images.mount_on("c1", &[]), Err(ImageError::NoLayer)));
        });
    }
}
