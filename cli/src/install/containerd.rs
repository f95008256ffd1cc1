//! What containerd and Kubernetes are told: the drop-in, and the RuntimeClass.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use coffer_node::host::{Tool, find_program};

/// The runtime's type, from which containerd derives the shim's name.
const RUNTIME_TYPE: &str = "io.containerd.coffer.v2";

/// Major version of the containerd in PATH.
pub(super) fn major_in_path() -> anyhow::Result<u8> {
    let tool = Tool::probe(Path::new("containerd"), "--version");
    let Some(version) = tool.version else {
        bail!("containerd is not in PATH: name its major version by --containerd-major");
    };
    major_of(&version).with_context(|| {
        format!("{version:?} does not name a version: name containerd's major version by --containerd-major")
    })
}

fn major_of(version: &str) -> Option<u8> {
    let number = version.split_ascii_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        word.contains('.').then(|| word.split('.').next()).flatten()?.parse::<u8>().ok()
    })?;
    (1..=2).contains(&number).then_some(number)
}

/// The program that decrypts layers on nodes which have keys: the one that containerd's own configuration names for them.
pub(crate) const DECODER: &str = "ctd-decoder";

/// Whoever unpacks encrypted layers on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpacks<'a> {
    /// Nobody has keys: this command writes placeholders.
    Placeholders(&'a Path),
    /// [`DECODER`] is there, and stays what containerd runs.
    Decoder,
}

impl<'a> Unpacks<'a> {
    /// `command` is where this command is going to be.
    pub(super) fn on_this_node(command: &'a Path) -> Self {
        if find_program(Path::new(DECODER)).is_some() { Self::Decoder } else { Self::Placeholders(command) }
    }
}

/// The drop-in: format version 2 for containerd 1.x, version 3 for 2.x.
pub(super) fn drop_in(major: u8, unpacks: Unpacks<'_>) -> String {
    let (format, plugin) = match major {
        1 => (2, "io.containerd.grpc.v1.cri"),
        _ => (3, "io.containerd.cri.v1.runtime"),
    };
    format!(
        "# Made by `coffer install`.\nversion = {format}\n\n[plugins.\"{plugin}\".containerd.runtimes.coffer]\n  \
         runtime_type = \"{RUNTIME_TYPE}\"\n  pod_annotations = [\"io.coffer.*\", \
         \"io.katacontainers.config.hypervisor.cc_init_data\"]\n  \
         privileged_without_host_devices = true\n{}",
        processors(unpacks)
    )
}

/// Stream processors for encrypted layers. The names are those that containerd's defaults have, which a file with the same ones
/// replaces: of two processors for one media type containerd takes either.
fn processors(unpacks: Unpacks<'_>) -> String {
    let Unpacks::Placeholders(command) = unpacks else { return String::new() };
    let kinds = [("tar", "tar"), ("tar.gzip", "tar+gzip"), ("tar.zstd", "tar+zstd")];
    let one = |(name, kind): (&str, &str)| {
        format!(
            "\n[stream_processors.\"io.containerd.ocicrypt.decoder.v1.{name}\"]\n  \
             accepts = [\"application/vnd.oci.image.layer.v1.{kind}+encrypted\"]\n  \
             returns = \"application/vnd.oci.image.layer.v1.tar\"\n  path = {:?}\n  args = [\"image\", \"placeholder\"]\n",
            command.display().to_string()
        )
    };
    kinds.into_iter().map(one).collect()
}

