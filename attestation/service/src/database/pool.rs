//! Connections to a database that replicas share, and how long is waited for them.
//!
//! ```text
//! asked ── down a moment ago: refused at once ── a place among `connections` ── an open connection, or a new one ── answer
//! all of it together takes `patience` at most; a connection on which anything went wrong is not used again
//! ```

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use tokio_postgres::{Error, Row};

use super::choice::DatabaseError;
use super::connect::{Live, Postgres};
use super::follow;
use crate::chain::line_of;

/// How long others are refused after nobody could connect.
const PAUSE: Duration = Duration::from_millis(500);
/// Lets a transaction that was answered survive the server, whatever its configuration says.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";

/// A database that replicas share.
pub struct Pool {
    /// Taken when this is dropped: a runtime must not be waited for where others run.
    runtime: Option<Runtime>,
    pub(super) postgres: Postgres,
    idle: Mutex<Vec<Live>>,
    places: Semaphore,
    /// When it was found to be away.
    down: Mutex<Option<Instant>>,
    /// Counts what other replicas told.
    pub(super) news: watch::Sender<u64>,
    /// Whether no more challenges can be remembered.
    pub(super) full: Arc<AtomicBool>,
}

/// A value and its type.
pub(super) type Argument<'a> = (&'a (dyn ToSql + Sync), Type);

type Answer<T> = Result<T, DatabaseError>;

impl Pool {
    /// Connects, makes the tables if there are none, and begins to follow what others change.
    pub(super) fn open(postgres: Postgres) -> Answer<Arc<Self>> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("database").enable_all().build();
        let pool = Self {
            runtime: Some(runtime.map_err(DatabaseError::Here)?),
            places: Semaphore::new(postgres.connections),
            postgres,
            idle: Mutex::default(),
            down: Mutex::default(),
            news: watch::Sender::new(0),
            full: Arc::default(),
        };
        pool.make_tables()?;
        if let Some(runtime) = &pool.runtime {
            runtime.spawn(follow::follow(pool.postgres.clone(), pool.news.clone(), pool.full.clone()));
        }
        Ok(Arc::new(pool))
    }

    /// Changes whenever another replica changed something, or may have.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Asks; answers rows.
    pub(super) fn rows(&self, statement: &str, arguments: &[Argument<'_>]) -> Answer<Vec<Row>> {
        self.run(async |live| live.client.query_typed(statement, arguments).await)
    }

    /// Asks; answers how many rows were changed.
    pub(super) fn changed(&self, statement: &str, arguments: &[Argument<'_>]) -> Answer<u64> {
        self.run(async |live| live.client.execute_typed(statement, arguments).await)
    }

    /// Several statements without arguments, in one transaction.
    pub(super) fn batch(&self, statements: &str) -> Answer<()> {
        self.run(async |live| live.client.batch_execute(statements).await)
    }

    fn run<T>(&self, work: impl AsyncFnOnce(&Live) -> Result<T, Error>) -> Answer<T> {
        let Some(runtime) = &self.runtime else { return Err(self.away("it is being closed")) };
        if self.down().is_some_and(|since| since.elapsed() < PAUSE) {
            return Err(self.away("it was away a moment ago"));
        }
        let answer = runtime.block_on(async {
            tokio::time::timeout(self.postgres.patience, async {
                let _place = self.places.acquire().await.map_err(|_| self.away("it is being closed"))?;
                let live = match self.open_one() {
                    Some(live) => live,
                    None => self.connect().await?,
                };
                let answer = work(&live).await.map_err(|error| self.told(&error))?;
                self.idle().push(live);
                Ok(answer)
            })
            .await
        });
        let answer = answer.unwrap_or_else(|_| {
            let seconds = self.postgres.patience.as_secs();
            Err(DatabaseError::Slow { place: self.postgres.place.clone(), seconds })
        });
        self.remember(&answer);
        answer
    }

    /// Says once that the database is away, and once that it is there again.
    fn remember<T>(&self, answer: &Answer<T>) {
        let mut down = self.down();
        match answer {
            Ok(_) if down.take().is_some() => tracing::info!("the database answers again"),
            Err(error @ (DatabaseError::Unreachable { .. } | DatabaseError::Slow { .. })) => {
                if down.replace(Instant::now()).is_none() {
                    tracing::error!(%error, "until it answers requests are refused");
                }
            }
            Err(error) => tracing::error!(%error, "the database said no"),
            Ok(_) => {}
        }
    }

    fn open_one(&self) -> Option<Live> {
        let mut idle = self.idle();
        idle.retain(|live| !live.client.is_closed());
        idle.pop()
    }

    async fn connect(&self) -> Answer<Live> {
        let live = self.postgres.connect(None).await.map_err(|error| self.told(&error))?;
        live.client.batch_execute(DURABLE).await.map_err(|error| self.told(&error))?;
        Ok(live)
    }

    fn told(&self, error: &Error) -> DatabaseError {
        let place = self.postgres.place.clone();
        match error.as_db_error() {
            // Of class 57 are a server that is being stopped and one that is being started; 08 and 53 are no connection.
            Some(said) if !["57", "08", "53"].iter().any(|class| said.code().code().starts_with(class)) => {
                let (code, reason) = (said.code().code().to_owned(), said.message().to_owned());
                DatabaseError::Refused { place, code, reason }
            }
            _ => DatabaseError::Unreachable { place, reason: line_of(error) },
        }
    }

    fn away(&self, reason: &str) -> DatabaseError {
        DatabaseError::Unreachable { place: self.postgres.place.clone(), reason: reason.to_owned() }
    }

    /// A column of a row, as it must be.
    pub(super) fn column<T: FromSqlOwned>(&self, row: &Row, at: usize, table: &'static str) -> Answer<T> {
        row.try_get(at).map_err(|_| DatabaseError::Row { place: self.postgres.place.clone(), table })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Live>> {
        // Each change is one step: the list is whole even if a thread died with it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn down(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
