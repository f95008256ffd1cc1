//! What the host's side of the gate has: the node's policy for the guest, and where images and their signatures are asked for.

use std::collections::HashMap;
use std::path::Path;

use coffer_node::images::config::Images;
use coffer_node::images::{PolicyFileError, SignatureStore, read_policy};
use coffer_protocol::agent::{AdmitImageRequest, ImagePolicy};

use super::ImageError;
use super::containerd::Containerd;
use super::said::Said;

/// A pod whose guest judges images.
#[derive(Debug)]
pub(crate) struct Gate {
    containerd: String,
    namespace: String,
    store: SignatureStore,
    policy: Option<ImagePolicy>,
}

/// Where containerd answers, and for whom.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// containerd's gRPC address.
    pub(crate) containerd: String,
    /// containerd's namespace.
    pub(crate) namespace: String,
}

impl Gate {
    /// For a pod on a node with this configuration; `measured` says that its guest has a secure processor, whose initdata has
    /// the policy. `None`: nobody judges images.
    ///
    /// # Errors
    /// [`PolicyFileError`]
    pub(crate) fn open(
        images: &Images,
        measured: bool,
        asked: Asked,
    ) -> Result<Option<Self>, PolicyFileError> {
        let policy = match (&images.policy, measured) {
            (None, false) => return Ok(None),
            (Some(path), false) => Some(policy(path, images.dry_run)?),
            (_, true) => None,
        };
        let store = SignatureStore::new(&images.signatures);
        Ok(Some(Self { containerd: asked.containerd, namespace: asked.namespace, store, policy }))
    }

    /// The node's policy, for a guest without one of its own.
    pub(crate) fn policy(&self) -> Option<&ImagePolicy> {
        self.policy.as_ref()
    }

    /// Whether what is judged is told and changes nothing.
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.dry_run)
    }

    /// What containerd says of a container's image.
    ///
    /// # Errors
    /// [`ImageError`]
    pub(crate) async fn ask(
        &self,
        id: &str,
        annotations: &HashMap<String, String>,
    ) -> Result<Said, ImageError> {
        Said::ask(&self.connect().await?, id, annotations).await
    }

    /// The question to the guest, with the signatures that the node has.
    ///
    /// # Errors
    /// [`ImageError`]
    pub(crate) fn question(&self, id: &str, said: &Said) -> Result<AdmitImageRequest, ImageError> {
        let image = Some(said.message(&self.store)?).into();
        Ok(AdmitImageRequest { container_id: id.to_owned(), image, ..Default::default() })
    }

    /// A connection to containerd.
    pub(super) async fn connect(&self) -> Result<Containerd, ImageError> {
        Containerd::connect(&self.containerd, &self.namespace).await.map_err(ImageError::Containerd)
    }
}

/// The node's policy: what the guest would not understand is told at the pod's start.
fn policy(path: &Path, dry_run: bool) -> Result<ImagePolicy, PolicyFileError> {
    Ok(ImagePolicy { document: read_policy(path)?, dry_run, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REJECT: &str = r#"{"default": [{"type": "reject"}]}"#;

    fn open(policy: Option<&str>, measured: bool) -> Result<Option<Gate>, PolicyFileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        if let Some(text) = policy {
            std::fs::write(&path, text).unwrap();
        }
        let images = Images { policy: policy.map(|_| path), ..Images::default() };
        let asked = Asked { containerd: "/run/c.sock".to_owned(), namespace: "n".to_owned() };
        Gate::open(&images, measured, asked)
    }

    #[test]
    fn without_a_policy_nobody_judges() {
        assert!(open(None, false).unwrap().is_none());
    }

    #[test]
    fn the_nodes_policy_goes_to_the_guest_as_it_is() {
        let gate = open(Some(REJECT), false).unwrap().unwrap();
        assert_eq!(gate.policy().map(|policy| policy.document.as_slice()), Some(REJECT.as_bytes()));
    }

    #[test]
    fn a_guest_with_a_secure_processor_judges_by_its_own_policy() {
        assert!(open(None, true).unwrap().unwrap().policy().is_none());
        assert!(open(Some(REJECT), true).unwrap().unwrap().policy().is_none());
    }

    #[test]
    fn a_policy_that_the_guest_would_not_understand_refuses_the_pod_with_its_place() {
        let refused = open(Some(r#"{"default": [{"type": "kOfN", "k": 1, "of": ["nobody"]}]}"#), false);
        let text = format!("{:#}", anyhow::Error::new(refused.unwrap_err()));
        assert!(text.contains("policy.json") && text.contains("/requirements/nobody"), "{text}");
    }

    #[test]
    fn a_policy_that_is_no_json_names_the_line() {
        let text = format!("{:#}", anyhow::Error::new(open(Some("{\n\n,"), false).unwrap_err()));
        assert!(text.contains("line 3"), "{text}");
    }

    #[test]
    fn a_policy_that_is_not_there_is_an_error() {
        let images = Images { policy: Some("/nonexistent/policy.json".into()), ..Images::default() };
        let asked = Asked { containerd: String::new(), namespace: String::new() };
        assert!(matches!(Gate::open(&images, false, asked), Err(PolicyFileError::NoPolicy { .. })));
    }
}
