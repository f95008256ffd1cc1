//! A container's root file system: its layers under a writable directory on scratch.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::delivery::{Delivery, DeliveryError, Unpacker};
use super::disks::{DiskError, find_disks};
use super::layers::{Layer, LayerRefused, LayerSource, Layers, MountRefused};
use super::trash::Trash;
use super::unpacked::{UnpackedLayer, UnpackedLayers};
use super::verity::VerityError;
use crate::gate::{Blob, GateError, NoPolicy, SealedImage};

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
        /// Why.
        source: MountRefused,
    },
    /// A directory of the guest's own could not be made.
    #[error("making {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A sealed layer's disk is not what was signed.
    #[error("sealed layer {index} ({serial})")]
    Sealed {
        /// Counted from 1, lowest first.
        index: usize,
        /// Its disk's serial.
        serial: String,
        /// Why.
        source: VerityError,
    },
    /// Other disks than the admitted image asks for.
    #[error("{found} disks were given, the admitted image asks for {expected}")]
    Disks {
        /// As many as it has sealed layers; none if its layers were sent.
        expected: usize,
        /// How many.
        found: usize,
    },
    /// A layer that was to be sent.
    #[error(transparent)]
    Delivery(DeliveryError),
    /// The image may not run.
    #[error(transparent)]
    Gate(GateError),
    /// The task that mounts ended without a result.
    #[error("mounting was cut off")]
    CutOff,
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

/// What lets a root file system be mounted. There is no other way: each of these comes from the gate.
#[derive(Debug)]
pub(crate) enum Permit {
    /// No policy applies, and the container's disks are mounted as they are.
    Unjudged(NoPolicy),
    /// The image was admitted; its layers are on the container's disks.
    Sealed(SealedImage),
    /// The image was admitted; its layers were sent.
    Delivered(Arc<Delivery>),
}

/// One directory of an overlay.
#[derive(Debug)]
enum Lower {
    Mounted(Layer),
    Unpacked(UnpackedLayer),
}

/// The root file systems of all containers.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    layers: Layers,
    unpacker: Unpacker,
    mounts: PathBuf,
    scratch: PathBuf,
    trash: Trash,
}

impl Images {
    /// Mounts below `run`; writable parts and unpacked layers go below `scratch`, which is a mounted file system of the pod.
    pub(crate) fn new(run: &Path, scratch: &Path) -> Self {
        let trash = Trash::below(&scratch.join("trash"));
        Images {
            layers: Layers::below(&run.join("l")),
            unpacker: Unpacker::new(UnpackedLayers::below(&scratch.join("u"), trash.clone())),
            mounts: run.join("c"),
            scratch: scratch.join("c"),
            trash,
        }
    }

    /// Awaits the layers of an admitted image, lowest first.
    pub(crate) fn await_layers(&self, blobs: Vec<Blob>) -> Arc<Delivery> {
        Arc::new(Delivery::new(blobs, self.unpacker.clone()))
    }

    /// Mounts the root file system of container `id`, whose disks come lowest first.
    pub(crate) async fn mount(
        &self,
        id: &str,
        permit: Permit,
        disks: &[LayerSource],
    ) -> Result<Rootfs, ImageError> {
        let expected = match &permit {
            Permit::Unjudged(_) => disks.len(),
            Permit::Sealed(image) => image.layers().len(),
            Permit::Delivered(_) => 0,
        };
        if disks.len() != expected {
            return Err(ImageError::Disks { expected, found: disks.len() });
        }
        let serials: Vec<&str> = disks.iter().map(|disk| disk.serial.as_str()).collect();
        let devices = find_disks(&serials).await.map_err(|source| ImageError::Disk { source })?;
        let disks: Vec<(LayerSource, PathBuf)> = disks.iter().cloned().zip(devices).collect();
        // It waits for disks, which are the host's, and everything else of the agent runs on the thread that is here.
        let (images, id) = (self.clone(), id.to_owned());
        let mounted = tokio::task::spawn_blocking(move || images.mount_on(&id, permit, &disks)).await;
        mounted.unwrap_or(Err(ImageError::CutOff))
    }

