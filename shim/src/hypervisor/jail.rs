#![allow(unsafe_code)] // Between fork and exec a child may only make system calls: it holds locks of threads it lacks.
//! What a child of the machine does between fork and exec: a list of single system calls, made ready before the fork.
//!
//! ```text
//! QEMU:    cgroups ▸ namespaces ▸ a root with nothing but /usr, kernel, initrd ▸ own uid, no capabilities ▸ exec
//! device:  cgroups ▸ namespaces ▸ exec, as root; it locks itself in (see coffer_vmm::jail)
//! ```
//! QEMU's mount namespace keeps no mount of the host but those it binds, so that the host can unmount at any time.
//! Never here: allocation after the fork, decisions after the fork.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command};

use libc::{c_int, c_ulong};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::arguments::{INITRD, KERNEL};

/// Device number of /dev/kvm, fixed by the kernel.
const KVM: (u32, u32) = (10, 232);

/// What programs and their libraries are found in.
const SYSTEM: [&str; 4] = ["/usr", "/lib", "/lib32", "/lib64"];

/// One system call, or a few that belong together.
#[derive(Debug)]
pub(super) enum Step {
    /// Leaves none but the standard descriptors open in the program, whoever forgot to mark one.
    CloseOthers,
    /// Leaves this descriptor open in the program all the same; after [`Step::CloseOthers`].
    Pass(RawFd),
    /// Joins the cgroup whose `cgroup.procs` this is.
    Join(OwnedFd),
    /// Leaves these namespaces.
    Unshare(c_int),
    /// Makes all mounts ours alone.
    PrivateMounts,
    /// Mounts an empty file system.
    Tmpfs(CString),
    /// Makes a directory.
    Directory(CString),
    /// Makes an empty file.
    File(CString),
    /// Makes a symbolic link with this content, at this path.
    Link(CString, CString),
    /// Makes /dev/kvm, for this user alone.
    Kvm(CString, u32),
    /// Shows this file or directory, without mounts below it, at that path, read-only.
    Bind(CString, CString),
    /// Moves this detached mount to that path, read-only.
    Move(OwnedFd, CString),
    /// Makes a mount read-only.
    ReadOnly(CString),
    /// Makes this the root directory, and lets go of the old one.
    Root(CString),
    /// Becomes this user, with the group of the same number and no other.
    Become(u32),
    /// Gives up core dumps, the terminal's session and every way to new privileges.
    Settle,
    /// Ends with the parent, whose pid this is.
    DieWith(u32),
}

/// Steps for a program that will run as `uid` below a root of its own.
pub(super) struct Root<'a> {
    /// Where the root is put together: any directory, which is hidden from nobody else.
    pub(super) base: &'a Path,
    /// The program.
    pub(super) program: &'a Path,
    /// Kernel and initrd, open.
    pub(super) guest: [&'a OwnedFd; 2],
    /// The user who is to have /dev/kvm, if one is.
    pub(super) kvm: Option<u32>,
}

/// A program could not be started: at which step, and why.
#[derive(Debug)]
pub(super) struct StepError {
    pub(super) step: &'static str,
    pub(super) source: io::Error,
}

impl Root<'_> {
    /// The steps.
    pub(super) fn steps(&self) -> io::Result<Vec<Step>> {
        let mut steps = vec![Step::PrivateMounts, Step::Tmpfs(text(self.base)?)];
        for top in self.tops() {
            self.show(&top, &mut steps)?;
        }
        for (file, name) in self.guest.iter().zip([KERNEL, INITRD]) {
            let target = self.inside(Path::new(name))?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let tree = open_tree(file, "", flags)?;
            steps.extend([Step::File(target.clone()), Step::Move(tree, target)]);
        }
        let cache = Path::new("/etc/ld.so.cache");
        if cache.exists() {
            let target = self.inside(cache)?;
            steps.push(Step::Directory(self.inside(Path::new("/etc"))?));
            steps.extend([Step::File(target.clone()), Step::Bind(text(cache)?, target)]);
        }
        if let Some(uid) = self.kvm {
            steps.push(Step::Directory(self.inside(Path::new("/dev"))?));
            steps.push(Step::Kvm(self.inside(Path::new("/dev/kvm"))?, uid));
        }
        steps.extend([Step::ReadOnly(text(self.base)?), Step::Root(text(self.base)?)]);
        Ok(steps)
    }

    fn tops(&self) -> Vec<PathBuf> {
        let mut tops: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        if let Some(Component::Normal(first)) = self.program.components().nth(1) {
            tops.push(Path::new("/").join(first));
        }
        tops.sort();
        tops.dedup();
        tops
    }

    fn show(&self, top: &Path, steps: &mut Vec<Step>) -> io::Result<()> {
        let Ok(found) = fs::symlink_metadata(top) else { return Ok(()) };
        let target = self.inside(top)?;
        if found.is_symlink() {
            steps.push(Step::Link(text(&fs::read_link(top)?)?, target));
        } else if found.is_dir() {
            steps.extend([Step::Directory(target.clone()), Step::Bind(text(top)?, target)]);
        }
        Ok(())
    }

    fn inside(&self, path: &Path) -> io::Result<CString> {
        text(&self.base.join(path.strip_prefix("/").unwrap_or(path)))
    }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Starts the program after these steps.
