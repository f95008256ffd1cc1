//! Generates the message types from `proto/agent.proto` (pure Rust, no protoc needed).

fn main() {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/agent.proto")
        .cargo_out_dir("proto")
        .run_from_script();
}
