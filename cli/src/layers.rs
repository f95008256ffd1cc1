//! `coffer layers`: lists, verifies and prunes the layer cache.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use coffer_node::cleanup::{Standing, scan};
use coffer_node::config::Config;
use coffer_node::layers::{CachedLayer, Digest, LayerProgress, LayerStore};
use coffer_node::record::Resource;

use crate::{Health, output};

#[derive(Subcommand)]
pub(crate) enum LayersCommand {
    /// List the layers in the cache
    List,
    /// Hash every layer again; an altered one is moved away and converted anew at its next use
    Verify,
    /// Remove layers that no pod uses
    Prune {
        /// Keep what was used within so many hours
        #[arg(long, default_value_t = 24)]
        older_than_hours: u64,
    },
}

/// Runs one of the three.
pub(crate) fn run(config: &Config, command: LayersCommand, json: bool) -> anyhow::Result<Health> {
    let store = LayerStore::open(&config.layers_dir)?;
    match command {
        LayersCommand::List => list(&store, json),
        LayersCommand::Verify => verify(&store, json),
        LayersCommand::Prune { older_than_hours } => {
            let age = Duration::from_secs(older_than_hours.saturating_mul(3600));
            prune(&store, &in_use(config)?, age, json)
        }
    }
}

fn list(store: &LayerStore, json: bool) -> anyhow::Result<Health> {
    let layers = store.list()?;
    if json {
        output::json(&layers)?;
        return Ok(Health::Well);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let rows: Vec<Vec<String>> = layers.iter().map(|layer| row(layer, now)).collect();
    output::table(&["DIGEST", "SIZE", "USED", "SOURCE"], &rows)?;
    let total: u64 = layers.iter().map(|layer| layer.bytes).sum();
    println!("{} layers, {}", layers.len(), output::size(total));
    Ok(Health::Well)
}

fn row(layer: &CachedLayer, now: u64) -> Vec<String> {
    let hours = now.saturating_sub(layer.last_used_unix) / 3600;
    let source = layer.sources.first().map(|path| path.display().to_string()).unwrap_or_default();
    let digest = layer.digest.hex().chars().take(16).collect();
    vec![digest, output::size(layer.bytes), format!("{hours} h ago"), source]
}

fn verify(store: &LayerStore, json: bool) -> anyhow::Result<Health> {
    let verdicts = store.verify(&mut |progress| show(&progress, json))?;
    let altered = verdicts.iter().filter(|verdict| verdict.expected != verdict.found).count();
    if json {
        output::json(&verdicts)?;
    } else {
        for verdict in verdicts.iter().filter(|verdict| verdict.expected != verdict.found) {
            println!("ALTERED {}: it hashes to {}", verdict.expected, verdict.found);
        }
        println!("{} layers verified, {altered} altered", verdicts.len());
    }
    Ok(if altered == 0 { Health::Well } else { Health::Amiss })
}

fn prune(store: &LayerStore, in_use: &[Digest], age: Duration, json: bool) -> anyhow::Result<Health> {
    let pruned = store.prune(in_use, age)?;
    if json {
        output::json(&pruned)?;
    } else {
        let (layers, bytes) = (pruned.layers.len(), output::size(pruned.bytes));
        println!(
            "removed {layers} layers ({bytes}); kept {} in use, {} recent",
            pruned.in_use, pruned.recent
        );
    }
    Ok(Health::Well)
}

/// Digests of the layers that the records of this node's pods name, dead pods' included: `gc` comes first.
fn in_use(config: &Config) -> anyhow::Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for pod in scan(&config.run_dir)? {
        let (Standing::Alive(record) | Standing::Dead(record)) = pod.standing else { continue };
        for resource in &record.resources {
            if let Resource::Layer { digest } = resource {
                digests.push(digest.parse()?);
            }
        }
    }
    Ok(digests)
}

fn show(progress: &LayerProgress, json: bool) {
    if !json {
        // A progress line that cannot be written is not worth failing for.
        let _ = writeln!(io::stderr(), "{progress:?}");
    }
}
