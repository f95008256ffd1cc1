//! Generates the client of the agent's service from the protocol's `agent.proto`, whose messages come from
//! `coffer_protocol`, and the messages that containerd is asked with.

use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    agent(&out)?;
    println!("cargo:rerun-if-changed=proto/containerd.proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/containerd.proto")
        .cargo_out_dir("containerd")
        .run_from_script();
    Ok(())
}

fn agent(out: &Path) -> std::io::Result<()> {
    let proto = "../agent/protocol/proto/agent.proto";
    println!("cargo:rerun-if-changed={proto}");
    ttrpc_codegen::Codegen::new()
        .out_dir(out)
        .include("../agent/protocol/proto")
        .input(proto)
        .customize(ttrpc_codegen::Customize { async_all: true, ..Default::default() })
        .run()?;
    // Inner attributes cannot stand in an included file: the module that includes it carries them.
    let service = out.join("agent_ttrpc.rs");
    let text: Vec<String> = std::fs::read_to_string(&service)?
        .lines()
        .filter(|line| !line.starts_with("#!["))
        .map(str::to_owned)
        .collect();
    std::fs::write(&service, text.join("\n"))
}
