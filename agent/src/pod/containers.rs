//! Containers and their processes by id.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Occupant, Pod, PodError, Seat};
use crate::container::{
    Container, ContainerError, ContainerSpec, CreateParams, Exit, Process, ProcessSpec, ProcessState,
    ResourceUpdate, StdioRequest, WindowSize,
};
use crate::image::{LayerSource, Rootfs};

/// The longest container id.
const MAX_ID: usize = 128;

/// A container to be made.
#[derive(Debug)]
pub(crate) struct NewContainer {
    pub(crate) id: String,
    /// OCI config.json.
    pub(crate) spec: Vec<u8>,
    /// Lowest first.
    pub(crate) layers: Vec<LayerSource>,
    pub(crate) stdio: StdioRequest,
}

/// A further process to be made.
#[derive(Debug)]
pub(crate) struct NewProcess {
    pub(crate) id: ProcessId,
    /// OCI `process` object.
    pub(crate) process: Vec<u8>,
    pub(crate) stdio: StdioRequest,
}

/// Names a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) container: String,
    /// Empty: the init process.
    pub(crate) exec: String,
}

/// How a process is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub(crate) state: ProcessState,
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
}

impl Pod {
    /// Makes a container, whose init process then waits to be started.
    pub(crate) async fn create(&self, new: NewContainer) -> Result<Status, PodError> {
        let pid_namespace = self.pid_namespace(&new.spec).await?;
        let id = new.id.clone();
        self.take_seat(&id)?;
        let seated = match self.make(new, pid_namespace).await {
            Ok(occupant) => self.seat(&id, Arc::new(occupant)).await,
            Err(error) => Err(error),
        };
        if seated.is_err() {
            let mut containers = self.containers();
            self.forget_secrets(&id);
            containers.remove(&id);
            self.shared.streams.forget(&id, "");
        }
        seated
    }

    async fn seat(&self, id: &str, occupant: Arc<Occupant>) -> Result<Status, PodError> {
        let filled = self.fill(id, Seat::Filled(occupant.clone()));
        if filled.is_err() {
            self.discard(id, &occupant.container).await;
            occupant.close().await;
        }
        filled.map(|()| status(&occupant.container.init()))
    }

    /// From here on a signal finds the container. One for it that came before found nothing: so a container that was to end
    /// while it was made is not seated.
    fn fill(&self, id: &str, seat: Seat) -> Result<(), PodError> {
        let mut containers = self.containers();
        self.check_secrets(id)?;
        containers.insert(id.to_owned(), seat);
        Ok(())
    }

    async fn make(
        &self,
        new: NewContainer,
        pid_namespace: Option<crate::container::SharedPidNamespace>,
    ) -> Result<Occupant, PodError> {
        let id = new.id.clone();
        let permit = self.permit(&id)?;
        let mut spec = ContainerSpec::parse(&new.spec).map_err(PodError::container(&id))?;
        log_notes(&id, &spec.notes);
        self.resolve_mounts(&mut spec).await?;
        let door = self.give_secrets(&id, &mut spec).await?;
        let mounted = self.shared.images.mount(&id, permit, &new.layers).await;
        let rootfs = mounted.map_err(PodError::image(&id))?;
        let params = CreateParams {
            id: id.clone(),
            spec,
            rootfs: rootfs.path().to_owned(),
            pid_namespace,
            stdio: new.stdio,
        };
        let container = self.shared.runtime.create(params).await.map_err(PodError::container(&id))?;
        if let Err(error) = self.announce(&id, "", &container.init()) {
            self.discard(&id, &container).await;
            return Err(error);
        }
        Ok(Occupant {
            container,
            rootfs: std::sync::Mutex::new(Some(rootfs)),
            door: std::sync::Mutex::new(door),
        })
    }

