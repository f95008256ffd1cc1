//! Initdata, as its author writes it and as a pod's annotation has it.

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::service::Verifier;
use crate::cri::messages::SandboxConfig;
use crate::run::Run;

/// Which images pods take that are not about images.
pub const ANY_IMAGE: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;

/// Initdata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initdata {
    text: String,
}

impl Initdata {
    /// For guests of `verifier` that wish for what `coffer` says, a `coffer.toml`, and take any image.
    pub fn new(verifier: &Verifier, coffer: &str) -> Result<Self> {
        Self::with_images(verifier, coffer, ANY_IMAGE)
    }

    /// The same, of guests that take the images that `policy` lets them.
    pub fn with_images(verifier: &Verifier, coffer: &str, policy: &str) -> Result<Self> {
        let (url, certificate) = (verifier.url(), verifier.certificate()?);
        let agent = format!("[token_configs.kbs]\nurl = \"{url}\"\ncert = \"\"\"\n{certificate}\"\"\"\n");
        Ok(Self::of(&[("aa.toml", &agent), ("coffer.toml", coffer), ("image-policy.json", policy)]))
    }

    /// With these files.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(name, content)| format!("\"{name}\" = '''\n{content}'''\n"));
        let head = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n";
        Self { text: format!("{head}{}", files.collect::<String>()) }
    }

    /// The same with one more byte at its end, which changes nothing of what it says.
    pub fn with_another_byte(&self) -> Self {
        Self { text: format!("{}\n", self.text) }
    }

    /// Its digest, in hexadecimal.
    pub fn digest(&self) -> String {
        hexadecimal(&Sha256::digest(&self.text))
    }

    /// Gives it to a pod by the annotation `key`.
    pub fn annotate(&self, mut config: SandboxConfig, key: &str) -> Result<SandboxConfig> {
        let packed = Run::new("sh").args(["-c", "gzip -c | base64 -w0"]).input(self.text.as_str()).text()?;
        config.annotations.insert(key.to_owned(), packed);
        Ok(config)
    }
}

/// Two lower-case digits for each byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
