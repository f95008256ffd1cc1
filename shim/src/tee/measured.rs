//! The launch digest of what the hypervisor boots: the very files, held open from here to the boot.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use coffer_guest_image::measure::{DirectBoot, simulated_launch_digest};
use coffer_vmm::spec::VmSpec;

use super::TeeError;

/// What was measured. The machine boots from these open files, whatever becomes of their paths.
pub(super) struct Measured {
    pub(super) digest: [u8; 48],
    files: [File; 2],
}

/// Measures kernel, initrd, command line and the number of processors of `spec`, and makes it boot from what was measured.
///
/// # Errors
/// [`TeeError::Measure`], [`TeeError::Unmeasurable`]
pub(super) async fn measure(spec: &mut VmSpec) -> Result<Measured, TeeError> {
    let paths = [spec.kernel.clone(), spec.initrd.clone()];
    let (cmdline, vcpus) = (spec.cmdline.clone(), u32::from(spec.vcpus));
    let work = move || -> Result<Measured, TeeError> {
        let open = |path: &PathBuf| {
            File::open(path).map_err(|source| TeeError::Measure { path: path.clone(), source })
        };
        let [kernel, initrd] = &paths;
        let files = [open(kernel)?, open(initrd)?];
        let [kernel_file, mut initrd_file] = files.each_ref();
        let boot = DirectBoot::read(kernel_file, Some(&mut initrd_file), &cmdline);
        let boot = boot.map_err(|source| TeeError::Measure { path: kernel.clone(), source })?;
        let digest = simulated_launch_digest(&boot, vcpus).map_err(TeeError::Unmeasurable)?;
        Ok(Measured { digest, files })
    };
    let lost = |_| TeeError::Measure { path: PathBuf::new(), source: io::Error::other("it was cut off") };
    let measured = tokio::task::spawn_blocking(work).await.map_err(lost)??;
    let [kernel, initrd] = measured.files.each_ref();
    let held = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (spec.kernel, spec.initrd) = (held(kernel), held(initrd));
    Ok(measured)
}