    /// Adds a process to a container; it waits to be started.
    pub(crate) async fn exec(&self, new: NewProcess) -> Result<(), PodError> {
        let ProcessId { container: id, exec } = new.id;
        check_id("exec_id", &exec)?;
        let occupant = self.occupant(&id)?;
        let mut spec = ProcessSpec::parse(&new.process).map_err(PodError::container(&id))?;
        self.unseal(&id, &mut spec).await?;
        let process =
            occupant.container.exec(&exec, spec, new.stdio).await.map_err(PodError::container(&id))?;
        if let Err(error) = self.check_secrets(&id) {
            // It was made after the container was ended. It may have exited in between, which is what is wanted.
            let _ = process.signal(libc::SIGKILL);
            process.wait().await;
            occupant.container.forget(&exec).map_err(PodError::container(&id))?;
            return Err(error);
        }
        self.announce(&id, &exec, &process)
    }

    /// Makes a process's streams known.
    fn announce(&self, id: &str, exec: &str, process: &Process) -> Result<(), PodError> {
        let Some(stdio) = process.take_stdio() else { return Ok(()) };
        let announced = self.shared.streams.announce(id, exec, stdio);
        let watch = |source| ContainerError::Agent { action: "watch the streams of a process", source };
        announced.map_err(|error| PodError::container(id)(watch(error)))
    }

    /// Finds a process.
    pub(crate) fn process(&self, id: &ProcessId) -> Result<Process, PodError> {
        let occupant = self.occupant(&id.container)?;
        let found = occupant.container.process(&id.exec);
        found.ok_or_else(|| PodError::NoProcess { id: id.container.clone(), exec: id.exec.clone() })
    }

    /// Finds a container.
    pub(crate) fn container(&self, id: &str) -> Result<Container, PodError> {
        Ok(self.occupant(id)?.container.clone())
    }

    /// How a process is.
    pub(crate) fn state(&self, id: &ProcessId) -> Result<Status, PodError> {
        Ok(status(&self.process(id)?))
    }

    /// Lets a process execve.
    pub(crate) async fn start(&self, id: &ProcessId) -> Result<Status, PodError> {
        let process = self.process(id)?;
        process.start().await.map_err(PodError::container(&id.container))?;
        Ok(status(&process))
    }

    /// Returns when a process has exited.
    pub(crate) async fn wait(&self, id: &ProcessId) -> Result<Status, PodError> {
        let process = self.process(id)?;
        process.wait().await;
        Ok(status(&process))
    }

    /// Sends a signal to a process, or to every process of its container.
    pub(crate) fn signal(&self, id: &ProcessId, signal: i32, all: bool) -> Result<(), PodError> {
        let sent = if all {
            self.container(&id.container)?.signal_all(signal)
        } else {
            self.process(id)?.signal(signal)
        };
        sent.map_err(PodError::container(&id.container))
    }

    /// Sets the size of a process's terminal.
    pub(crate) fn resize(&self, id: &ProcessId, size: WindowSize) -> Result<(), PodError> {
        self.process(id)?.resize(size).map_err(PodError::container(&id.container))
    }

    /// Closes a process's stdin, after what is on its stream.
    pub(crate) fn close_stdin(&self, id: &ProcessId) -> Result<(), PodError> {
        self.process(id)?;
        self.shared.streams.close_stdin(&id.container, &id.exec);
        Ok(())
    }

    /// Freezes or thaws a container.
    pub(crate) async fn freeze(&self, id: &str, frozen: bool) -> Result<(), PodError> {
        let container = self.container(id)?;
        let done = if frozen { container.pause().await } else { container.resume().await };
        done.map_err(PodError::container(id))
    }

    /// Changes a container's limits, given as OCI `linux.resources`.
    pub(crate) async fn update(&self, id: &str, resources: &[u8]) -> Result<(), PodError> {
        let container = self.container(id)?;
        let update = ResourceUpdate::parse(resources).map_err(PodError::container(id))?;
        container.update(&update).await.map_err(PodError::container(id))
    }

    /// The processes of a container, by their numbers in the guest.
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<u32>, PodError> {
        self.container(id)?.pids().map_err(PodError::container(id))
    }

