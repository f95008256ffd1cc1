//! Generates the client of the agent's service from the protocol's `agent.proto`; the messages come from
//! `coffer_protocol`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let proto = "../agent/protocol/proto/agent.proto";
    println!("cargo:rerun-if-changed={proto}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
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
