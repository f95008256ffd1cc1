//! containerd goes away and comes back while pods run.

use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_tests::cri::messages::Mount;
use coffer_tests::node::{Node, Pod, container, number_of, numbers_of_all, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::wait::until;

pod_tests! {
    // With runc, containerd from 1.7 on takes a shim whose processes have all ended for one that failed to start, and the exit
    // code is lost; so a shim has to name a process for a task that waits to be deleted.
    coffer_everywhere pods_outlive_a_restart_of_containerd;
    coffer_only pods_outlive_a_killed_containerd;
}

const PODS: usize = 5;
const LIMIT: Duration = Duration::from_secs(60);

fn pods_outlive_a_restart_of_containerd(node: &mut Node) -> Result<()> {
    let five = five_pods(node)?;
    node.stop_containerd()?;
    end_meanwhile(node)?;
    node.start_containerd()?;
    all_go_on(five)
}

fn pods_outlive_a_killed_containerd(node: &mut Node) -> Result<()> {
    let five = five_pods(node)?;
    node.kill_containerd()?;
    end_meanwhile(node)?;
    node.start_containerd()?;
    all_go_on(five)
}

/// A file that the containers which are to end wait for; it is made while there is no containerd.
fn gate(node: &Node) -> std::path::PathBuf {
    node.layout.data.join("gate/open")
}

/// Opens the gate and waits until the shims know that one process of each pod has ended.
///
/// An exit while containerd is on its way up would show nothing about us: containerd before 2.1 may forget it, with any runtime,
/// when it arrives between the container's `Wait` and its entry in the store (containerd issue 10390).
fn end_meanwhile(node: &Node) -> Result<()> {
    let before = processes(node)?;
    std::fs::write(gate(node), "")?;
    until("the exit of five containers", LIMIT, || {
        Ok((processes(node)? + PODS as u64 == before).then_some(()))
    })
}

/// Processes of all pods' containers that have not ended, as the shims know them.
fn processes(node: &Node) -> Result<u64> {
    numbers_of_all(node)?.iter().map(|pod| number_of(pod, "coffer_pod_processes")).sum()
}

/// A pod with a container that stays and one that ends once the gate is open.
struct Gated {
    pod: Pod,
    stays: String,
    ends: String,
}

fn five_pods(node: &Node) -> Result<Vec<Gated>> {
    std::fs::create_dir_all(node.layout.data.join("gate"))?;
    (0..PODS).map(|number| gated_pod(node, &format!("pod{number}"))).collect()
}

fn gated_pod(node: &Node, name: &str) -> Result<Gated> {
    let mut pod = Pod::start(node, sandbox(node, name))?;
    let stays = pod.run(&container("stays", &["sleep", "1000"]))?;
    let mut config =
        container("ends", &["sh", "-c", "until [ -e /gate/open ]; do usleep 20000; done; exit 33"]);
    let host_path = node.layout.data.join("gate").display().to_string();
    config.mounts.push(Mount { container_path: "/gate".into(), host_path, readonly: true, propagation: 0 });
    let ends = pod.run(&config)?;
    Ok(Gated { pod, stays, ends })
}

fn all_go_on(five: Vec<Gated>) -> Result<()> {
    for Gated { mut pod, stays, ends } in five {
        ensure!(pod.cri.sandbox_status(&pod.id)?.state == 0, "a pod is not ready after the restart");
        ensure!(pod.sh(&stays, "echo still here")? == "still here\n");
        let status = pod.wait(&ends)?;
        ensure!(status.exit_code == 33, "the exit that happened meanwhile: {status:?}");
        let late = pod.run(&container("late", &["sleep", "1000"]))?;
        ensure!(pod.sh(&late, "echo here too")? == "here too\n");
        pod.cri.stop(&stays, Duration::from_secs(1))?;
        pod.remove()?;
    }
    Ok(())
}