pub(super) fn start(mut command: Command, steps: Vec<Step>) -> Result<Child, StepError> {
    let plain = |source: io::Error| StepError { step: "start", source };
    let names: Vec<&'static str> = steps.iter().map(Step::name).collect();
    let (progress, report) = io::pipe().map_err(plain)?;
    let report = OwnedFd::from(report);
    let run = move || {
        for step in &steps {
            // SAFETY: one byte is written from a live array; a failure only loses the report.
            unsafe { libc::write(report.as_raw_fd(), [0_u8].as_ptr().cast(), 1) };
            step.take()?;
        }
        // SAFETY: as above. One byte more than there are steps: all were taken, and exec is next.
        unsafe { libc::write(report.as_raw_fd(), [0_u8].as_ptr().cast(), 1) };
        Ok(())
    };
    // SAFETY: the closure makes system calls only: it neither allocates nor locks, and everything it uses was made
    // before the fork and is owned by it.
    unsafe { command.pre_exec(run) };
    let outcome = command.spawn();
    // The closure holds the writing end: dropping it ends the report.
    drop(command);
    outcome.map_err(|source| {
        let mut taken = Vec::new();
        let count = (&progress).read_to_end(&mut taken).unwrap_or_default();
        let step = count.checked_sub(1).and_then(|last| names.get(last));
        StepError { step: step.copied().unwrap_or("exec"), source }
    })
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Step::CloseOthers => "close descriptors",
            Step::Pass(_) => "pass descriptors",
            Step::Join(_) => "join the cgroup",
            Step::Unshare(_) => "leave namespaces",
            Step::PrivateMounts => "make mounts private",
            Step::Tmpfs(_) => "mount an empty root",
            Step::Directory(_) | Step::File(_) | Step::Link(..) => "fill the root",
            Step::Kvm(..) => "make /dev/kvm",
            Step::Bind(..) | Step::Move(..) => "bind files of the host",
            Step::ReadOnly(_) => "make the root read-only",
            Step::Root(_) => "change the root",
            Step::Become(_) => "change the user",
            Step::Settle => "give up privileges",
            Step::DieWith(_) => "bind its life to the shim",
        }
    }

    fn take(&self) -> io::Result<()> {
        match self {
            Step::CloseOthers => {
                let cloexec = libc::CLOSE_RANGE_CLOEXEC;
                // SAFETY: takes no pointers, and only sets flags of descriptors.
                called(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, cloexec) })
            }
            // SAFETY: sets a flag of a descriptor; a number that is none fails.
            Step::Pass(number) => done(unsafe { libc::fcntl(*number, libc::F_SETFD, 0) }),
            Step::Join(procs) => {
                // SAFETY: writes one byte of a static string to an open descriptor.
                let written = unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) };
                if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
            }
            // SAFETY: takes no pointers; the child has one thread.
            Step::Unshare(flags) => done(unsafe { libc::unshare(*flags) }),
            Step::PrivateMounts => mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE),
            Step::Tmpfs(target) => tmpfs(target),
            // SAFETY: the path is a live C string.
            Step::Directory(path) => done(unsafe { libc::mkdir(path.as_ptr(), 0o755) }),
            // SAFETY: the path is a live C string. The mode is that of a regular file, which mknod may make.
            Step::File(path) => done(unsafe { libc::mknod(path.as_ptr(), libc::S_IFREG | 0o444, 0) }),
            // SAFETY: both are live C strings.
            Step::Link(content, path) => done(unsafe { libc::symlink(content.as_ptr(), path.as_ptr()) }),
            Step::Kvm(path, uid) => kvm(path, *uid),
            Step::Bind(source, target) => {
                mount(Some(source), target, libc::MS_BIND).and_then(|()| read_only(target))
            }
            Step::Move(tree, target) => move_mount(tree, target).and_then(|()| read_only(target)),
            Step::ReadOnly(target) => read_only(target),
            Step::Root(path) => root(path),
            Step::Become(uid) => become_user(*uid),
            Step::Settle => settle(),
            Step::DieWith(parent) => die_with(*parent),
        }
    }
}

