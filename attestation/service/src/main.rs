//! `coffer-verifier`: reads its configuration and serves until it is told to stop. SIGHUP reads certificate, reference values
//! and key-encryption keys again, and the cache of collateral. Told to do something else it does that and ends.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Parser;
use coffer_verifier::curves::AwsLc;
use coffer_verifier::exchange::Verifier;
use coffer_verifier::operators::Oidc;
use coffer_verifier::serve::{Certificates, Clock, Config, Door, Listening, router, serve, traced};
use coffer_verifier::upkeep::{self, Order};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Challenges guests, judges their evidence, and gives secrets to those that are known.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/coffer/verifier.toml")]
    config: PathBuf,
    #[command(subcommand)]
    order: Option<Order>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    coffer_attestation::curves::choose(&AwsLc);
    let config = Config::load(&arguments.config)?;
    if let Some(order) = &arguments.order {
        return upkeep::run(order, &config);
    }
    for flag in config.insecure() {
        tracing::warn!(flag, "the configuration is INSECURE: for trying out only");
    }
    let certificates = Arc::new(config.certificates()?);
    let tls = Arc::new(config.tls(&certificates)?);
    // It may wait for a database.
    let verifier = Arc::new(tokio::task::block_in_place(|| config.verifier())?);
    tracing::info!(
        key = verifier.audit_public_key(),
        "checkpoints of the audit log are signed with this key"
    );
    let door = Arc::new(Door::new(verifier.clone()).with_authority(certificates.authority()));
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {}", config.listen))?;
    tracing::info!(address = %listener.local_addr()?, "serving");
    let router = match config.traces()? {
        Some(traces) => traced(router(door), traces),
        None => router(door),
    };
    let (limits, oidc) = (config.limits, oidc(&config).await);
    let clock: Clock = Arc::new(|| SystemTime::now().into());
    let listening = Listening { listener, tls, router, limits, oidc, clock };
    tokio::spawn(verifier.clone().follow());
    tokio::spawn(renew(certificates.clone()));
    tokio::spawn(reload(arguments.config, certificates, verifier));
    let mut end = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = end.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    serve(listening, stop).await;
    Ok(())
}

/// The check of operators' tokens, with the provider's keys if they could be read, and read again and again.
async fn oidc(config: &Config) -> Option<Arc<Oidc>> {
    let provider = config.oidc.clone()?;
    let oidc = provider.check();
    if let Err(error) = provider.refresh(&oidc, SystemTime::now().into()).await {
        tracing::warn!(error = ?error, "no operator's token is taken until the provider's keys can be read");
    }
    tokio::spawn(provider.keep_fresh(oidc.clone()));
    Some(oidc)
}

/// Replaces the certificate of the verifier's own authority when that is due.
async fn renew(certificates: Arc<Certificates>) {
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        minutes.tick().await;
        match certificates.renew(SystemTime::now().into()) {
            Ok(true) => tracing::info!("the certificate was renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = ?error, "the certificate was not renewed"),
        }
    }
}

/// Reads anew on each SIGHUP. What cannot be read leaves things as they are.
async fn reload(path: PathBuf, certificates: Arc<Certificates>, verifier: Arc<Verifier>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        tell("certificate was", certificates.reload().map_err(anyhow::Error::from));
        let (path, verifier) = (path.clone(), verifier.clone());
        let read = tokio::task::spawn_blocking(move || match Config::load(&path) {
            Ok(config) => {
                let references = || {
                    let (references, signers) = config.references()?;
                    Ok(verifier.set_references(references, signers)?)
                };
                tell("reference values were", references());
                verifier.forget_collateral();
                let keys = || Ok(verifier.replace_keys(config.key_encryption_keys()?).map(|_| ())?);
                tell("key-encryption keys were", keys());
            }
            Err(error) => tell("configuration was", Err(error.into())),
        });
        if read.await.is_err() {
            tracing::error!("reading again ended early");
        }
    }
}

fn tell(what: &'static str, read: anyhow::Result<()>) {
    match read {
        Ok(()) => tracing::info!("the {what} read again"),
        Err(error) => tracing::error!(error = ?error, "the {what} not read again and stay as they were"),
    }
}
