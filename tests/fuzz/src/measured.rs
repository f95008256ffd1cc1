//! What is measured before a launch: files of whoever builds firmware and kernels.

use coffer_guest_image::tdx::{EfiKernel, Tdvf, mrtd, td_hob_digest};

/// An input is firmware, up to a whole page; what is read of it is measured in bounded time and memory.
pub(crate) fn firmware(input: &[u8]) {
    let mut image = input.to_vec();
    image.splice(0..0, std::iter::repeat_n(0, 4096 - input.len() % 4096));
    if let Ok(firmware) = Tdvf::parse(image) {
        let pages: u64 = firmware.sections().iter().map(|section| section.bytes / 4096).sum();
        assert!(pages <= (256 << 20) / 4096, "{pages} pages");
        // Digests of many pages take their time without finding anything new.
        if pages < 4096 {
            let _ = mrtd(&firmware);
        }
        let _ = td_hob_digest(&firmware, 2 << 30).map_err(|error| error.to_string());
    }
}

/// An input is a kernel.
pub(crate) fn kernel(input: &[u8]) {
    let _ = EfiKernel::parse(input).map_err(|error| error.to_string());
}
