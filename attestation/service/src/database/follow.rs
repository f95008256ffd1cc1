//! What other replicas change, as they change it: a connection that listens, made anew whenever it ends.
//!
//! ```text
//! LISTEN ── something may have been missed: told ── each notification: told ── each second a question: is it still there?
//! ```
//! Nothing is decided by what is heard here: whoever is told looks at the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Error};

use super::connect::Postgres;

const SECOND: Duration = Duration::from_secs(1);
/// How often challenges that expired are forgotten, and the others counted.
const SWEEP: Duration = Duration::from_secs(10);
/// The most challenges that are remembered at once: some 100 MB of the server's disk.
const MOST: i64 = 1_000_000;

/// Counts in `news` whatever may have changed, and says in `full` whether challenges can be remembered, without an end.
pub(super) async fn follow(postgres: Postgres, news: watch::Sender<u64>, full: Arc<AtomicBool>) {
    loop {
        if let Ok(Ok(live)) = timeout(postgres.patience, postgres.connect(Some(news.clone()))).await {
            // Ends when the connection does.
            let _ = listen(&live.client, &postgres, &news, &full).await;
        }
        tokio::time::sleep(SECOND / 2).await;
    }
}

async fn listen(
    client: &Client,
    postgres: &Postgres,
    news: &watch::Sender<u64>,
    full: &AtomicBool,
) -> Result<(), Error> {
    client.batch_execute("LISTEN coffer").await?;
    news.send_modify(|count| *count = count.wrapping_add(1));
    let mut swept: Option<Instant> = None;
    loop {
        let question = async {
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
                swept = Some(Instant::now());
                sweep(client, full).await
            } else {
                client.check_connection().await
            }
        };
        match timeout(postgres.patience, question).await {
            Ok(answer) => answer?,
            Err(_) => return Ok(()),
        }
        tokio::time::sleep(SECOND).await;
    }
}

/// By the server's clock, as they were taken; a minute later, should that be set back.
async fn sweep(client: &Client, full: &AtomicBool) -> Result<(), Error> {
    let old = "DELETE FROM coffer_spent WHERE expiry < extract(epoch FROM clock_timestamp()) - 60";
    client.execute_typed(old, &[]).await?;
    let row = client.query_typed_one("SELECT count(*) FROM coffer_spent", &[]).await?;
    full.store(row.try_get::<_, i64>(0)? >= MOST, Ordering::Relaxed);
    Ok(())
}
