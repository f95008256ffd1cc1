//! Files and directories of the node in a pod, as a kubelet prepares them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coffer_tests::cri::messages::{ContainerConfig, Device, DnsConfig, Mount, Resources};
use coffer_tests::node::{Node, Pod, container, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::run::Run;
use coffer_tests::wait;

pod_tests! {
    on_both_ends the_pod_s_own_files_are_there;
    on_both_ends the_termination_log_comes_back;
    on_both_ends an_empty_directory_is_shared_by_containers;
    on_both_ends a_configuration_is_swapped_as_a_whole;
    on_both_ends the_node_s_directories_are_seen_with_the_rights_given;
    once a_single_file_of_the_node_can_be_mounted;
    once a_file_written_by_the_node_later_is_seen;
    once a_directory_in_memory_has_its_size;
    once owners_modes_and_links_survive;
    once a_large_tree_can_be_written_and_read_back;
    once an_empty_directory_outlives_its_containers;
    once a_part_of_an_empty_directory_is_the_same_directory;
    once a_block_device_of_the_node_is_one_of_the_pod;
    coffer_only a_socket_of_the_node_is_refused;
    coffer_only the_file_server_of_a_directory_is_in_the_pod_s_record;
}

const SLEEP: &[&str] = &["sleep", "1000"];
/// How long a change on the node may take to be seen in a pod.
const SEEN: Duration = Duration::from_secs(20);

fn the_pod_s_own_files_are_there(node: &mut Node) -> Result<()> {
    let mut config = sandbox(node, "files");
    config.dns_config = Some(DnsConfig {
        servers: vec!["192.0.2.53".into()],
        searches: vec!["search.test".into()],
        options: vec!["ndots:5".into()],
    });
    let mut pod = Pod::start(node, config)?;
    let main = pod.run(&container("main", SLEEP))?;
    let resolv = pod.sh(&main, "cat /etc/resolv.conf")?;
    ensure!(resolv == "search search.test\nnameserver 192.0.2.53\noptions ndots:5\n", "{resolv}");
    ensure!(pod.sh(&main, "cat /etc/hostname")? == "files\n");
    ensure!(pod.sh(&main, "cat /etc/hosts")?.contains("localhost"));
    let shared = pod.sh(&main, "df -k /dev/shm | tail -n 1")?;
    ensure!(shared.contains("65536"), "/dev/shm: {shared}");
    pod.remove()
}

fn the_termination_log_comes_back(node: &mut Node) -> Result<()> {
    let log = file(node, "termination-log", "")?;
    let mut pod = Pod::start(node, sandbox(node, "log"))?;
    let mut config = container("main", &["sh", "-c", "printf 'out of luck' > /dev/termination-log; exit 1"]);
    config.mounts = vec![mount(&log, "/dev/termination-log", false)];
    let main = pod.run(&config)?;
    pod.wait(&main)?;
    let text = fs::read_to_string(&log)?;
    ensure!(text == "out of luck", "{text:?}");
    pod.remove()
}

fn an_empty_directory_is_shared_by_containers(node: &mut Node) -> Result<()> {
    let directory = directory(node, "volumes/kubernetes.io~empty-dir/cache")?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
    let mut pod = Pod::start(node, sandbox(node, "empty"))?;
    let writes = pod.run(&with_mount(container("writes", SLEEP), &directory, "/cache", false))?;
    let reads = pod.run(&with_mount(container("reads", SLEEP), &directory, "/cache", true))?;
    pod.sh(&writes, "echo kept > /cache/file")?;
    ensure!(pod.sh(&reads, "cat /cache/file")? == "kept\n");
    let refused = pod.cri.exec(&reads, &["touch", "/cache/other"], None)?;
    ensure!(refused.exit_code != 0, "a read-only mount was written to");
    pod.remove()
}

fn a_configuration_is_swapped_as_a_whole(node: &mut Node) -> Result<()> {
    let volume = directory(node, "volumes/kubernetes.io~configmap/settings")?;
    publish(&volume, "..first", &[("a", "one"), ("b", "one")])?;
    let mut pod = Pod::start(node, sandbox(node, "settings"))?;
    // Says every pair that it ever sees, so that a mixed one cannot go by. The link is followed once for a pair: whoever
    // follows it for each file may see two versions on any file system.
    let watch = "while true; do set -- $(cd /settings/..data && cat a b 2>/dev/null); \
                 [ \"$*\" = \"$last\" ] || { last=\"$*\"; echo \"pair $last\"; }; done";
    let main = pod.run(&with_mount(container("main", &["sh", "-c", watch]), &volume, "/settings", true))?;
    wait_for_log(&pod, "pair one")?;
    ensure!(pod.sh(&main, "cat /settings/a")? == "one\n");
    publish(&volume, "..second", &[("a", "two"), ("b", "two"), ("c", "new")])?;
    wait_for_log(&pod, "pair two two")?;
    ensure!(pod.sh(&main, "cat /settings/a /settings/c")? == "two\nnew\n");
    pod.remove()
}

fn the_node_s_directories_are_seen_with_the_rights_given(node: &mut Node) -> Result<()> {
    let readable = directory(node, "readable")?;
    let writable = directory(node, "writable")?;
    fs::write(readable.join("file"), "of the node\n")?;
    fs::create_dir_all(readable.join("deep/er"))?;
    fs::write(readable.join("deep/er/file"), "deep\n")?;
    let mut pod = Pod::start(node, sandbox(node, "paths"))?;
    let mut config = with_mount(container("main", SLEEP), &readable, "/readable", true);
    config.mounts.push(mount(&writable, "/writable", false));
    let main = pod.run(&config)?;
    ensure!(pod.sh(&main, "cat /readable/file /readable/deep/er/file")? == "of the node\ndeep\n");
    ensure!(
        pod.cri.exec(&main, &["touch", "/readable/x"], None)?.exit_code != 0,
        "a read-only path was written to"
    );
    pod.sh(
        &main,
        "echo returned > /writable/file && mkdir /writable/dir && mv /writable/file /writable/dir/moved",
    )?;
    let returned = fs::read_to_string(writable.join("dir/moved")).context("nothing came back")?;
    ensure!(returned == "returned\n", "{returned:?}");
    pod.remove()
}

fn a_single_file_of_the_node_can_be_mounted(node: &mut Node) -> Result<()> {
    let given = file(node, "given", "first\n")?;
    let mut pod = Pod::start(node, sandbox(node, "file"))?;
    let mut config = with_mount(container("main", SLEEP), &given, "/etc/given", false);
    config.mounts.push(mount(&file(node, "fixed", "fixed\n")?, "/etc/fixed", true));
    let main = pod.run(&config)?;
    ensure!(pod.sh(&main, "cat /etc/given /etc/fixed")? == "first\nfixed\n");
    pod.sh(&main, "echo second > /etc/given")?;
    wait::until("the file to come back", SEEN, || {
        Ok(Some(fs::read_to_string(&given)?).filter(|text| text == "second\n"))
    })?;
    ensure!(pod.cri.exec(&main, &["sh", "-c", "echo x > /etc/fixed"], None)?.exit_code != 0);
    pod.remove()
}

fn a_file_written_by_the_node_later_is_seen(node: &mut Node) -> Result<()> {
    let shared = directory(node, "shared")?;
    let mut pod = Pod::start(node, sandbox(node, "later"))?;
    let main = pod.run(&with_mount(container("main", SLEEP), &shared, "/shared", false))?;
    fs::write(shared.join("late"), "late\n")?;
    wait::until("the late file to be seen", SEEN, || {
        Ok(Some(()).filter(|()| pod.sh(&main, "cat /shared/late").is_ok_and(|text| text == "late\n")))
    })?;
    fs::write(shared.join("late"), "later\n")?;
    wait::until("the change to be seen", SEEN, || {
        Ok(Some(()).filter(|()| pod.sh(&main, "cat /shared/late").is_ok_and(|text| text == "later\n")))
    })?;
    pod.remove()
}

fn a_directory_in_memory_has_its_size(node: &mut Node) -> Result<()> {
    let memory = directory(node, "volumes/kubernetes.io~empty-dir/memory")?;
    let mounted = InMemory::mount(&memory, 8)?;
    let mut pod = Pod::start(node, sandbox(node, "memory"))?;
    let main = pod.run(&with_mount(container("main", SLEEP), &memory, "/memory", false))?;
    pod.sh(&main, "dd if=/dev/zero of=/memory/fits bs=1M count=4 2>/dev/null")?;
    let too_much =
        pod.cri.exec(&main, &["dd", "if=/dev/zero", "of=/memory/more", "bs=1M", "count=20"], None)?;
    ensure!(too_much.exit_code != 0, "a directory of 8 MiB took 24");
    pod.remove()?;
    drop(mounted);
    Ok(())
}

fn owners_modes_and_links_survive(node: &mut Node) -> Result<()> {
    let shared = directory(node, "shared")?;
    fs::write(shared.join("file"), "x")?;
    fs::set_permissions(shared.join("file"), fs::Permissions::from_mode(0o640))?;
    std::os::unix::fs::chown(shared.join("file"), Some(1234), Some(4321))?;
    symlink("file", shared.join("link"))?;
    let mut pod = Pod::start(node, sandbox(node, "owners"))?;
    let main = pod.run(&with_mount(container("main", SLEEP), &shared, "/shared", false))?;
    let seen = pod.sh(&main, "stat -c '%u %g %a' /shared/file; readlink /shared/link")?;
    ensure!(seen == "1234 4321 640\nfile\n", "{seen}");
    pod.sh(&main, "touch /shared/made && chown 77:88 /shared/made && chmod 751 /shared/made && ln -s made /shared/points")?;
    let made = fs::metadata(shared.join("made"))?;
    ensure!((made.uid(), made.gid(), made.mode() & 0o7777) == (77, 88, 0o751), "{made:?}");
    ensure!(fs::read_link(shared.join("points"))? == Path::new("made"));
    pod.remove()
}

fn a_large_tree_can_be_written_and_read_back(node: &mut Node) -> Result<()> {
    let shared = directory(node, "shared")?;
    let mut pod = Pod::start(node, sandbox(node, "tree"))?;
    let main = pod.run(&with_mount(container("main", SLEEP), &shared, "/shared", false))?;
    let write = "cd /shared; for d in 1 2 3 4 5 6 7 8; do mkdir $d; for f in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $d-$f > $d/$f; done; done; \
                 testbox bytes 3000001 5 > large; find . -type f | wc -l; testbox hash < large";
    let seen = pod.sh(&main, write)?;
    ensure!(seen.starts_with("97\n3000001 "), "{seen}");
    ensure!(fs::read_to_string(shared.join("7/11"))? == "7-11\n");
    let bytes = fs::read(shared.join("large"))?;
    let tool = coffer_tests::run::Run::new(coffer_tests::artefacts::testbox()?);
    let digest = tool.arg("hash").input(bytes).text()?;
    ensure!(seen.ends_with(&digest), "{seen} is not {digest}");
    pod.remove()
}

fn an_empty_directory_outlives_its_containers(node: &mut Node) -> Result<()> {
    let directory = directory(node, "volumes/kubernetes.io~empty-dir/cache")?;
    let mut pod = Pod::start(node, sandbox(node, "outlives"))?;
    let writes = &["sh", "-c", "echo kept > /cache/file"];
    let init = pod.run(&with_mount(container("init", writes), &directory, "/cache", false))?;
    pod.wait(&init)?;
    pod.remove_container(&init)?;
    let main = pod.run(&with_mount(container("main", SLEEP), &directory, "/cache", false))?;
    ensure!(pod.sh(&main, "cat /cache/file")? == "kept\n");
    pod.remove()
}

fn a_part_of_an_empty_directory_is_the_same_directory(node: &mut Node) -> Result<()> {
    let whole = directory(node, "volumes/kubernetes.io~empty-dir/cache")?;
    let part = directory(node, "volumes/kubernetes.io~empty-dir/cache/a/b")?;
    let sub_path = directory(node, "volume-subpaths/cache/main/0")?;
    let bound = Mounted::bind(&part, &sub_path)?;
    let mut pod = Pod::start(node, sandbox(node, "part"))?;
    let mut config = with_mount(container("main", SLEEP), &whole, "/whole", false);
    config.mounts.push(mount(&sub_path, "/part", false));
    let main = pod.run(&config)?;
    pod.sh(&main, "echo seen > /part/file")?;
    ensure!(pod.sh(&main, "cat /whole/a/b/file")? == "seen\n");
    pod.remove()?;
    drop(bound);
    Ok(())
}

fn a_block_device_of_the_node_is_one_of_the_pod(node: &mut Node) -> Result<()> {
    let image = file(node, "image", "")?;
    fs::write(&image, vec![b'a'; 4 << 20])?;
    let device = LoopDevice::on(&image)?;
    let mut pod = Pod::start(node, sandbox(node, "block"))?;
    let mut config = container("main", SLEEP);
    let host_path = device.0.clone();
    config.devices = vec![Device { container_path: "/dev/data".into(), host_path, permissions: "rw".into() }];
    let main = pod.run(&config)?;
    ensure!(pod.sh(&main, "head -c 3 /dev/data")? == "aaa");
    // containerd sends the node's device rules along with new limits.
    pod.cri.update(&main, Resources { cpu_shares: 512, ..Default::default() })?;
    pod.sh(&main, "printf new | dd of=/dev/data conv=notrunc,fsync 2>/dev/null")?;
    pod.remove()?;
    drop(device);
    let written = fs::read(&image)?;
    ensure!(written.starts_with(b"newaaa") && written.len() == 4 << 20, "the device was not written to");
    Ok(())
}

fn a_socket_of_the_node_is_refused(node: &mut Node) -> Result<()> {
    let path = directory(node, "files")?.join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path)?;
    let mut pod = Pod::start(node, sandbox(node, "socket"))?;
    let config = with_mount(container("main", SLEEP), &path, "/socket", false);
    let refused = pod.run(&config).err().context("a socket was mounted")?;
    ensure!(format!("{refused:#}").contains("a virtual machine cannot reach"), "{refused:#}");
    pod.remove()
}

