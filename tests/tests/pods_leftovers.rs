//! Whatever dies, whenever it dies, nothing of its pod stays on the node and nothing else on the node notices.
//!
//! ```text
//! victim   shim, virtual machine, agent (the guest panics), containerd
//! moment   during create, running, during exec, during stop, during delete
//! round    a pod; strike; what waited has returned; the kubelet's cleanup; five seconds; nothing left; the bystander answers
//! ```
//! `COFFER_SEED` repeats a run, `COFFER_ROUNDS` makes it longer or shorter, `COFFER_PAIR` makes each round the one pair of
//! victim and moment that a round of this number has.

use std::fs;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use coffer_tests::cri::Cri;
use coffer_tests::leftovers::{Inventory, Process, of_node};
use coffer_tests::node::{Node, Pod, container, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::progress::say;
use coffer_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pod_tests! {
    coffer_only nothing_is_left_whatever_dies_whenever;
}

const ROUNDS: u64 = 100;
/// How long a call may take whose pod was struck.
const RETURNS: Duration = Duration::from_secs(90);
/// How long after the cleanup something of a pod may still be there.
const CLEAN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Shim,
    Machine,
    Agent,
    Containerd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Create,
    Running,
    Exec,
    Stop,
    Delete,
}

const VICTIMS: [Victim; 4] = [Victim::Shim, Victim::Machine, Victim::Agent, Victim::Containerd];
const MOMENTS: [Moment; 5] = [Moment::Create, Moment::Running, Moment::Exec, Moment::Stop, Moment::Delete];

