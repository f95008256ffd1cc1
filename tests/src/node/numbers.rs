//! A pod's own numbers, as its shim gives them to a metrics scraper.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Node;

const LIMIT: Duration = Duration::from_secs(30);

/// Every gauge without labels of the node's only pod: name and value.
pub fn numbers(node: &Node) -> Result<BTreeMap<String, u64>> {
    match sockets(node).as_slice() {
        [one] => ask(one),
        found => bail!("one pod was expected, there are {}: {found:?}", found.len()),
    }
}

/// The same of each pod of the node, in no order.
pub fn numbers_of_all(node: &Node) -> Result<Vec<BTreeMap<String, u64>>> {
    sockets(node).iter().map(|socket| ask(socket)).collect()
}

fn ask(socket: &Path) -> Result<BTreeMap<String, u64>> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("no answer at {}", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.0 200"), "the pod's numbers: {text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// One of them.
pub fn number_of(numbers: &BTreeMap<String, u64>, name: &str) -> Result<u64> {
    numbers.get(name).copied().with_context(|| format!("no {name} among {:?}", numbers.keys()))
}

/// `<run root>/<namespace>/<pod>/metrics.sock` of each pod.
fn sockets(node: &Node) -> Vec<PathBuf> {
    let below = |directory: &PathBuf| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let pods = below(&node.layout.pods())
        .into_iter()
        .flat_map(|directory| below(&directory))
        .map(|pod| pod.join("metrics.sock"));
    pods.filter(|path| path.exists()).collect()
}