fn done(result: c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn called(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mount(source: Option<&std::ffi::CStr>, target: &std::ffi::CStr, flags: c_ulong) -> io::Result<()> {
    let source = source.map_or(c"none".as_ptr(), std::ffi::CStr::as_ptr);
    // SAFETY: all are live C strings, or null where the kernel looks at nothing.
    done(unsafe { libc::mount(source, target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
}

fn tmpfs(target: &std::ffi::CStr) -> io::Result<()> {
    let (kind, options) = (c"tmpfs".as_ptr(), c"mode=755,size=64k".as_ptr().cast());
    // SAFETY: all are live C strings.
    done(unsafe { libc::mount(kind, target.as_ptr(), kind, libc::MS_NOSUID | libc::MS_NOEXEC, options) })
}

fn move_mount(tree: &OwnedFd, target: &std::ffi::CStr) -> io::Result<()> {
    let (from, empty, to) = (tree.as_raw_fd(), c"".as_ptr(), target.as_ptr());
    // SAFETY: both are live C strings; the descriptor is a mount of our own.
    called(unsafe {
        libc::syscall(libc::SYS_move_mount, from, empty, libc::AT_FDCWD, to, libc::MOVE_MOUNT_F_EMPTY_PATH)
    })
}

fn read_only(target: &std::ffi::CStr) -> io::Result<()> {
    mount(None, target, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NOSUID)
}

fn kvm(path: &std::ffi::CStr, uid: u32) -> io::Result<()> {
    // SAFETY: the path is a live C string.
    done(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(KVM.0, KVM.1)) })?;
    // SAFETY: as above.
    done(unsafe { libc::chown(path.as_ptr(), uid, uid) })
}

fn root(path: &std::ffi::CStr) -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: the path is a live C string.
    done(unsafe { libc::chdir(path.as_ptr()) })?;
    // SAFETY: both are live C strings. Old and new root at one place: the old one ends up on top, and is unmounted.
    called(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // SAFETY: a live C string.
    done(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    // SAFETY: a live C string.
    done(unsafe { libc::chdir(c"/".as_ptr()) })
}

/// The kernel's calls, not the C library's: those would try to change threads that the child does not have.
fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: an empty list is not read.
    called(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
    // SAFETY: takes no pointers.
    called(unsafe { libc::syscall(libc::SYS_setresgid, uid, uid, uid) })?;
    // SAFETY: takes no pointers.
    called(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

fn settle() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a live value.
    done(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) })?;
    // SAFETY: takes no pointers.
    done(unsafe { libc::setsid() })?;
    // SAFETY: takes no pointers.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    done(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // SAFETY: takes no pointers. A parent that died before the line above is not seen by the kernel any more.
    let now = unsafe { libc::getppid() };
    if u32::try_from(now) == Ok(parent) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn run(steps: Vec<Step>, program: &str, argument: &str) -> Result<String, StepError> {
        let mut command = Command::new(program);
        command.arg(argument).stdout(Stdio::piped());
        let output = start(command, steps)?.wait_with_output().unwrap();
        Ok(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_child_without_steps_runs() {
        assert_eq!(run(Vec::new(), "/bin/echo", "here").unwrap(), "here\n");
    }

    #[test]
    fn a_failing_step_is_named() {
        let missing = CString::new("/nonexistent/directory").unwrap();
        let error = run(vec![Step::Settle, Step::Directory(missing)], "/bin/echo", "").unwrap_err();
        assert_eq!(error.step, "fill the root");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_missing_program_fails_at_exec() {
        let error = run(vec![Step::Settle], "/nonexistent/program", "").unwrap_err();
        assert_eq!(error.step, "exec");
    }

    #[test]
    fn a_child_whose_parent_is_another_process_does_not_run() {
        let error = run(vec![Step::DieWith(1)], "/bin/echo", "").unwrap_err();
        assert_eq!(error.step, "bind its life to the shim");
    }

    #[test]
    fn a_descriptor_is_passed_only_when_asked() {
        let file = fs::File::open("/etc/hostname").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let number = file.as_raw_fd();
        let argument = format!("/proc/self/fd/{number}");
        assert_eq!(run(vec![Step::CloseOthers], "/bin/readlink", &argument).unwrap(), "");
        assert_eq!(
            run(vec![Step::CloseOthers, Step::Pass(number)], "/bin/readlink", &argument).unwrap(),
            "/etc/hostname\n"
        );
    }

    #[test]
    fn a_link_at_the_top_is_shown_as_a_link() {
        let (kernel, base) = (fs::File::open("/etc/hostname").unwrap().into(), tempfile::tempdir().unwrap());
        let root = Root {
            base: base.path(),
            program: Path::new("/usr/bin/qemu"),
            guest: [&kernel, &kernel],
            kvm: None,
        };
        let steps = root.steps().unwrap();
        let is_link = fs::symlink_metadata("/lib").unwrap().is_symlink();
        assert_eq!(steps.iter().any(|step| matches!(step, Step::Link(..))), is_link);
    }
}
