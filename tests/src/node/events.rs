//! What a node's containerd tells those who watch it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::Node;
use crate::images::BUSYBOX;
use crate::wait;

/// How long an event may take.
const LIMIT: Duration = Duration::from_secs(30);

/// `ctr events`, ended when this is dropped.
pub struct Events {
    child: Child,
    file: PathBuf,
}

impl Events {
    /// Watches the CRI's namespace; from now on everything is seen.
    pub fn watch(node: &Node) -> Result<Self> {
        let file = node.layout.data.join("events.log");
        let mut command = node.ctr_in("k8s.io", ["events"]).into_command();
        let child =
            command.stdin(Stdio::null()).stdout(File::create(&file)?).stderr(Stdio::null()).spawn()?;
        let events = Self { child, file };
        // What happened before the watching began is not told, so something is done until it is.
        wait::until("containerd to tell its events", LIMIT, || {
            node.ctr_in("k8s.io", ["images", "label", BUSYBOX, "coffer.test/watched=yes"]).text()?;
            Ok(events.find("/images/update", &[])?.map(drop))
        })?;
        Ok(events)
    }

    /// The first event of `topic` that has all of `words`, once it has been told.
    pub fn told(&self, topic: &str, words: &[&str]) -> Result<String> {
        wait::until(&format!("the event {topic} with {words:?}"), LIMIT, || self.find(topic, words))
    }

    fn find(&self, topic: &str, words: &[&str]) -> Result<Option<String>> {
        let text = fs::read_to_string(&self.file)?;
        let has = |line: &&str| line.contains(topic) && words.iter().all(|word| line.contains(word));
        Ok(text.lines().find(has).map(str::to_owned))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It may have ended by itself, with containerd.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