fn nothing_is_left_whatever_dies_whenever(node: &mut Node) -> Result<()> {
    let seed = number("COFFER_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let rounds = number("COFFER_ROUNDS").unwrap_or(ROUNDS);
    say(&format!("leftovers: COFFER_SEED={seed} COFFER_ROUNDS={rounds}"));
    let only = number("COFFER_PAIR").map(usize::try_from).transpose()?;
    let mut chance = Chance(seed);
    let mut bystander = Pod::start(node, sandbox(node, "bystander"))?;
    let stands = bystander.run(&container("stands", &["sleep", "100000"]))?;
    let start = Instant::now();
    for number in 0..rounds {
        // Every pair in turn, each time at another instant.
        let pair = match only {
            Some(pair) => pair,
            None => usize::try_from(number)?,
        };
        let (victim, moment) = (VICTIMS[pair % 4], MOMENTS[pair / 4 % 5]);
        let delay = Duration::from_millis(chance.below(1500));
        let round = Round {
            name: format!("round{number}"),
            victim,
            moment,
            delay,
            before: Inventory::take(&node.layout),
        };
        let what = format!("round {number}: {victim:?} during {moment:?} after {} ms", delay.as_millis());
        round.run(node, &bystander.id).with_context(|| format!("{what}, COFFER_SEED={seed}"))?;
        let answer =
            bystander.sh(&stands, "echo untouched").with_context(|| format!("the bystander after {what}"))?;
        ensure!(answer == "untouched\n", "after {what} the bystander says {answer:?}");
        if number % 10 == 9 {
            say(&format!(
                "leftovers: {} rounds in {} s, nothing left",
                number + 1,
                start.elapsed().as_secs()
            ));
        }
    }
    bystander.remove()
}

struct Round {
    name: String,
    victim: Victim,
    moment: Moment,
    delay: Duration,
    before: Inventory,
}

/// A call that runs beside the test.
struct Call(Receiver<Result<String>>);

impl Call {
    fn begin(work: impl FnOnce() -> Result<String> + Send + 'static) -> Self {
        let (send, result) = channel();
        thread::spawn(move || {
            // Nobody listens any more when the round has failed.
            let _ = send.send(work());
        });
        Self(result)
    }

    /// Waits until the call has returned, with whatever result.
    fn returned(self, what: &str) -> Result<Result<String>> {
        self.0
            .recv_timeout(RETURNS)
            .with_context(|| format!("{what} has not returned {} s after the strike", RETURNS.as_secs()))
    }
}

impl Round {
    fn run(&self, node: &mut Node, bystander: &str) -> Result<()> {
        if self.moment == Moment::Create && self.victim != Victim::Agent {
            self.strike_a_pod_in_the_making(node)?;
        } else {
            self.strike_a_pod(node)?;
        }
        self.clean_up(&node.cri(), bystander)?;
        let clean = wait::until_true("the node to be clean", CLEAN, || self.added(node).is_empty());
        clean.map_err(|_| {
            anyhow::anyhow!("{} s after the cleanup there is still:\n{}", CLEAN.as_secs(), self.added(node))
        })
    }

    fn added(&self, node: &Node) -> Inventory {
        Inventory::take(&node.layout).added_since(&self.before)
    }

    fn strike_a_pod_in_the_making(&self, node: &mut Node) -> Result<()> {
        let (cri, config, handler) = (node.cri(), sandbox(node, &self.name), node.runtime.handler());
        std::fs::create_dir_all(&config.log_directory)?;
        let strangers = pids(node);
        let making = Call::begin(move || cri.run_sandbox(&config, handler));
        wait::until("a process of the new pod", RETURNS, || {
            Ok((pids(node).len() > strangers.len()).then_some(()))
        })?;
        wait::let_pass(self.delay);
        self.strike(node, &strangers, None)?;
        // It may fail, or have been done before the strike; it must not hang.
        making.returned("RunPodSandbox").map(drop)
    }

    fn strike_a_pod(&self, node: &mut Node) -> Result<()> {
        let strangers = pids(node);
        let mut config = sandbox(node, &self.name);
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
        let mut pod = Pod::start(node, config)?;
        let mut config = container("main", &["testbox", "trap", "SIGUSR1"]);
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
        let main = pod.run(&config)?;
        let call = self.call(&pod, &main);
        wait::let_pass(self.delay);
        self.strike(node, &strangers, Some((&pod, &main)))?;
        if let Some(call) = call {
            call.returned(&format!("the call at the moment {:?}", self.moment))?.ok();
        }
        if self.victim != Victim::Containerd && self.moment != Moment::Delete {
            // The CRI's own Wait has returned when the container counts as ended.
            pod.wait(&main).context("nobody noticed the container's end")?;
        }
        Ok(())
    }

    /// What goes on while the strike comes.
    fn call(&self, pod: &Pod, main: &str) -> Option<Call> {
        let (cri, id, main) = (pod.cri.clone(), pod.id.clone(), main.to_owned());
        let config = pod.config.clone();
        match self.moment {
            Moment::Running => None,
            Moment::Create => Some(Call::begin(move || {
                let second = cri.create(&id, &config, &container("second", &["sleep", "1000"]))?;
                cri.start(&second).map(|()| second)
            })),
            Moment::Exec => Some(Call::begin(move || {
                let ended = cri.exec(&main, &["sleep", "30"], None)?;
                Ok(ended.exit_code.to_string())
            })),
            // The process ignores SIGTERM, so the grace runs out.
            Moment::Stop => {
                Some(Call::begin(move || cri.stop(&main, Duration::from_secs(2)).map(|()| String::new())))
            }
            Moment::Delete => Some(Call::begin(move || {
                cri.stop_sandbox(&id)?;
                cri.remove_sandbox(&id).map(|()| String::new())
            })),
        }
    }

    fn strike(&self, node: &mut Node, strangers: &[u32], pod: Option<(&Pod, &str)>) -> Result<()> {
        match (self.victim, pod) {
            (Victim::Shim, _) => {
                kill_newest(node, strangers, |found| found.program == "containerd-shim-coffer-v2")
            }
            (Victim::Machine, _) => kill_newest(node, strangers, Process::is_machine),
            (Victim::Containerd, _) => {
                node.kill_containerd()?;
                remove_half_deleted(node)?;
                node.start_containerd()
            }
            (Victim::Agent, Some((pod, main))) => {
                panic_guest(&pod.cri, main);
                Ok(())
            }
            (Victim::Agent, None) => {
                bail!("a pod in the making has no container that could make its guest panic")
            }
        }
    }

    /// What a kubelet does with every pod that it does not know: stop and remove it, again until that succeeds.
    fn clean_up(&self, cri: &Cri, bystander: &str) -> Result<()> {
        let mut last = String::new();
        let cleaned = wait::until("the pod to be removed", RETURNS, || {
            let mut others = cri.sandboxes()?.into_iter().filter(|id| id != bystander);
            let removed =
                others.try_for_each(|id| cri.stop_sandbox(&id).and_then(|()| cri.remove_sandbox(&id)));
            Ok(removed.map_err(|error| last = format!("{error:#}")).ok())
        });
        cleaned.with_context(|| format!("containerd cannot remove the pod: {last}"))
    }
}

/// Ends what containerd had begun: it deletes a bundle under a hidden name (`atomicDelete` of its core/runtime/v2/bundle.go) and
/// passes over hidden names when it comes back, so that one that was killed in between leaves it behind, with any runtime.
fn remove_half_deleted(node: &Node) -> Result<()> {
    for bundle in fs::read_dir(node.layout.bundles("k8s.io")).into_iter().flatten() {
        let bundle = bundle?;
        if bundle.file_name().as_encoded_bytes().starts_with(b".") {
            fs::remove_dir_all(bundle.path())?;
        }
    }
    Ok(())
}

/// Makes the guest's kernel panic from a privileged container.
fn panic_guest(cri: &Cri, main: &str) {
    let (cri, main) = (cri.clone(), main.to_owned());
    thread::spawn(move || {
        // It ends with the guest; that nothing came of it would be seen in the round.
        let _ = cri.exec(&main, &["sh", "-c", "echo c > /proc/sysrq-trigger"], Some(Duration::from_secs(60)));
    });
}

/// Kills the newest process of this kind that was not there before; one that is gone already has had its end.
fn kill_newest(node: &Node, strangers: &[u32], kind: impl Fn(&Process) -> bool) -> Result<()> {
    let newest = of_node(&node.layout)
        .into_iter()
        .filter(|found| kind(found) && !strangers.contains(&found.pid))
        .map(|found| found.pid)
        .max();
    if let Some(pid) = newest {
        let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
    }
    Ok(())
}

fn pids(node: &Node) -> Vec<u32> {
    of_node(&node.layout).into_iter().map(|found| found.pid).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Numbers by chance that a seed repeats (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}