fn the_file_server_of_a_directory_is_in_the_pod_s_record(node: &mut Node) -> Result<()> {
    let shared = directory(node, "shared")?;
    let mut pod = Pod::start(node, sandbox(node, "record"))?;
    let main = pod.run(&with_mount(container("main", SLEEP), &shared, "/shared", false))?;
    let record = node.layout.pods().join("k8s.io").join(&pod.id).join("record.json");
    let servers = || -> Result<Vec<i64>> {
        let text = fs::read_to_string(&record)?;
        let parsed: serde_json::Value = serde_json::from_str(&text)?;
        let all = parsed["resources"].as_array().context("a record without resources")?;
        let shares = all.iter().filter(|found| found.to_string().contains("\"role\":\"share\""));
        Ok(shares
            .filter_map(|found| found.pointer("/process/pid").or(found.pointer("/pid"))?.as_i64())
            .collect())
    };
    let found = servers()?;
    ensure!(found.len() == 1, "one server was expected in {}", fs::read_to_string(&record)?);
    let line = fs::read_to_string(format!("/proc/{}/cmdline", found[0]))?;
    ensure!(line.contains("--root-fd"), "process {} is {line:?}", found[0]);
    pod.remove_container(&main)?;
    ensure!(servers()?.is_empty(), "a server that is gone is still in the record");
    pod.remove()
}

