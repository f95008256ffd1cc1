//! Joins a link and a tap: what arrives at one leaves at the other, before the host's network stack sees it.
//!
//! ```text
//! tc qdisc add dev LINK ingress        tc filter add dev LINK ingress protocol all u32 match u8 0 0 \
//! tc qdisc add dev TAP  ingress            action mirred egress redirect dev TAP          and the other way round
//! ```
//! `u32` rather than `matchall`, because every kernel that has tc has it. The link keeps its address and counters.

use futures::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcHandle};
use rtnetlink::{Error, Handle};

use super::link::{is_errno, name_error};

/// Priority of our filter; any would do, there is no other.
const PRIORITY: u16 = 1;

/// Every protocol, in network byte order as `tcm_info` wants it.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// Redirects both ways between two links, by index.
pub(super) async fn join(handle: &Handle, link: u32, tap: u32) -> Result<(), String> {
    redirect(handle, link, tap).await?;
    redirect(handle, tap, link).await
}

/// Removes the redirection of a link, if there is one.
pub(super) async fn separate(handle: &Handle, link: u32) -> Result<(), String> {
    let index = index(link)?;
    match ingress_kind(handle, index).await?.as_deref() {
        Some("ingress") => {
            let mut request = handle.qdisc().del(index);
            request.message_mut().header.parent = TcHandle::INGRESS;
            match request.execute().await {
                // It went, perhaps with its link, since it was listed.
                Err(err) if is_errno(&err, libc::ENOENT) || is_errno(&err, libc::ENODEV) => Ok(()),
                other => name_error("remove the ingress qdisc", other),
            }
        }
        _ => Ok(()),
    }
}

async fn redirect(handle: &Handle, from: u32, to: u32) -> Result<(), String> {
    let index = index(from)?;
    match ingress_kind(handle, index).await?.as_deref() {
        None => {}
        // Left by an earlier pod in the same namespace: its filter may point to a tap that is gone.
        Some("ingress") => separate(handle, from).await?,
        Some(other) => {
            return Err(format!("it has a {other} qdisc of somebody else, which Coffer cannot share"));
        }
    }
    name_error("add the ingress qdisc", handle.qdisc().add(index).ingress().execute().await)?;
    let filter = handle.traffic_filter(index).add().ingress().priority(PRIORITY).protocol(ALL_PROTOCOLS);
    let filter = filter.redirect(to).map_err(|err| err.to_string())?;
    name_error("add the redirecting filter (cls_u32 and act_mirred are needed)", filter.execute().await)
}

/// The kind of qdisc that sits at the link's ingress.
async fn ingress_kind(handle: &Handle, index: i32) -> Result<Option<String>, String> {
    let all: Result<Vec<_>, Error> = handle.qdisc().get().index(index).execute().try_collect().await;
    let all = all.map_err(|err| format!("list qdiscs: {err}"))?;
    let ingress =
        all.into_iter().find(|qdisc| qdisc.header.index == index && qdisc.header.parent == TcHandle::INGRESS);
    Ok(ingress.and_then(|qdisc| {
        qdisc.attributes.into_iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind),
            _ => None,
        })
    }))
}

fn index(link: u32) -> Result<i32, String> {
    i32::try_from(link).map_err(|_| format!("interface index {link} is out of range"))
}
