//! What containerd and Kubernetes are told: the drop-in, and the RuntimeClass.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use coffer_node::host::Tool;

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

/// The drop-in: format version 2 for containerd 1.x, version 3 for 2.x.
pub(super) fn drop_in(major: u8) -> String {
    let (format, plugin) = match major {
        1 => (2, "io.containerd.grpc.v1.cri"),
        _ => (3, "io.containerd.cri.v1.runtime"),
    };
    format!(
        "# Made by `coffer install`.\nversion = {format}\n\n[plugins.\"{plugin}\".containerd.runtimes.coffer]\n  \
         runtime_type = \"{RUNTIME_TYPE}\"\n  pod_annotations = [\"io.coffer.*\", \
         \"io.katacontainers.config.hypervisor.cc_init_data\"]\n  \
         privileged_without_host_devices = true\n"
    )
}

/// What the operator must still do about `config.toml`, if anything.
///
/// containerd reads drop-ins only where `imports` names them, and 1.x replaces a whole plugin's table by the last
/// file that has it, so a config.toml which configures CRI itself would lose its settings to a drop-in.
pub(super) fn obstacle(dir: &Path, major: u8) -> anyhow::Result<Option<String>> {
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
            drop_in(major)
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
        assert!(obstacle(dir.path(), 1).unwrap().unwrap().contains("no drop-in was written"));
    }

    #[test]
    fn a_config_that_imports_the_directory_needs_nothing() {
        let dir = with_config("");
        let pattern = dir.path().join("conf.d/*.toml").display().to_string();
        fs::write(dir.path().join("config.toml"), format!("imports = [{pattern:?}]\n")).unwrap();
        assert_eq!(obstacle(dir.path(), 2).unwrap(), None);
    }

    #[test]
    fn a_missing_config_needs_the_import() {
        let dir = tempfile::tempdir().unwrap();
        assert!(obstacle(dir.path(), 2).unwrap().unwrap().contains("imports"));
    }

    #[test]
    fn both_drop_ins_are_toml() {
        assert!(drop_in(1).parse::<toml::Table>().is_ok());
        assert!(drop_in(2).parse::<toml::Table>().is_ok());
    }
}
