//! Strangers who ask for challenges and never answer, ten thousand times a second, beside guests that are served.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::measure::{Paced, paced};
use crate::process;
use crate::running::{Conversation, Place, Service};
use crate::target::Target;

/// Challenges in one second.
const RATE: u64 = 10_000;
/// Strangers.
const FLOODS: u64 = 4;
/// Requests that a stranger sends at once, before it reads the answers.
const BURST: u64 = 50;

/// Floods for `time`. The place has no limit for one address: each challenge is really made.
pub(crate) fn run(service: &Service, place: &Place, time: Duration) -> bool {
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let guests = Paced { rate: 20, time };
    let start = Instant::now();
    let seen = std::thread::scope(|scope| {
        for _ in 0..FLOODS {
            scope.spawn(|| flood(service, place, &over, &asked));
        }
        let seen = paced(&Target::ours(service, place), guests, |_| ());
        over.store(true, Ordering::Relaxed);
        seen
    });
    let rate = asked.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    let part = rate / RATE as f64;
    println!(
        "{rate:>7.0} challenges a second that nobody answers, {part:.2} of what was asked for; beside them"
    );
    println!(
        "{:>7.1} ms p99, {:.1} ms p50 at 20 a second ({seen})",
        seen.percentile(99),
        seen.percentile(50)
    );
    println!("{:>7} KiB at most", process::memory(service.id()).peak);
    seen.whole()
}

fn flood(service: &Service, place: &Place, over: &AtomicBool, asked: &AtomicU64) {
    let body = r#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
    let head = format!("POST /kbs/v0/auth HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}", body.len());
    let burst = format!("{head}\r\n\r\n{body}").repeat(BURST as usize);
    let stream = service.tls(&place.client(None)).expect("TLS");
    let mut stream = Conversation::new(stream);
    let each = Duration::from_secs(1) * (BURST * FLOODS) as u32 / RATE as u32;
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += each;
        let first = stream.ask(burst.as_bytes()).expect("an answer");
        let others = (1..BURST).map(|_| stream.ask(b"").expect("an answer"));
        let given = std::iter::once(first).chain(others).filter(|heard| heard.status == 200).count();
        asked.fetch_add(given as u64, Ordering::Relaxed);
    }
}
