//! containerd goes away and comes back while pods run.

use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_tests::cri::messages::Mount;
use coffer_tests::node::{Node, Pod, container, sandbox};
use coffer_tests::pod_tests;

pod_tests! {
    // With runc, containerd from 1.7 on takes a shim whose processes have all ended for one that failed to start, and the exit
    // code is lost; so a shim has to name a process for a task that waits to be deleted.
    coffer_everywhere pods_outlive_a_restart_of_containerd;
    coffer_only pods_outlive_a_killed_containerd;
}

const PODS: usize = 5;

fn pods_outlive_a_restart_of_containerd(node: &mut Node) -> Result<()> {
    let five = five_pods(node)?;
    node.stop_containerd()?;
    std::fs::write(gate(node), "")?;
    node.start_containerd()?;
    all_go_on(five)
}

fn pods_outlive_a_killed_containerd(node: &mut Node) -> Result<()> {
    let five = five_pods(node)?;
    node.kill_containerd()?;
    std::fs::write(gate(node), "")?;
    node.start_containerd()?;
    all_go_on(five)
}

/// A file that the containers which are to end wait for; it is made while there is no containerd.
fn gate(node: &Node) -> std::path::PathBuf {
    node.layout.data.join("gate/open")
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
