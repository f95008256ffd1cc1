//! What cannot work is refused with a message that says what to do, leaves nothing, and spoils nothing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coffer_tests::cri::messages::{Mount, NODE};
use coffer_tests::leftovers::{Process, of_node};
use coffer_tests::node::{Node, Pod, container, quoted, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::run::Run;
use coffer_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pod_tests! {
    coffer_only a_bundle_that_is_no_json_is_refused;
    coffer_only a_value_that_nobody_knows_is_refused;
    coffer_only a_missing_root_file_system_is_refused;
    coffer_only a_cached_layer_with_a_flipped_bit_is_refused_and_made_again;
    coffer_only a_full_disk_during_conversion_is_reported;
    coffer_only a_guest_image_unlike_its_manifest_is_refused;
    coffer_only a_kernel_that_needs_acpi_is_refused;
    coffer_only an_unreadable_configuration_is_refused;
    coffer_only an_unknown_key_is_refused;
    coffer_only a_missing_qemu_is_named;
    coffer_only an_annotation_that_is_not_allowed_is_refused;
    coffer_only the_node_s_network_is_refused;
    coffer_only the_node_s_processes_are_refused;
    coffer_only propagation_across_the_border_is_refused;
    coffer_only a_machine_that_dies_under_a_container_in_the_making_says_how;
}

fn a_bundle_that_is_no_json_is_refused(node: &mut Node) -> Result<()> {
    let bundle = node.layout.data.join("bundle");
    fs::create_dir_all(&bundle)?;
    fs::write(bundle.join("config.json"), "{ \"ociVersion\": ")?;
    let shim = Run::new(node.binaries().join("containerd-shim-coffer-v2")).directory(&bundle);
    let shim =
        shim.args(["-namespace", &node.layout.tag, "-id", "broken", "-address"]).arg(node.layout.socket());
    let ended = shim.env("COFFER_CONFIG", node.layout.coffer_config()).arg("start").end()?;
    ensure!(ended.code() != 0, "a shim was started for a broken bundle: {ended}");
    says(&format!("{}{}", ended.out(), ended.err()), &["config.json"])?;
    still_works(node)
}

fn a_value_that_nobody_knows_is_refused(node: &mut Node) -> Result<()> {
    refused(node, &["--cap-add", "CAP_TO_FLY"], &["CAP_TO_FLY"])?;
    refused(node, &["--rootfs-propagation", "sideways"], &["sideways"])?;
    let profile = node.layout.data.join("seccomp.json");
    fs::write(&profile, json!({ "defaultAction": "SCMP_ACT_LUCK" }).to_string())?;
    let path = profile.display().to_string();
    refused(node, &["--seccomp", "--seccomp-profile", &path], &["SCMP_ACT_LUCK"])?;
    still_works(node)
}

fn a_missing_root_file_system_is_refused(node: &mut Node) -> Result<()> {
    let error = run_changed(node, "/root/path", json!("/nonexistent/root"))?;
    says(&error, &["root"])?;
    still_works(node)
}

fn a_cached_layer_with_a_flipped_bit_is_refused_and_made_again(node: &mut Node) -> Result<()> {
    still_works(node)?;
    let layer = largest(&node.layout.layers(), "erofs")?;
    let file = File::options().read(true).write(true).open(&layer)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 70_000)?;
    file.write_all_at(&[byte[0] ^ 4], 70_000)?;
    let ended = node.ctr_run(&["--rm"], "c1", &["true"]).end()?;
    ensure!(ended.code() != 0, "a container ran from an altered layer");
    says(&ended.err(), &["hashes to", "expected"])?;
    clear(node, "c1")?;
    still_works(node)
}

fn a_full_disk_during_conversion_is_reported(node: &mut Node) -> Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let small = node.layout.data.join("small");
    fs::create_dir_all(&small)?;
    mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=300k"))?;
    node.write_coffer_config(&[("paths.layers_dir", &quoted(&small))])?;
    let ended = node.ctr_run(&["--rm"], "c1", &["true"]).end()?;
    // What is kept there beside layers: templates of empty scratch disks.
    let mut left = files(&small);
    left.retain(|path| {
        !path.starts_with(small.join("scratch")) && fs::metadata(path).is_ok_and(|found| found.len() > 4096)
    });
    umount2(&small, MntFlags::MNT_DETACH)?;
    ensure!(ended.code() != 0, "a layer fitted into 300 KiB");
    says(&ended.err(), &["space"])?;
    ensure!(left.is_empty(), "the failed conversion left {left:?}");
    clear(node, "c1")?;
    node.write_coffer_config(&[])?;
    still_works(node)
}