    /// A container's control group counters, also after its exit.
    pub(crate) fn stats(&self, id: &str) -> Result<coffer_protocol::agent::Stats, PodError> {
        self.container(id)?.stats().map_err(PodError::container(id))
    }

    /// Forgets an exited process; the container goes with its init process.
    pub(crate) async fn delete(&self, id: &ProcessId) -> Result<Status, PodError> {
        if id.exec.is_empty() {
            self.forget_admission(&id.container);
        }
        let occupant = self.occupant(&id.container)?;
        let process = self.process(id)?;
        match process.state() {
            ProcessState::Stopped => {}
            // It has never run, so nothing is lost with it.
            ProcessState::Created => {
                // It may have exited in between, which is what is wanted.
                let _ = process.signal(libc::SIGKILL);
                process.wait().await;
            }
            ProcessState::Running | ProcessState::Paused => {
                return Err(PodError::StillRunning { id: id.container.clone(), exec: id.exec.clone() });
            }
        }
        if id.exec.is_empty() {
            self.delete_container(&id.container, &occupant).await?;
        } else {
            occupant.container.forget(&id.exec).map_err(PodError::container(&id.container))?;
            self.shared.streams.forget(&id.container, &id.exec);
        }
        Ok(status(&process))
    }

    async fn delete_container(&self, id: &str, occupant: &Arc<Occupant>) -> Result<(), PodError> {
        let deleted = occupant.container.delete().await;
        deleted.map_err(PodError::container(id))?;
        self.shared.streams.forget_all(id);
        occupant.close().await;
        let mut containers = self.containers();
        // Another call may have deleted it, and a third one made a new container of that name.
        let same = matches!(containers.get(id), Some(Seat::Filled(seated)) if Arc::ptr_eq(seated, occupant));
        if same {
            self.forget_secrets(id);
            containers.remove(id);
        }
        Ok(())
    }

    async fn discard(&self, id: &str, container: &Container) {
        if let Err(error) = container.destroy().await {
            tracing::error!(container = id, %error, "a container that was not wanted stays");
        }
    }

    /// All containers.
    pub(super) fn all(&self) -> Vec<Container> {
        let filled = |seat: &Seat| match seat {
            Seat::Filled(occupant) => Some(occupant.container.clone()),
            Seat::Taken => None,
        };
        self.containers().values().filter_map(filled).collect()
    }

    /// Refuses an id that is none, or that a container has.
    pub(super) fn check_vacant(&self, id: &str) -> Result<(), PodError> {
        check_id("container_id", id)?;
        if self.containers().contains_key(id) {
            return Err(PodError::ContainerExists { id: id.to_owned() });
        }
        Ok(())
    }

    fn take_seat(&self, id: &str) -> Result<(), PodError> {
        check_id("container_id", id)?;
        let mut containers = self.containers();
        if containers.contains_key(id) {
            return Err(PodError::ContainerExists { id: id.to_owned() });
        }
        containers.insert(id.to_owned(), Seat::Taken);
        Ok(())
    }

    fn occupant(&self, id: &str) -> Result<Arc<Occupant>, PodError> {
        match self.containers().get(id) {
            Some(Seat::Filled(occupant)) => Ok(occupant.clone()),
            Some(Seat::Taken) | None => Err(PodError::NoContainer { id: id.to_owned() }),
        }
    }

