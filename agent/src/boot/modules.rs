//! Loads the kernel modules that an initrd for a packaged kernel lists in `/modules/load`.
//!
//! Each line is a file below `/modules`, then its parameters; the order is the file's. The files are removed
//! afterwards, since an initramfs keeps them in memory.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::io::Errno;

const DIRECTORY: &str = "/modules";
/// `MODULE_INIT_COMPRESSED_FILE`: the kernel unpacks the file (Linux 5.17 and later).
const COMPRESSED: i32 = 4;

/// Loads the listed modules; without a list there is nothing to do.
pub(super) fn load_listed() {
    let Ok(list) = fs::read_to_string(Path::new(DIRECTORY).join("load")) else { return };
    for (file, parameters) in list.lines().filter_map(parse) {
        if let Err(error) = load(file, parameters) {
            tracing::error!(module = file, %error, "module not loaded");
        }
    }
    if let Err(error) = fs::remove_dir_all(DIRECTORY) {
        tracing::warn!(%error, "module files stay in memory");
    }
}

fn parse(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(line.split_once(' ').unwrap_or((line, "")))
}

fn load(file: &str, parameters: &str) -> io::Result<()> {
    let module = File::open(Path::new(DIRECTORY).join(file))?;
    let parameters = CString::new(parameters)?;
    let flags = if file.ends_with(".ko") { 0 } else { COMPRESSED };
    match rustix::system::finit_module(&module, &parameters, flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_line_may_carry_parameters() {
        assert_eq!(
            parse("virtio_mmio.ko device=512@0xfeb00000:5"),
            Some(("virtio_mmio.ko", "device=512@0xfeb00000:5"))
        );
        assert_eq!(parse(" erofs.ko "), Some(("erofs.ko", "")));
    }

    #[test]
    fn comments_and_empty_lines_name_no_module() {
        assert_eq!(parse("# disks"), None);
        assert_eq!(parse(""), None);
    }
}
