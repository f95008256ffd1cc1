//! What the guest's network shall be.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The whole network of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) routes: Vec<Route>,
    pub(crate) neighbors: Vec<Neighbor>,
}

/// A network interface, found by its MAC address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: Mac,
    /// 0: as the device says.
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<Prefix>,
}

/// One route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) device: String,
    pub(crate) destination: Prefix,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    /// `RT_SCOPE_*`.
    pub(crate) scope: u8,
    /// The gateway is reachable on the link although no route says so.
    pub(crate) onlink: bool,
    pub(crate) metric: u32,
}

/// A static neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbor {
    pub(crate) device: String,
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
    /// `NUD_*`.
    pub(crate) state: u16,
}

/// An address and the length of its network prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

/// The text is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not in the expected form")]
pub(crate) struct NotUnderstood;

impl FromStr for Prefix {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        let (address, length) = text.split_once('/').ok_or(NotUnderstood)?;
        let address: IpAddr = address.parse().map_err(|_| NotUnderstood)?;
        let length: u8 = length.parse().map_err(|_| NotUnderstood)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length > longest {
            return Err(NotUnderstood);
        }
        Ok(Prefix { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Mac {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(NotUnderstood)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotUnderstood)?;
        }
        if parts.next().is_some() { Err(NotUnderstood) } else { Ok(Mac(mac)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " dev {}", self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back_as_it_was_written() {
        assert_eq!(
            "02:00:00:00:00:0a".parse::<Mac>().map(|mac| mac.to_string()),
            Ok("02:00:00:00:00:0a".to_owned())
        );
    }

    #[test]
    fn a_mac_with_seven_bytes_is_refused() {
        assert_eq!("02:00:00:00:00:0a:0b".parse::<Mac>(), Err(NotUnderstood));
    }

    #[test]
    fn a_prefix_longer_than_its_family_is_refused() {
        assert_eq!("10.0.0.1/33".parse::<Prefix>(), Err(NotUnderstood));
        assert!("fd00::1/64".parse::<Prefix>().is_ok());
    }
}
