//! Makes a tap for every interface of the namespace and describes them for the guest.
//!
//! The tap of the link with index N is called `cofN`, so an interface that has its tap is recognised, and one that
//! came later is told from it.

use std::path::Path;

use coffer_vmm::spec::Nic;
use futures::TryStreamExt;
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use rtnetlink::{Error, Handle, LinkUnspec};

use super::link::{Link, is_errno, name_error, survey};
use super::namespace::{inside, netlink};
use super::{NetError, PodNetwork, nft, tap, traffic};
use crate::record::{Netns, PodRecord, Resource};

/// Joins every interface of the namespace but `lo` to a new tap. A namespace without interfaces gives no nics.
///
/// What an earlier try or an earlier pod left in the namespace is removed first. A tap has a queue and so many `more`.
pub fn attach(netns: &Path, record: &PodRecord, more: usize) -> Result<PodNetwork, NetError> {
    detach(record)?;
    let here = Netns::at(netns).map_err(|source| NetError::Namespace { path: netns.to_owned(), source })?;
    record.update(|record| record.netns = Some(here)).map_err(NetError::Record)?;
    rescan(netns, record, more)
}

/// Joins the interfaces that appeared since [`attach`] or the last `rescan`: `nics` holds only the new ones,
/// `config` describes all of them.
pub fn rescan(netns: &Path, record: &PodRecord, more: usize) -> Result<PodNetwork, NetError> {
    let here = Netns::at(netns).map_err(|source| NetError::Namespace { path: netns.to_owned(), source })?;
    let known = record.snapshot().resources;
    inside(netns, || {
        requests(netns, "join the interfaces", async |handle| {
            let survey = survey(&handle).await?;
            let mut nics = Vec::new();
            for link in survey.pod_links().filter(|link| !known.contains(&resource(&here, link))) {
                nics.push(
                    join(&handle, &here, link, (record, more))
                        .await
                        .map_err(|err| format!("{}: {err}", link.name))?,
                );
            }
            Ok(PodNetwork { nics, config: survey.config() })
        })
    })
}

/// Removes taps, redirections and the port-forward table. A namespace that is gone is fine.
pub fn detach(record: &PodRecord) -> Result<(), NetError> {
    for resource in record.snapshot().resources {
        match &resource {
            Resource::Tap { netns, tap, link } => remove_tap(netns, tap, link)?,
            Resource::NftTable { netns, table } => remove_table(netns, table)?,
            _ => continue,
        };
        record.forget(&resource).map_err(NetError::Record)?;
    }
    Ok(())
}

/// Removes a tap and the redirection of its link; `false` if there was nothing.
pub(crate) fn remove_tap(netns: &Netns, tap: &str, link: &str) -> Result<bool, NetError> {
    if !netns.still_there() {
        return Ok(false);
    }
    inside(&netns.path, || {
        requests(&netns.path, "remove the tap", async |handle| {
            if let Some(index) = index_of(&handle, link).await? {
                traffic::separate(&handle, index).await?;
            }
            let Some(index) = index_of(&handle, tap).await? else { return Ok(false) };
            match handle.link().del(index).execute().await {
                Err(err) if is_errno(&err, libc::ENODEV) => Ok(false),
                other => name_error("delete the tap", other).map(|()| true),
            }
        })
    })
}

/// Removes an nftables table; `false` if there was none.
pub(crate) fn remove_table(netns: &Netns, table: &str) -> Result<bool, NetError> {
    if !netns.still_there() {
        return Ok(false);
    }
    inside(&netns.path, || {
        nft::delete_table(table).map_err(|err| NetError::Netlink {
            action: "remove the port-forward table".to_owned(),
            path: netns.path.clone(),
            reason: err.to_string(),
        })
    })
}

fn requests<T>(
    path: &Path,
    action: &str,
    work: impl AsyncFnOnce(Handle) -> Result<T, String>,
) -> Result<T, NetError> {
    let refused = |reason| NetError::Netlink { action: action.to_owned(), path: path.to_owned(), reason };
    netlink(work).map_err(|err| refused(err.to_string()))?.map_err(refused)
}

async fn join(
    handle: &Handle,
    netns: &Netns,
    link: &Link,
    (record, more): (&PodRecord, usize),
) -> Result<Nic, String> {
    let tap_name = tap_name(link);
    if let Some(index) = index_of(handle, &tap_name).await? {
        // Of a pod that was here before, whose machine has not ended yet.
        name_error("delete an earlier pod's tap", handle.link().del(index).execute().await)?;
    }
    let mtu = u16::try_from(link.mtu).map_err(|_| format!("an MTU of {} is over 65535", link.mtu))?;
    record.add(resource(netns, link)).map_err(|err| err.to_string())?;
    let (tap, more) = tap::open(&tap_name, more).map_err(|source| {
        format!("make tap {tap_name}: {source}; /dev/net/tun and the kernel's tun driver are needed")
    })?;
    let index = index_of(handle, &tap_name).await?.ok_or("the new tap is not there")?;
    // Silent and without an address: whatever the host's own stack sent out here would appear in the guest.
    name_error("set the tap up", handle.link().set(quiet(index, link.mtu)).execute().await)?;
    traffic::join(handle, link.index, index).await?;
    Ok(Nic { tap, more, mac: link.mac, mtu })
}

fn quiet(index: u32, mtu: u32) -> LinkMessage {
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    LinkUnspec::new_with_index(index)
        .mtu(mtu)
        .arp(false)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address]))
        .up()
        .build()
}

fn tap_name(link: &Link) -> String {
    format!("cof{}", link.index)
}

fn resource(netns: &Netns, link: &Link) -> Resource {
    Resource::Tap { netns: netns.clone(), tap: tap_name(link), link: link.name.clone() }
}

async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, String> {
    let found: Result<Option<LinkMessage>, Error> =
        handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(err) if is_errno(&err, libc::ENODEV) => Ok(None),
        Err(err) => Err(format!("look {name} up: {err}")),
    }
}
