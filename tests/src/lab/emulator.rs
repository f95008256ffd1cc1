//! The emulator: a copy of this machine's QEMU without the fault that makes guests in the nested machine hang.
//!
//! When VMRUN injects an external interrupt, QEMU (7.2 of Debian 12, and its newest source) delivers it at once and keeps its
//! number as a pending exception. If the processor's turn ends before the guest is left again, the same interrupt is delivered
//! a second time, though the guest has interrupts disabled. What keeps the number is one store in `helper_vmrun`; the copy has
//! an instruction there that does nothing. The installed program stays as it is.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::artefacts::target;

const INSTALLED: &str = "/usr/bin/qemu-system-x86_64";

/// How a part of the program looks: bytes, and `None` where an offset stands that another build has elsewhere.
type Shape = [Option<u8>];

/// Six bytes that do nothing: `nopw 0(%rax,%rax,1)`.
const NOTHING: [u8; 6] = [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Where the store begins in what `injection` describes.
const STORE: usize = 11;

/// A program that runs nested guests, and whether it has the fault.
pub(super) struct Emulator {
    pub(super) program: PathBuf,
    /// Why the fault is still there.
    pub(super) faulty: Option<String>,
}

/// The mended copy. A QEMU that was built otherwise than the one that was looked at is taken as it is.
pub(super) fn emulator() -> Result<Emulator> {
    let mut program = fs::read(INSTALLED).with_context(|| format!("cannot read {INSTALLED}"))?;
    if let Err(reason) = mend(&mut program) {
        return Ok(Emulator { program: INSTALLED.into(), faulty: Some(format!("{reason:#}")) });
    }
    // QEMU looks for its firmware and its modules beside the folder that it lies in.
    let folder = target().join("lab-emulator");
    fs::create_dir_all(folder.join("bin"))?;
    for name in ["share", "lib"] {
        let link = folder.join(name);
        if !link.is_symlink() {
            symlink(Path::new("/usr").join(name), link)?;
        }
    }
    let copy = folder.join("bin/qemu-system-x86_64");
    if fs::read(&copy).is_ok_and(|there| there == program) {
        return Ok(Emulator { program: copy, faulty: None });
    }
    // Another run may be using the one that is there: it is replaced, not written to.
    let new = tempfile::NamedTempFile::new_in(folder.join("bin"))?;
    fs::write(new.path(), &program)?;
    new.as_file().set_permissions(Permissions::from_mode(0o755))?;
    new.persist(&copy).with_context(|| format!("cannot keep {}", copy.display()))?;
    Ok(Emulator { program: copy, faulty: None })
}

/// Takes the store out.
fn mend(program: &mut [u8]) -> Result<()> {
    let shape = injection();
    let places: Vec<usize> = program
        .windows(shape.len())
        .enumerate()
        .filter(|(_, part)| like(part, &shape))
        .map(|(at, _)| at)
        .collect();
    let [place] = places[..] else {
        bail!("{INSTALLED} has {} places that look like the injection of an interrupt", places.len());
    };
    program[place + STORE..][..NOTHING.len()].copy_from_slice(&NOTHING);
    Ok(())
}

fn like(part: &[u8], shape: &Shape) -> bool {
    part.iter().zip(shape).all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte))
}

/// The injection of an external interrupt, as GCC 12 compiles it: the vector is taken out of EVENTINJ; error code, pending
/// exception, "not a software interrupt" and "no next instruction" are stored.
fn injection() -> Vec<Option<u8>> {
    let parts: [(&[u8], usize, &[u8]); 5] = [
        // movzbl %r12b,%esi
        (&[0x41, 0x0f, 0xb6, 0xf4], 0, &[]),
        // mov %r13d,error_code(%rbx)
        (&[0x44, 0x89, 0xab], 4, &[]),
        // mov %esi,exception_index(%rbx), which lies before the registers
        (&[0x89, 0xb3], 2, &[0xff, 0xff]),
        // movl $0,exception_is_int(%rbx)
        (&[0xc7, 0x83], 4, &[0, 0, 0, 0]),
        // movq $-1,exception_next_eip(%rbx)
        (&[0x48, 0xc7, 0x83], 4, &[0xff, 0xff, 0xff, 0xff]),
    ];
    let known = |bytes: &[u8]| bytes.iter().copied().map(Some).collect::<Vec<_>>();
    parts
        .iter()
        .flat_map(|(head, offset, tail)| [known(head), vec![None; *offset], known(tail)].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Vec<u8> {
        injection().into_iter().map(|byte| byte.unwrap_or(0x77)).collect()
    }

    #[test]
    fn only_the_store_is_taken_out() {
        let mut program = [vec![0x90; 9], code(), vec![0x90; 9]].concat();
        let before = program.clone();
        mend(&mut program).expect("mended");
        let changed: Vec<usize> = (0..program.len()).filter(|at| program[*at] != before[*at]).collect();
        assert!(changed.iter().all(|at| (9 + STORE..9 + STORE + 6).contains(at)), "{changed:?}");
        assert_eq!(program[9 + STORE..][..6], NOTHING);
    }

    #[test]
    fn a_program_with_no_such_place_or_with_two_is_left_alone() {
        let mut none = vec![0x90; 200];
        assert!(mend(&mut none).is_err());
        let mut two = [code(), code()].concat();
        let before = two.clone();
        assert!(mend(&mut two).is_err());
        assert_eq!(two, before);
    }
}
