//! Finds out what this kernel's network can do, by doing it in a namespace that vanishes with the thread.

use std::io;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use super::link::survey;
use super::namespace::netlink;
use super::nft::{self, Family};
use super::{tap, traffic};

/// What a pod's network needs of the kernel; each is the error of trying, `None` where it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetAbilities {
    /// Network namespaces and tap devices.
    pub tap: Option<String>,
    /// `cls_u32` and `act_mirred`.
    pub redirect: Option<String>,
    /// nftables with NAT, for port-forwarding.
    pub nat: Option<String>,
}

/// Tries all of it. Needs root; changes nothing outside its own namespace.
pub fn probe() -> NetAbilities {
    let thread = thread::Builder::new().name("net-probe".to_owned()).spawn(attempt);
    let outcome = thread.and_then(|thread| thread.join().map_err(|_| io::Error::other("the probe panicked")));
    outcome.unwrap_or_else(|err| nothing_works(&err.to_string()))
}

fn attempt() -> NetAbilities {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        return nothing_works(&format!("make a network namespace: {errno}"));
    }
    let nat = nft::create_table("coffer-probe", 1, &[Family::V4]).err().map(|err| err.to_string());
    let taps = tap::open("probe0", 0).and_then(|first| Ok((first, tap::open("probe1", 0)?)));
    let _open = match taps {
        Ok(taps) => taps,
        Err(err) => {
            let redirect = Some("not tried, because there are no taps".to_owned());
            return NetAbilities { tap: Some(format!("open /dev/net/tun: {err}")), redirect, nat };
        }
    };
    NetAbilities { tap: None, redirect: redirect().err(), nat }
}

fn redirect() -> Result<(), String> {
    let outcome = netlink(async |handle| {
        let links = survey(&handle).await?.links;
        let [first, second] = links.as_slice() else { return Err("the new taps are not listed".to_owned()) };
        traffic::join(&handle, first.index, second.index).await
    });
    outcome.map_err(|err| err.to_string())?
}

fn nothing_works(reason: &str) -> NetAbilities {
    let reason = Some(reason.to_owned());
    NetAbilities { tap: reason.clone(), redirect: reason.clone(), nat: reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_do_all_of_it() {
        assert_eq!(probe(), NetAbilities { tap: None, redirect: None, nat: None });
    }
}
