//! What a pod writes, on the node's disk: in plain text, or such that the node can neither read it nor change it unseen.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coffer_tests::leftovers::of_node;
use coffer_tests::node::{Node, Pod, container, quoted, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::publish::flip;
use coffer_tests::verifier::{ANY_IMAGE, Initdata};
use coffer_tests::wait;

pod_tests! {
    coffer_only encrypted_scratch_is_neither_read_nor_changed_by_the_node;
    coffer_only an_encrypted_scratch_is_a_file_system_as_any_other;
    coffer_only beside_a_secure_processor_scratch_is_encrypted_unless_told_otherwise;
}

/// Nothing else that a guest writes says so.
const MARKER: &str = "the-parrot-is-called-purple-tangent";
const WRITE: &str =
    "yes the-parrot-is-called-purple-tangent | head -c 8388608 > /marker && testbox forget < /marker";
const READ: &str = "testbox hash < /marker";
const MARKER_BYTES: usize = 8 << 20;

/// More files than a group of the file system has inodes for, made by four at once; more bytes than one holds; all of it gone, and some
/// there again.
const CHURN: &str = "for j in 0 1 2 3; do (mkdir /d$j; i=0; while [ $i -lt 2100 ]; do echo $i > /d$j/$i; i=$((i+1)); done) & done; \
    wait; yes abcdefg | head -c 150994944 > /large && testbox forget < /large && testbox hash < /large > /dev/null && \
    cat /d0/* /d1/* /d2/* /d3/* | wc -l && rm -r /d? /large && mkdir /d && i=200 && \
    while [ $i -gt 0 ]; do i=$((i-1)); echo $i > /d/$i; done && cat /d/* | wc -l";

/// Small, so that a test can read all of it.
const SIZE: &str = "128";
const SIZE_BYTES: u64 = 128 << 20;
const BLOCK: usize = 4096;

/// The pod's scratch as the node has it: an unnamed file that its machine holds open.
fn disk(node: &Node) -> Result<PathBuf> {
    let below = node.layout.layers().join("scratch");
    let mut found = BTreeMap::new();
    for machine in of_node(&node.layout).iter().filter(|process| process.is_machine()) {
        for entry in fs::read_dir(format!("/proc/{}/fd", machine.pid))?.flatten() {
            let path = entry.path();
            let file = fs::metadata(&path).ok().filter(|file| file.len() == SIZE_BYTES);
            let is_below = fs::read_link(&path).is_ok_and(|target| target.starts_with(&below));
            found.extend(file.filter(|_| is_below).map(|file| (file.ino(), path)));
        }
    }
    ensure!(found.len() <= 1, "machines of the node have several such files open: {found:?}");
    let (_, path) = found
        .pop_first()
        .with_context(|| format!("no machine of the node has a file below {} open", below.display()))?;
    Ok(path)
}

fn is_written(block: &[u8]) -> bool {
    block.iter().any(|byte| *byte != 0)
}

/// What is on it once the marker is, which the guest's kernel writes when it likes.
fn written(node: &Node) -> Result<Vec<u8>> {
    wait::until("what the pod wrote, on its disk", Duration::from_secs(60), || {
        let bytes = fs::read(disk(node)?)?;
        let blocks = bytes.chunks(BLOCK).filter(|block| is_written(block)).count();
        Ok((blocks * BLOCK >= MARKER_BYTES).then_some(bytes))
    })
}

/// Whether the node finds the marker in it.
fn shows_marker(disk: &[u8]) -> bool {
    let written = disk.chunks(BLOCK).filter(|block| is_written(block));
    let finds = |block: &[u8]| block.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
    written.into_iter().any(finds)
}

/// Where the longest run of written blocks is, and its length.
fn longest_run(disk: &[u8]) -> (usize, usize) {
    let (mut longest, mut run) = ((0, 0), (0, 0));
    for (number, block) in disk.chunks(BLOCK).enumerate() {
        run = if is_written(block) { (run.0, run.1 + BLOCK) } else { ((number + 1) * BLOCK, 0) };
        longest = if run.1 > longest.1 { run } else { longest };
    }
    longest
}

/// Starts a container of the pod that stays, and writes the marker.
fn write_marker(pod: &mut Pod) -> Result<String> {
    let main = pod.run(&container("main", &["sleep", "1000"]))?;
    pod.sh(&main, WRITE)?;
    Ok(main)
}

fn encrypted_scratch_is_neither_read_nor_changed_by_the_node(node: &mut Node) -> Result<()> {
    // That it is found where nothing hides it shows that it is looked for rightly.
    node.write_coffer_config(&[("scratch.kind", "\"disk\""), ("scratch.size_mib", SIZE)])?;
    let mut plain = Pod::start(node, sandbox(node, "plain"))?;
    write_marker(&mut plain)?;
    ensure!(shows_marker(&written(node)?), "the marker is not on a disk that is not encrypted");
    plain.remove()?;

    node.write_coffer_config(&[("scratch.kind", "\"encrypted\""), ("scratch.size_mib", SIZE)])?;
    let mut pod = Pod::start(node, sandbox(node, "encrypted"))?;
    let main = write_marker(&mut pod)?;
    let (path, hash) = (disk(node)?, pod.sh(&main, READ)?);
    let bytes = written(node)?;
    let (start, length) = longest_run(&bytes);
    ensure!(length >= MARKER_BYTES / 2, "the longest run of written blocks has {length} bytes");
    ensure!(!shows_marker(&bytes), "the node reads what the pod wrote");

    let place = (start + length / 2) as u64;
    flip(&path, place)?;
    let error = pod.sh(&main, &format!("testbox forget < /marker && {READ}")).err();
    let error = format!("{:#}", error.context("a block that the node changed was read")?);
    ensure!(error.contains("os error 5"), "another error than that of the disk: {error}");
    flip(&path, place)?;
    ensure!(pod.sh(&main, READ)? == hash, "what was written is not read any more");
    pod.remove()
}

fn an_encrypted_scratch_is_a_file_system_as_any_other(node: &mut Node) -> Result<()> {
    node.write_coffer_config(&[
        ("scratch.kind", "\"encrypted\""),
        ("scratch.size_mib", "320"),
        ("machine.default_vcpus", "2"),
    ])?;
    let mut pod = Pod::start(node, sandbox(node, "churn"))?;
    let main = pod.run(&container("main", &["sleep", "1000"]))?;
    let counted = pod.sh(&main, CHURN)?;
    ensure!(counted.split_whitespace().eq(["8400", "200"]), "{counted}");
    pod.remove()
}

fn beside_a_secure_processor_scratch_is_encrypted_unless_told_otherwise(node: &mut Node) -> Result<()> {
    let dir = quoted(&node.layout.data.join("simulated"));
    node.write_coffer_config(&[
        ("tee.kind", "\"sim\""),
        ("tee.simulated_dir", dir.as_str()),
        ("scratch.size_mib", SIZE),
    ])?;
    let initdata = Initdata::of(&[("image-policy.json", ANY_IMAGE)]);
    let mut pod = Pod::start(node, initdata.annotate(sandbox(node, "beside"), "io.coffer.initdata")?)?;
    write_marker(&mut pod)?;
    let bytes = written(node)?;
    ensure!(!shows_marker(&bytes), "the node reads what the pod wrote");
    pod.remove()
}