    fn mount_on(
        &self,
        id: &str,
        permit: Permit,
        disks: &[(LayerSource, PathBuf)],
    ) -> Result<Rootfs, ImageError> {
        let disks = (1..).zip(disks);
        let lower = |(index, (disk, device)): (usize, &(LayerSource, PathBuf)), held: Result<Layer, _>| {
            held.map(Lower::Mounted).map_err(|refused| layer_error(index, disk, device, refused))
        };
        let layers: Vec<Lower> = match permit {
            Permit::Unjudged(_) => {
                let held = disks.map(|at| lower(at, self.layers.hold(&at.1.0, &at.1.1)));
                held.collect::<Result<_, ImageError>>()?
            }
            // As many of one as of the other: `mount` has counted them.
            Permit::Sealed(image) => {
                let held = disks
                    .zip(image.layers())
                    .map(|(at, layer)| lower(at, self.layers.hold_sealed(&at.1.0.serial, &at.1.1, layer)));
                held.collect::<Result<_, ImageError>>()?
            }
            Permit::Delivered(delivery) => {
                let layers = delivery.layers().map_err(ImageError::Delivery)?;
                layers.into_iter().map(Lower::Unpacked).collect()
            }
        };
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
        LayerRefused::Sealed { source } => ImageError::Sealed { index, serial: layer.serial.clone(), source },
    }
}

/// A mounted root file system; dropping it unmounts it and throws its writable part away.
#[derive(Debug)]
pub(crate) struct Rootfs {
    path: PathBuf,
    writable: PathBuf,
    mounted: bool,
    /// Dropped after the overlay is unmounted.
    layers: Vec<Lower>,
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

impl Lower {
    fn path(&self) -> &Path {
        match self {
            Lower::Mounted(layer) => layer.path(),
            Lower::Unpacked(layer) => layer.path(),
        }
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
fn options(layers: &[Lower], upper: &Path, work: &Path) -> Result<String, ImageError> {
    // The kernel wants the topmost layer first, and no directory twice. One that is there a second time further down hides
    // nothing and shows nothing: all that is in it is found in the upper one.
    let mut lower: Vec<String> = Vec::with_capacity(layers.len());
    for layer in layers.iter().rev() {
        let path = layer.path().display().to_string();
        if !lower.contains(&path) {
            lower.push(path);
        }
    }
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

    use coffer_layer::sealed::SealedLayer;
    use coffer_layer::verity::{BLOCK, Salt, append};
    use coffer_protocol::Digest;
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::gate::Gate;
    use crate::gate::samples::{archive, blobs};
    use crate::image::device_mapper::CONTROL;

    fn unjudged() -> Permit {
        Permit::Unjudged(Gate::of_node(None).unwrap().unjudged().unwrap())
    }

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
            (source(name), PathBuf::from(device.trim()))
        }
    }