fn a_guest_image_unlike_its_manifest_is_refused(node: &mut Node) -> Result<()> {
    let copy = node.copied_guest("guest")?;
    let initrd = copy.join("initrd.img");
    let mut bytes = fs::read(&initrd)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&initrd, bytes)?;
    node.write_coffer_config(&[("paths.guest_dir", &quoted(&copy))])?;
    refused(node, &[], &["initrd", "manifest"])?;
    node.write_coffer_config(&[])?;
    still_works(node)
}

fn a_kernel_that_needs_acpi_is_refused(node: &mut Node) -> Result<()> {
    let copy = node.copied_guest("guest")?;
    let path = copy.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path)?)?;
    *manifest.pointer_mut("/boot/needs_acpi").context("a manifest that says nothing of ACPI")? = json!(true);
    fs::write(&path, manifest.to_string())?;
    node.write_coffer_config(&[("paths.guest_dir", &quoted(&copy))])?;
    refused(node, &[], &["ACPI", "coffer-guest-image build"])?;
    node.write_coffer_config(&[])?;
    still_works(node)
}

fn an_unreadable_configuration_is_refused(node: &mut Node) -> Result<()> {
    fs::remove_file(node.layout.coffer_config())?;
    fs::create_dir(node.layout.coffer_config())?;
    refused(node, &[], &["cannot read the configuration"])?;
    fs::remove_dir(node.layout.coffer_config())?;
    node.write_coffer_config(&[])?;
    still_works(node)
}

fn an_unknown_key_is_refused(node: &mut Node) -> Result<()> {
    node.write_coffer_config(&[("machine.vcpu", "2")])?;
    refused(node, &[], &["vcpu", "line"])?;
    node.write_coffer_config(&[])?;
    still_works(node)
}

fn a_missing_qemu_is_named(node: &mut Node) -> Result<()> {
    node.write_coffer_config(&[("hypervisor", "\"qemu\""), ("paths.qemu", "\"/nonexistent/qemu\"")])?;
    refused(node, &[], &["/nonexistent/qemu", "qemu-system-x86"])?;
    node.write_coffer_config(&[])?;
    still_works(node)
}

fn an_annotation_that_is_not_allowed_is_refused(node: &mut Node) -> Result<()> {
    refused(node, &["--annotation", "io.coffer.vcpus=2"], &["io.coffer.vcpus", "allowed_annotations"])?;
    node.write_coffer_config(&[("allowed_annotations", "[\"io.coffer.vcpus\"]")])?;
    let seen = node.ctr_run(&["--rm", "--annotation", "io.coffer.vcpus=2"], "c2", &["nproc"]).text()?;
    ensure!(seen == "2\n", "two processors were asked for, there are {seen}");
    node.write_coffer_config(&[])
}

fn the_node_s_network_is_refused(node: &mut Node) -> Result<()> {
    refused(node, &["--net-host"], &["network"])?;
    let mut config = sandbox(node, "host");
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().network = NODE;
    let error = Pod::start(node, config).err().context("a pod got the node's network")?;
    says(&format!("{error:#}"), &["network"])?;
    still_works(node)
}

fn the_node_s_processes_are_refused(node: &mut Node) -> Result<()> {
    let mut config = sandbox(node, "host");
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = NODE;
    let error = Pod::start(node, config).err().context("a pod got the node's processes")?;
    says(&format!("{error:#}"), &["hostPID"])?;
    still_works(node)
}

fn propagation_across_the_border_is_refused(node: &mut Node) -> Result<()> {
    let shared = node.layout.data.join("shared");
    fs::create_dir_all(&shared)?;
    let own = Propagated::shared(&shared)?;
    let mut pod = Pod::start(node, sandbox(node, "propagation"))?;
    let mut config = container("main", &["sleep", "1000"]);
    let host_path = shared.display().to_string();
    config.mounts.push(Mount {
        container_path: "/shared".into(),
        host_path,
        readonly: false,
        propagation: 2,
    });
    let error = pod.run(&config).err().context("a mount propagates out of a virtual machine")?;
    says(&format!("{error:#}"), &["propagation"])?;
    pod.remove()?;
    drop(own);
    still_works(node)
}

