//! What containerd sends on standard input and reads back on standard output, in both of its start protocols.
//!
//! Up to 2.2 the input is one `Any` with the runtime's options and the answer a bare address, which stands for task
//! API version 2. From 2.3 on the input is `BootstrapParams` and the answer `BootstrapResult`. The two inputs are
//! told apart by fields that an `Any` does not have. Version 2 is answered in both: containerd then runs `start` and
//! `delete` for every container, so that a container whose shim died is cleaned up.

use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::options::config_path;

/// The task API version that `start` answers.
const TASK_VERSION: i32 = 2;

/// Input of `start`, whichever protocol it came in.
#[derive(Debug, Default, PartialEq)]
pub(super) struct StartInput {
    /// Whether containerd speaks the protocol of 2.3.
    pub(super) params: bool,
    /// containerd's gRPC address, when the input names it.
    pub(super) address: Option<String>,
    /// containerd's ttrpc address, when the input names it.
    pub(super) ttrpc_address: Option<String>,
    /// Directory for the shim's socket, when containerd asks for one.
    pub(super) socket_dir: Option<PathBuf>,
    /// Path of our configuration from the runtime options.
    pub(super) config_path: Option<PathBuf>,
    /// Whether debug logging is asked for.
    pub(super) debug: bool,
}

impl StartInput {
    /// Reads the bytes of standard input; what is not understood counts as absent.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        match BootstrapParams::parse_from_bytes(bytes) {
            Ok(params)
                if !params.containerd_grpc_address.is_empty()
                    || !params.containerd_ttrpc_address.is_empty() =>
            {
                Self::from_params(params)
            }
            _ => Self {
                config_path: Any::parse_from_bytes(bytes).ok().and_then(|any| config_path(&any)),
                ..Self::default()
            },
        }
    }

    fn from_params(params: BootstrapParams) -> Self {
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        Self {
            params: true,
            address: text(&params.containerd_grpc_address),
            ttrpc_address: text(&params.containerd_ttrpc_address),
            socket_dir: params.socket_dir.as_deref().and_then(text).map(PathBuf::from),
            config_path: params.extensions.iter().filter_map(|e| e.value.as_ref()).find_map(config_path),
            debug: params.log_level.value() < 0,
        }
    }

    /// The bytes that answer `start` with `address`.
    pub(super) fn answer(&self, address: &str) -> Result<Vec<u8>, protobuf::Error> {
        if !self.params {
            return Ok(address.as_bytes().to_vec());
        }
        let result = BootstrapResult {
            version: TASK_VERSION,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..Default::default()
        };
        result.write_to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;

    fn options(path: &str) -> Any {
        let mut value = vec![0x0a, 1, b'x', 0x12, u8::try_from(path.len()).unwrap()];
        value.extend_from_slice(path.as_bytes());
        Any { type_url: "runtimeoptions.v1.Options".to_owned(), value, ..Default::default() }
    }

    #[test]
    fn the_options_of_containerd_1_6_carry_the_configuration_path() {
        let input = StartInput::parse(&options("/etc/c.toml").write_to_bytes().unwrap());
        assert_eq!(
            input,
            StartInput { config_path: Some(PathBuf::from("/etc/c.toml")), ..StartInput::default() }
        );
    }

    #[test]
    fn bootstrap_params_are_told_from_an_any() {
        let mut params = BootstrapParams {
            instance_id: "a".to_owned(),
            namespace: "k8s.io".to_owned(),
            containerd_grpc_address: "unix:///run/c.sock".to_owned(),
            ..Default::default()
        };
        params.extensions.push(Extension { value: Some(options("/e")).into(), ..Default::default() });
        let input = StartInput::parse(&params.write_to_bytes().unwrap());
        assert!(input.params);
        assert_eq!(input.config_path, Some(PathBuf::from("/e")));
    }

    #[test]
    fn an_old_containerd_gets_the_bare_address() {
        assert_eq!(StartInput::default().answer("unix:///a").unwrap(), b"unix:///a");
    }

    #[test]
    fn a_new_containerd_gets_version_two() {
        let input = StartInput { params: true, ..StartInput::default() };
        let result = BootstrapResult::parse_from_bytes(&input.answer("unix:///a").unwrap()).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (2, "ttrpc"));
    }

    #[test]
    fn garbage_on_standard_input_counts_as_no_options() {
        assert_eq!(StartInput::parse(&[0xff; 32]), StartInput::default());
    }
}