/// A bind mount on the node, for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(from: &Path, to: &Path) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(Self(to.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A loop device of the node, by its path, for as long as this lives.
struct LoopDevice(String);

impl LoopDevice {
    fn on(image: &Path) -> Result<Self> {
        let path = Run::new("losetup").args(["--find", "--show"]).args([image]).text()?;
        Ok(Self(path.trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Run::new("losetup").args(["--detach", &self.0]).text();
    }
}

/// A file system in memory on the node, for as long as this lives.
struct InMemory(PathBuf);

impl InMemory {
    fn mount(at: &Path, mebibytes: u32) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        let options = format!("size={mebibytes}m");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Publishes `files` in `volume` as a kubelet does: a complete new directory, then one rename of the link `..data`.
fn publish(volume: &Path, version: &str, files: &[(&str, &str)]) -> Result<()> {
    fs::create_dir(volume.join(version))?;
    for (name, text) in files {
        fs::write(volume.join(version).join(name), format!("{text}\n"))?;
        let link = volume.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    let old = fs::read_link(volume.join("..data")).ok();
    symlink(version, volume.join("..data_tmp"))?;
    fs::rename(volume.join("..data_tmp"), volume.join("..data"))?;
    old.map_or(Ok(()), |old| fs::remove_dir_all(volume.join(old)).map_err(Into::into))
}

fn wait_for_log(pod: &Pod, line: &str) -> Result<()> {
    let looked = wait::until(&format!("{line:?} in the log"), SEEN, || {
        Ok(Some(()).filter(|()| pod.log("main").is_ok_and(|log| log.contains(line))))
    });
    looked.with_context(|| format!("the log: {:?}", pod.log("main").unwrap_or_default()))?;
    let log = pod.log("main")?;
    let mixed = log.lines().find(|line| line.contains("one two") || line.contains("two one"));
    ensure!(mixed.is_none(), "a mixed state was seen: {mixed:?}");
    Ok(())
}

fn directory(node: &Node, name: &str) -> Result<PathBuf> {
    let path = node.layout.kubelet().join("pods/1234").join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn file(node: &Node, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory(node, "files")?.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

fn mount(from: &Path, to: &str, readonly: bool) -> Mount {
    Mount { container_path: to.into(), host_path: from.display().to_string(), readonly, propagation: 0 }
}

fn with_mount(mut config: ContainerConfig, from: &Path, to: &str, readonly: bool) -> ContainerConfig {
    config.mounts.push(mount(from, to, readonly));
    config
}