fn a_machine_that_dies_under_a_container_in_the_making_says_how(node: &mut Node) -> Result<()> {
    let mut pod = Pod::start(node, sandbox(node, "dies"))?;
    pod.run(&container("main", &["sleep", "1000"]))?;
    let machine = of_node(&node.layout).into_iter().find(Process::is_machine);
    let machine = Pid::from_raw(i32::try_from(machine.context("a pod without a machine")?.pid)?);
    let second = pod.cri.create(&pod.id, &pod.config, &container("second", &["sleep", "1000"]))?;
    // Stopped, its guest answers nothing, so the call is under way when it is killed.
    kill(machine, Signal::SIGSTOP)?;
    let cri = pod.cri.clone();
    let making = std::thread::spawn(move || cri.start(&second));
    wait::let_pass(Duration::from_secs(3));
    kill(machine, Signal::SIGKILL)?;
    let made = making.join().map_err(|_| anyhow::anyhow!("the call panicked"))?;
    let error = made.err().context("a container was made in a machine that is dead")?;
    says(&format!("{error:#}"), &["the virtual machine is gone", "signal 9"])?;
    pod.remove()?;
    still_works(node)
}

/// A bind mount of a directory onto itself, shared, which containerd wants below a propagating mount.
struct Propagated(PathBuf);

impl Propagated {
    fn shared(at: &Path) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        mount(Some(at), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        mount(None::<&str>, at, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Propagated {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Runs a container that must be refused with all of `words`, and leaves nothing.
fn refused(node: &Node, flags: &[&str], words: &[&str]) -> Result<()> {
    let flags: Vec<&str> = ["--rm"].iter().chain(flags).copied().collect();
    let ended = node.ctr_run(&flags, "refused", &["true"]).end()?;
    ensure!(ended.code() != 0, "it was not refused: {ended}");
    says(&ended.err(), words)?;
    clear(node, "refused")
}

/// Runs a container whose specification is the ordinary one but for `value` at `path`; answers the error.
fn run_changed(node: &Node, path: &str, value: Value) -> Result<String> {
    let command = ["container", "create", coffer_tests::images::BUSYBOX, "ordinary", "true"];
    node.ctr(command).text()?;
    let info: Value = serde_json::from_str(&node.ctr(["container", "info", "ordinary"]).text()?)?;
    node.ctr(["container", "delete", "ordinary"]).text()?;
    let mut spec = info.pointer("/Spec").context("a container without a specification")?.clone();
    let (parent, name) = path.rsplit_once('/').context("a path with a name")?;
    let parent = spec
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .with_context(|| format!("{path} has no parent"))?;
    parent.insert(name.to_owned(), value);
    let file = node.layout.data.join("spec.json");
    fs::write(&file, spec.to_string())?;
    let run =
        node.ctr(["run", "--rm", "--runtime", node.runtime.name(), "--config"]).arg(&file).arg("refused");
    let ended = run.end()?;
    ensure!(ended.code() != 0, "{path} was not refused: {ended}");
    clear(node, "refused")?;
    Ok(ended.err())
}

/// Removes what a failed `ctr run` leaves in containerd's own store, and nothing of the runtime's.
fn clear(node: &Node, id: &str) -> Result<()> {
    node.ctr(["container", "delete", id]).end()?;
    node.nothing_left()
}

fn says(text: &str, words: &[&str]) -> Result<()> {
    let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "the message does not say {missing:?}: {text}");
    Ok(())
}

fn still_works(node: &Node) -> Result<()> {
    let ended = node.ctr_run(&["--rm"], "works", &["echo", "works"]).end()?;
    ensure!(ended.code() == 0 && ended.out() == "works\n", "after the refusal: {ended}");
    Ok(())
}

fn largest(directory: &Path, extension: &str) -> Result<PathBuf> {
    let mut found = files(directory);
    found.retain(|path| path.extension().is_some_and(|have| have == extension));
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    found
        .into_iter()
        .max_by_key(size)
        .with_context(|| format!("no .{extension} below {}", directory.display()))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
