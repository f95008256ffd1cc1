//! The guests of the benchmark: programs of a few instructions, put together byte by byte.

/// What every guest says as soon as it can.
const MARK: &[u8] = b"\nCOFFER-MARK\n\0";

/// Where the kernel is loaded and entered, and where the program is.
const KERNEL: u32 = 0x100_0000;
const PROGRAM: u32 = 0x40_0000;

/// A kernel for PVH that writes the mark to the serial port and halts: what is left is the monitor's own time.
pub(super) fn kernel() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0xbe, 0x16, 0x00, 0x00, 0x01, // mov esi, the text
        0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
        0xac,                         // lodsb
        0x84, 0xc0,                   // test al, al
        0x74, 0x03,                   // jz over the next two
        0xee,                         // out dx, al
        0xeb, 0xf8,                   // jmp to lodsb
        0xfa, 0xf4, 0xeb, 0xfd,       // cli; hlt; jmp to hlt
    ];
    elf(KERNEL, &[&code[..], MARK].concat(), Some(KERNEL))
}

/// A first process for Linux that writes the mark to the console and waits for ever.
pub(super) fn init() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0xb8, 1, 0, 0, 0,               // mov eax, write
        0xbf, 1, 0, 0, 0,               // mov edi, standard output
        0x48, 0x8d, 0x35, 16, 0, 0, 0,  // lea rsi, the text
        0xba, 13, 0, 0, 0,              // mov edx, its length without the zero
        0x0f, 0x05,                     // syscall
        0xb8, 34, 0, 0, 0, 0x0f, 0x05,  // mov eax, pause; syscall
        0xeb, 0xf7,                     // jmp to the pause
    ];
    elf(PROGRAM, &[&code[..], MARK].concat(), None)
}

/// An executable of one segment that is entered where it begins; a kernel's PVH note names where that is.
fn elf(address: u32, code: &[u8], pvh: Option<u32>) -> Vec<u8> {
    let (word, long) = (u32::to_le_bytes, |number: u32| u64::from(number).to_le_bytes());
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let note = pvh
        .map_or_else(Vec::new, |entry| [&word(4)[..], &word(4), &word(18), b"Xen\0", &word(entry)].concat());
    let header = |kind: u32, place: [u32; 2], size: u32, align: u32| {
        let [offset, address] = place;
        let places = [long(offset), long(address), long(address), long(size), long(size), long(align)];
        [&word(kind)[..], &word(5), &places.concat()].concat()
    };
    let mut file = [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[2, 0, 62, 0, 1, 0, 0, 0]].concat();
    file.extend([long(address), long(64), long(0)].concat());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, if pvh.is_some() { 2 } else { 1 }, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(header(1, [0x1000, address], length(code), 4096));
    if pvh.is_some() {
        file.extend(header(4, [0x200, 0], length(&note), 4));
    }
    file.resize(0x200, 0);
    file.extend(note);
    file.resize(0x1000, 0);
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_first_process_says_the_mark_and_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        std::fs::write(&path, init()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).arg0("init").stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 13];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((&said[..], ended), (&MARK[..13], None));
    }

    #[test]
    fn the_kernels_text_lies_behind_its_code() {
        let file = kernel();
        assert!(file[0x1000 + 0x16..].starts_with(MARK));
    }
}