    fn source(serial: &str) -> LayerSource {
        LayerSource { serial: serial.to_owned(), fs_type: "erofs".to_owned() }
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
            let rootfs = bench.images.mount_on("c1", unjudged(), &layers).unwrap();
            let etc = rootfs.path().join("etc");
            assert_eq!(fs::read_to_string(etc.join("name")).unwrap(), "high");
            assert_eq!(fs::read_to_string(etc.join("only-low")).unwrap(), "1");
            fs::write(etc.join("name"), "written").unwrap();
            drop(rootfs);
            let again = bench.images.mount_on("c1", unjudged(), &layers).unwrap();
            assert_eq!(fs::read_to_string(again.path().join("etc/name")).unwrap(), "high");
        });
    }

    #[test]
    fn a_layer_of_two_containers_is_mounted_once_and_goes_with_the_last() {
        alone(|bench| {
            let layers = [bench.layer("base", &[("file", "x")])];
            let _loops = Loops(&layers);
            let first = bench.images.mount_on("c1", unjudged(), &layers).unwrap();
            let second = bench.images.mount_on("c2", unjudged(), &layers).unwrap();
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
            let rootfs = bench.images.mount_on("c1", unjudged(), &layers[1..]).unwrap();
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
            let layers = [good, (source("bad"), PathBuf::from(device.trim()))];
            let _loops = Loops(&layers);
            let error = bench.images.mount_on("c1", unjudged(), &layers).unwrap_err();
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
            let rootfs = bench.images.mount_on("c1", unjudged(), &layers).unwrap();
            fs::write(rootfs.path().join("file"), "x").unwrap();
            assert_eq!(bench.images.layers.count(), 120);
        });
    }

    #[test]
    fn more_layers_than_the_kernel_can_stack_are_refused_by_number() {
        alone(|bench| {
            let empty = |index: usize| LayerSource { serial: index.to_string(), fs_type: "tmpfs".to_owned() };
            let layers: Vec<_> = (0..400).map(|index| (empty(index), PathBuf::from("none"))).collect();
            let error = bench.images.mount_on("c1", unjudged(), &layers).unwrap_err();
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
            let error = bench.images.mount_on("c1", unjudged(), &layers).unwrap_err();
            assert!(matches!(error, ImageError::Directory { .. }), "{error}");
        });
    }

    #[test]
    fn a_sealed_layer_is_read_through_the_kernels_check_and_its_device_goes_with_it() {
        if !Path::new(CONTROL).exists() {
            eprintln!("skipped: needs the device mapper ({CONTROL})");
            return;
        }
        alone(|bench| {
            drop(Loops(&[bench.layer("base", &[("file", "x")])]));
            let path = bench.directory.path().join("base.erofs");
            let mut image = fs::File::options().read(true).write(true).open(&path).unwrap();
            let data_bytes = image.metadata().unwrap().len().next_multiple_of(BLOCK);
            image.set_len(data_bytes).unwrap();
            let salt = Salt([7; 32]);
            let root = append(&mut image, data_bytes, &salt).unwrap();
            let device = run("losetup", &["--find", "--show", "--read-only", path.to_str().unwrap()]);
            let disk = [(source("base"), PathBuf::from(device.trim()))];
            let _loops = Loops(&disk);
            let layer = SealedLayer { data_bytes, root, salt };
            let held = bench.images.layers.hold_sealed("base", &disk[0].1, &layer).unwrap();
            assert_eq!(fs::read_to_string(held.path().join("file")).unwrap(), "x");
            let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            let line = mounts.lines().find(|line| line.contains(held.path().to_str().unwrap())).unwrap();
            let node = PathBuf::from(line.split(' ').next().unwrap());
            drop(held);
            assert!(!node.exists(), "{}", node.display());
        });
    }

    #[test]
    fn layers_that_were_sent_are_stacked_with_their_whiteouts() {
        alone(|bench| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let layers = ["gone", ".wh.gone", "here"].map(|path| archive(path, ""));
            let names: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
            let delivery = bench.images.await_layers(blobs(&names));
            for layer in &layers {
                let begun = runtime.block_on(delivery.clone().begin(Digest::of(layer)));
                begun.unwrap().run(&mut io::Cursor::new(layer)).unwrap();
            }
            let rootfs = bench.images.mount_on("c1", Permit::Delivered(delivery), &[]).unwrap();
            assert!(!rootfs.path().join("gone").exists() && rootfs.path().join("here").exists());
            drop(rootfs);
            assert_eq!(fs::read_dir(bench.directory.path().join("scratch/u")).unwrap().count(), 0);
        });
    }

    #[test]
    fn a_layer_that_found_no_room_may_be_sent_again_when_there_is_some() {
        alone(|bench| {
            let scratch = bench.directory.path().join("scratch");
            fs::create_dir(&scratch).unwrap();
            let tmpfs =
                |flags, size| mount(Some("test"), &scratch, Some("tmpfs"), flags, Some(size)).unwrap();
            tmpfs(MsFlags::empty(), "size=128k");
            let file = vec![7; 200 << 10];
            let layer = archive("file", &file);
            let delivery = bench.images.await_layers(blobs(&[&layer]));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let send = || {
                runtime
                    .block_on(delivery.clone().begin(Digest::of(&layer)))
                    .unwrap()
                    .run(&mut io::Cursor::new(&layer))
            };
            let error = send().unwrap_err();
            assert!(matches!(error, DeliveryError::Full { .. }) && !error.is_final(), "{error:?}");
            tmpfs(MsFlags::MS_REMOUNT, "size=1m");
            send().unwrap();
            let rootfs = bench.images.mount_on("c1", Permit::Delivered(delivery.clone()), &[]).unwrap();
            assert_eq!(fs::read(rootfs.path().join("file")).unwrap(), file);
        });
    }

    #[test]
    fn a_layer_that_is_there_twice_is_stacked_once() {
        alone(|bench| {
            let (low, high) =
                (bench.layer("low", &[("name", "low")]), bench.layer("high", &[("name", "high")]));
            let layers = [low.clone(), high, low];
            let _loops = Loops(&layers[..2]);
            let rootfs = bench.images.mount_on("c1", unjudged(), &layers).unwrap();
            assert_eq!(fs::read_to_string(rootfs.path().join("name")).unwrap(), "low");
        });
    }

    #[test]
    fn a_container_without_layers_is_refused() {
        alone(|bench| {
            assert!(matches!(bench.images.mount_on("c1", unjudged(), &[]), Err(ImageError::NoLayer)));
        });
    }
}