    fn containers(&self) -> MutexGuard<'_, std::collections::HashMap<String, Seat>> {
        self.shared.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Occupant {
    async fn close(&self) {
        let rootfs: Option<Rootfs> = self.rootfs.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Unmounting may write to the host's disks, and what does not come to its end there is gone all the same.
        let _ = tokio::task::spawn_blocking(move || drop(rootfs)).await;
        drop(self.door.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn status(process: &Process) -> Status {
    Status { state: process.state(), pid: process.pid(), exit: process.exit() }
}

/// Says what of a specification is left out in a guest.
fn log_notes(container: &str, notes: &[String]) {
    for note in notes {
        tracing::info!(container, note);
    }
}

/// The id names directories.
fn check_id(field: &'static str, id: &str) -> Result<(), PodError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=MAX_ID).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(plain) {
        return Ok(());
    }
    let value = id.chars().take(MAX_ID).collect();
    Err(PodError::Field {
        field,
        value,
        expected: "1 to 128 letters, digits, '.', '_' and '-', no '.' in front",
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::thread;

    use coffer_protocol::Digest;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::attest::Attested;
    use crate::chain::Chain;
    use crate::container::{Runtime, RuntimeConfig};
    use crate::gate::samples::{image, policy, sealed_image};
    use crate::image::ImageError;
    use crate::network::Plan;
    use crate::pod::{Admitted, Class};
    use crate::sandbox::{SHM, Settings, Space};

    /// Runs `test` with a pod that has a `/run`, a host name and a network of its own, and no control groups.
    fn with_pod(test: impl AsyncFnOnce(Pod) + Send + 'static) {
        let run = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(Some("test"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            let cgroups = Path::new("/run/cgroups");
            fs::create_dir_all(cgroups.join("pod")).unwrap();
            fs::write(cgroups.join("cgroup.controllers"), "").unwrap();
            fs::write(cgroups.join("pod/cgroup.controllers"), "").unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let config = RuntimeConfig { cgroup_root: cgroups.to_owned(), parent: "pod".to_owned() };
                test(Pod::new(Runtime::new(config).unwrap())).await;
            });
        });
        run.join().unwrap();
    }

    fn settings() -> Settings {
        Settings {
            hostname: "pod".to_owned(),
            network: Plan::default(),
            sysctls: Vec::new(),
            shm_bytes: 1 << 20,
            scratch: Space::Memory(1 << 20),
            launched: None,
            image_policy: None,
        }
    }

    fn container(id: &str) -> NewContainer {
        let process = r#"{"cwd":"/","user":{"uid":0,"gid":0},"args":["/x"]}"#;
        let linux = r#"{"namespaces":[{"type":"mount"},{"type":"pid"}]}"#;
        let spec = format!(
            r#"{{"ociVersion":"1.1.0","process":{process},"root":{{"path":"rootfs"}},"linux":{linux}}}"#
        );
        let stdio = StdioRequest { stdin: false, stdout: false, stderr: false, terminal: None };
        NewContainer { id: id.to_owned(), spec: spec.into_bytes(), layers: Vec::new(), stdio }
    }

    #[test]
    fn there_is_no_container_without_a_sandbox() {
        with_pod(async |pod| {
            assert!(matches!(pod.create(container("c")).await, Err(PodError::NoSandbox)));
        });
    }

    #[test]
    fn a_sandbox_is_prepared_once() {
        with_pod(async |pod| {
            pod.prepare(&settings(), false).await.unwrap();
            assert!(matches!(pod.prepare(&settings(), false).await, Err(PodError::SandboxExists)));
            let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            assert!(mounts.contains(&format!("{SHM} tmpfs")), "{mounts}");
        });
    }

    #[test]
    fn a_sandbox_whose_preparation_failed_takes_no_container() {
        with_pod(async |pod| {
            let sysctls = vec![("net.no_such_setting".to_owned(), "1".to_owned())];
            let broken = Settings { sysctls, ..settings() };
            assert!(matches!(pod.prepare(&broken, false).await, Err(PodError::Sandbox { .. })));
            assert!(matches!(pod.create(container("c")).await, Err(PodError::NoSandbox)));
        });
    }

    #[test]
    fn a_container_that_could_not_be_made_leaves_its_id_free() {
        with_pod(async |pod| {
            pod.prepare(&settings(), false).await.unwrap();
            let no_layer = |error: &PodError| matches!(error, PodError::Image { source, .. } if matches!(**source, ImageError::NoLayer));
            let first = pod.create(container("c")).await.unwrap_err();
            let second = pod.create(container("c")).await.unwrap_err();
            assert!(no_layer(&first) && no_layer(&second), "{first:?}, {second:?}");
            assert!(matches!(pod.container("c"), Err(PodError::NoContainer { .. })));
        });
    }

    #[test]
    fn a_container_whose_secret_is_taken_back_while_it_is_made_is_not_seated() {
        with_pod(async |pod| {
            pod.prepare(&settings(), false).await.unwrap();
            let uri = "kbs:///acme/key/1";
            let attested = Arc::new(Attested::holding(uri, b"a secret"));
            assert!(pod.shared.attested.set(attested.clone()).is_ok());
            for id in ["a", "b"] {
                pod.take_seat(id).unwrap();
            }
            attested.give("a", uri).await;
            // Where a container is being made there is nothing yet to end.
            attested.lose(uri);
            assert!(matches!(pod.container("a"), Err(PodError::NoContainer { .. })));
            let error = pod.fill("a", Seat::Taken).unwrap_err();
            assert!(Chain(&error).to_string().contains("taken back"), "{error:?}");
            assert!(pod.fill("b", Seat::Taken).is_ok());
            // Another one of that name is not meant.
            pod.containers().remove("a");
            assert!(pod.create(container("a")).await.is_err());
            pod.take_seat("a").unwrap();
            assert!(pod.fill("a", Seat::Taken).is_ok());
        });
    }

    /// Settings with a node's policy of one requirement.
    fn judging(kind: &str, dry_run: bool) -> Settings {
        Settings { image_policy: Some(policy(kind, dry_run)), ..settings() }
    }

    #[test]
    fn a_container_whose_image_was_not_judged_is_refused_where_a_policy_decides() {
        with_pod(async |pod| {
            pod.prepare(&judging("insecureAcceptAnything", false), false).await.unwrap();
            let error = pod.create(container("c")).await.unwrap_err();
            assert_eq!(error.class(), Class::PermissionDenied);
            assert!(Chain(&error).to_string().contains("was not judged"), "{error:?}");
        });
    }

    #[test]
    fn an_image_that_the_policy_refuses_is_refused_with_its_reason() {
        with_pod(async |pod| {
            pod.prepare(&judging("reject", false), false).await.unwrap();
            let error = pod.admit("c", sealed_image()).await.unwrap_err();
            assert_eq!(error.class(), Class::PermissionDenied);
            assert!(Chain(&error).to_string().contains("/default/0 of the policy"), "{error:?}");
            assert_eq!(pod.create(container("c")).await.unwrap_err().class(), Class::PermissionDenied);
        });
    }

    #[test]
    fn an_admission_is_good_for_one_attempt_with_as_many_disks_as_layers() {
        with_pod(async |pod| {
            pod.prepare(&judging("insecureAcceptAnything", false), false).await.unwrap();
            assert!(matches!(pod.admit("c", sealed_image()).await, Ok(Admitted::Sealed { .. })));
            let error = pod.create(container("c")).await.unwrap_err();
            let disks = |source: &ImageError| matches!(source, ImageError::Disks { expected: 1, found: 0 });
            assert!(matches!(&error, PodError::Image { source, .. } if disks(source)), "{error:?}");
            let again = pod.create(container("c")).await.unwrap_err();
            assert!(Chain(&again).to_string().contains("was not judged"), "{again:?}");
        });
    }

    #[test]
    fn an_image_is_remembered_once_from_its_admission_on_though_no_container_is_made_of_it() {
        with_pod(async |pod| {
            pod.prepare(&judging("insecureAcceptAnything", false), false).await.unwrap();
            let shown = &pod.shared.admissions.shown;
            for (container, changes) in [("c", 1), ("d", 1)] {
                pod.admit(container, sealed_image()).await.unwrap();
                assert_eq!(shown.changes(), changes);
            }
            pod.admit("c", image(&[b"layer"], serde_json::json!({}))).await.unwrap();
            assert_eq!(shown.changes(), 2);
        });
    }

    #[test]
    fn a_container_is_not_made_before_its_layers_have_come() {
        with_pod(async |pod| {
            pod.prepare(&judging("insecureAcceptAnything", false), false).await.unwrap();
            let admitted = pod.admit("c", image(&[b"layer"], serde_json::json!({}))).await.unwrap();
            let digest = Digest::of(b"layer");
            assert!(matches!(admitted, Admitted::Wanted { digests, .. } if digests == [digest]));
            assert!(pod.begin_layer("d", digest).await.is_err());
            assert!(pod.begin_layer("c", Digest::of(b"other")).await.is_err());
            let unpacking = pod.begin_layer("c", digest).await.unwrap();
            // It is no archive.
            assert!(unpacking.run(&mut std::io::Cursor::new(b"layer")).is_err());
            let error = pod.create(container("c")).await.unwrap_err();
            assert_eq!(error.class(), Class::PermissionDenied);
            assert!(Chain(&error).to_string().contains(&digest.to_string()), "{error:?}");
        });
    }

    #[test]
    fn an_image_that_was_judged_while_its_container_was_made_is_not_kept_for_the_next() {
        with_pod(async |pod| {
            pod.prepare(&judging("insecureAcceptAnything", false), false).await.unwrap();
            let gate = pod.shared.gate.get().unwrap().clone();
            let verdict = gate.judge(sealed_image(), coffer_image::UnixTime(0)).unwrap();
            pod.take_seat("c").unwrap();
            assert!(matches!(pod.answer("c", verdict), Err(PodError::ContainerExists { .. })));
            pod.containers().remove("c");
            let error = pod.create(container("c")).await.unwrap_err();
            assert!(Chain(&error).to_string().contains("was not judged"), "{error:?}");
        });
    }

    #[test]
    fn an_admission_is_for_its_own_container_and_gone_when_that_is_deleted() {
        with_pod(async |pod| {
            pod.prepare(&judging("insecureAcceptAnything", false), false).await.unwrap();
            pod.admit("c", sealed_image()).await.unwrap();
            let other = pod.create(container("d")).await.unwrap_err();
            assert!(Chain(&other).to_string().contains("was not judged"), "{other:?}");
            let init = ProcessId { container: "c".to_owned(), exec: String::new() };
            assert!(matches!(pod.delete(&init).await, Err(PodError::NoContainer { .. })));
            let error = pod.create(container("c")).await.unwrap_err();
            assert!(Chain(&error).to_string().contains("was not judged"), "{error:?}");
        });
    }

    #[test]
    fn a_dry_run_tells_what_it_would_refuse_and_goes_on_with_the_disks() {
        with_pod(async |pod| {
            pod.prepare(&judging("reject", true), false).await.unwrap();
            let admitted = pod.admit("c", sealed_image()).await.unwrap();
            assert!(matches!(admitted, Admitted::Rehearsed { reason, .. } if reason.contains("/default/0")));
            let error = pod.create(container("c")).await.unwrap_err();
            assert!(
                matches!(&error, PodError::Image { source, .. } if matches!(**source, ImageError::NoLayer))
            );
        });
    }

    #[test]
    fn a_policy_that_cannot_be_read_leaves_no_sandbox() {
        with_pod(async |pod| {
            let error = pod.prepare(&judging("whatever", false), false).await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument);
            assert!(Chain(&error).to_string().contains("image policy"), "{error:?}");
            assert!(matches!(pod.admit("c", sealed_image()).await, Err(PodError::NoSandbox)));
        });
    }

    #[test]
    fn a_specification_that_is_none_is_an_invalid_argument() {
        with_pod(async |pod| {
            pod.prepare(&settings(), false).await.unwrap();
            let broken = NewContainer { spec: b"{}".to_vec(), ..container("c") };
            assert_eq!(pod.create(broken).await.unwrap_err().class(), Class::InvalidArgument);
        });
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        assert!(check_id("container_id", "../c").is_err());
        assert!(check_id("container_id", "").is_err());
        assert!(check_id("container_id", ".").is_err());
        assert!(check_id("container_id", "a.b_c-1").is_ok());
    }
}