/// What the operator must still do about `config.toml`, if anything.
///
/// containerd reads drop-ins only where `imports` names them, and 1.x replaces a whole plugin's table by the last
/// file that has it, so a config.toml which configures CRI itself would lose its settings to a drop-in.
pub(super) fn obstacle(dir: &Path, major: u8, unpacks: Unpacks<'_>) -> anyhow::Result<Option<String>> {
    let path = dir.join("config.toml");
    let text = match fs::read_to_string(&path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("reading {}", path.display()))?,
    };
    let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", path.display()))?;
    let plugins = table.get("plugins").and_then(toml::Value::as_table);
    if major == 1 && plugins.is_some_and(|plugins| plugins.contains_key("io.containerd.grpc.v1.cri")) {
        return Ok(Some(format!(
            "{} configures the CRI plugin, and containerd 1.x would replace that by a drop-in: no drop-in was \
             written. Add this to {} instead:\n\n{}",
            path.display(),
            path.display(),
            drop_in(major, unpacks)
        )));
    }
    let imports = table.get("imports").and_then(toml::Value::as_array);
    let pattern = dir.join("conf.d/*.toml").display().to_string();
    let named = imports.is_some_and(|imports| imports.iter().any(|import| import.as_str() == Some(&pattern)));
    Ok((!named).then(|| format!("add to the top of {}: imports = [{pattern:?}]", path.display())))
}

/// The RuntimeClass: its overhead is the constant by which machines are sized.
pub(super) fn runtime_class(overhead_mib: u32) -> String {
    format!(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: coffer\nhandler: coffer\noverhead:\n  \
         podFixed:\n    memory: {overhead_mib}Mi\n    cpu: 100m\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_config(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.toml"), text).unwrap();
        dir
    }

    #[test]
    fn debians_version_line_names_major_1() {
        assert_eq!(major_of("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1"), Some(1));
    }

    #[test]
    fn a_version_line_with_a_v_names_major_2() {
        assert_eq!(major_of("containerd containerd.io v2.1.9 abc"), Some(2));
    }

    #[test]
    fn a_line_without_a_version_names_none() {
        assert_eq!(major_of("containerd unknown"), None);
    }

    #[test]
    fn a_drop_in_is_not_written_over_a_configured_cri_plugin_of_1_x() {
        let dir = with_config("[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"x\"\n");
        assert!(
            obstacle(dir.path(), 1, Unpacks::Decoder).unwrap().unwrap().contains("no drop-in was written")
        );
    }

    #[test]
    fn a_config_that_imports_the_directory_needs_nothing() {
        let dir = with_config("");
        let pattern = dir.path().join("conf.d/*.toml").display().to_string();
        fs::write(dir.path().join("config.toml"), format!("imports = [{pattern:?}]\n")).unwrap();
        assert_eq!(obstacle(dir.path(), 2, Unpacks::Decoder).unwrap(), None);
    }

    #[test]
    fn a_missing_config_needs_the_import() {
        let dir = tempfile::tempdir().unwrap();
        assert!(obstacle(dir.path(), 2, Unpacks::Decoder).unwrap().unwrap().contains("imports"));
    }

    #[test]
    fn both_drop_ins_are_toml() {
        for unpacks in [Unpacks::Decoder, Unpacks::Placeholders(Path::new("/usr/local/bin/coffer"))] {
            assert!(drop_in(1, unpacks).parse::<toml::Table>().is_ok());
            assert!(drop_in(2, unpacks).parse::<toml::Table>().is_ok());
        }
    }

    #[test]
    fn containerds_own_processors_of_encrypted_layers_are_replaced_where_nobody_has_keys() {
        let text = drop_in(2, Unpacks::Placeholders(Path::new("/opt/a b/coffer")));
        let table: toml::Table = text.parse().unwrap();
        let processors = table["stream_processors"].as_table().unwrap();
        assert_eq!(processors.len(), 3);
        let gzip = processors["io.containerd.ocicrypt.decoder.v1.tar.gzip"].as_table().unwrap();
        let accepts = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        assert_eq!(gzip["accepts"].as_array().unwrap()[0].as_str(), Some(accepts));
        assert_eq!(gzip["path"].as_str(), Some("/opt/a b/coffer"));
        assert!(!drop_in(2, Unpacks::Decoder).contains("stream_processors"));
    }
}
