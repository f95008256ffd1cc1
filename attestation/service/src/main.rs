//! `coffer-verifier`: reads its configuration and serves until it is told to stop. SIGHUP reads certificate and reference
//! values again.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use coffer_verifier::exchange::Verifier;
use coffer_verifier::serve::{Certificates, Config, Door, router, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Challenges guests, judges their evidence, and gives secrets to those that are known.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/coffer/verifier.toml")]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let config = Config::load(&arguments.config)?;
    for flag in config.insecure() {
        tracing::warn!(flag, "evidence of SIMULATED or no hardware is taken: for trying out only");
    }
    let certificates = Arc::new(config.certificates()?);
    let tls = Arc::new(certificates.config()?);
    let verifier = Arc::new(config.verifier()?);
    let door = Arc::new(Door::new(verifier.clone(), config.admin_token()?, config.limits));
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {}", config.listen))?;
    tracing::info!(address = %listener.local_addr()?, "serving");
    let connections = config.limits.connections;
    tokio::spawn(reload(config, certificates, verifier));
    let mut end = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = end.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    serve(listener, tls, router(door), connections, stop).await;
    Ok(())
}

/// Reads anew on each SIGHUP. What cannot be read leaves things as they are.
async fn reload(config: Config, certificates: Arc<Certificates>, verifier: Arc<Verifier>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        match certificates.reload() {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(error) => tracing::error!(error = ?error, "the certificate stays as it was"),
        }
        match config.references() {
            Ok(references) => {
                verifier.set_references(references);
                tracing::info!("the reference values were read again");
            }
            Err(error) => tracing::error!(error = ?error, "the reference values stay as they were"),
        }
    }
}
