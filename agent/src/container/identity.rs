//! Who a process is and what it may: limits, user, groups, capabilities, no_new_privs, seccomp.

use std::os::fd::BorrowedFd;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::Mode;

use super::capabilities;
use super::messages::NewProcess;
use super::report::{Agent, Step, process};
use super::seccomp::Filter;
use super::spec::ProcessSpec;
use super::sys;

/// What a process without an umask of its own gets.
const USUAL_UMASK: u32 = 0o022;

/// Hands a standard descriptor to the user, so that it can be opened again through `/proc/self/fd`. Not everything
/// can be given away (a read-only file system, the null device), and nothing depends on it.
pub(super) fn give_to(descriptor: BorrowedFd<'_>, uid: u32) {
    let null = rustix::fs::makedev(1, 3);
    if rustix::fs::fstat(descriptor).is_ok_and(|stat| stat.st_rdev != null) {
        let _ = rustix::fs::fchown(descriptor, Some(rustix::fs::Uid::from_raw(uid)), None);
    }
}

/// Sets the resource limits. Raising one needs a capability that a nested machine may lack: a warning, no failure.
pub(super) fn limit(agent: &Agent, spec: &ProcessSpec) -> Step<()> {
    for (resource, soft, hard) in &spec.rlimits {
        match sys::set_limit(*resource, *soft, *hard) {
            Ok(()) => {}
            Err(nix::errno::Errno::EPERM) => {
                agent.warn(format!(
                    "resource limit {resource} stays as it is: it may not be raised to {hard}"
                ));
            }
            Err(errno) => return Err(process("set a resource limit")(errno)),
        }
    }
    Ok(())
}

/// Becomes the user with exactly its capabilities, in its working directory.
///
/// Without no_new_privs loading a filter needs CAP_SYS_ADMIN, so it is loaded here, while that is there; with it the
/// filter is returned, to be loaded as the last thing before execve.
pub(super) fn take_on(new: &NewProcess) -> Step<Option<&Filter>> {
    let spec = &new.spec;
    let sets = spec.capabilities.unwrap_or_default();
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(process("set no_new_privs"))?;
    } else if let Some(filter) = &new.filter {
        sys::load_filter(&filter.program, filter.flags).map_err(process("load the seccomp filter"))?;
    }
    sets.drop_bounding().map_err(process("drop capabilities"))?;
    capabilities::keep_over_setuid(true).map_err(process("keep capabilities"))?;
    let groups: Vec<Gid> = spec.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).map_err(process("set the additional groups"))?;
    let gid = Gid::from_raw(spec.gid);
    setresgid(gid, gid, gid).map_err(process(&format!("set the group to {gid}")))?;
    // With the rights of root, which can enter directories that the user cannot.
    let entered = enter(spec);
    let uid = Uid::from_raw(spec.uid);
    setresuid(uid, uid, uid).map_err(process(&format!("set the user to {uid}")))?;
    entered.or_else(|_| enter(spec))?;
    capabilities::keep_over_setuid(false).map_err(process("keep capabilities no longer"))?;
    sets.apply().map_err(process("set capabilities"))?;
    rustix::process::umask(Mode::from_raw_mode(spec.umask.unwrap_or(USUAL_UMASK)));
    Ok(new.filter.as_ref().filter(|_| spec.no_new_privileges))
}

/// Enters the working directory. One that lies outside the root would have no path.
fn enter(spec: &ProcessSpec) -> Step<()> {
    let cwd = || format!("chdir to cwd ({:?}) set in config.json failed", spec.cwd);
    rustix::process::chdir(&spec.cwd).map_err(process(&cwd()))?;
    let path = rustix::process::getcwd(Vec::new()).map_err(process(&cwd()))?;
    match path.as_bytes().first() {
        Some(b'/') => Ok(()),
        _ => Err(process(&cwd())(nix::errno::Errno::EXDEV)),
    }
}
