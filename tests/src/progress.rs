//! A line for whoever waits: what goes on, once it has taken longer than two seconds, and how long it has taken.
//!
//! Lines go straight to standard error, past the capture of the test runner.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// After this time a step is announced.
const QUIET: Duration = Duration::from_secs(2);
/// Time between two later lines about the same step.
const AGAIN: Duration = Duration::from_secs(15);

/// Does `work`; says `what` it is once that has taken two seconds, and again from time to time.
pub fn step<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = channel();
    let name = what.to_owned();
    let teller = thread::spawn(move || tell(&name, &waiting));
    let result = work();
    finish(done, teller);
    result
}

/// Prints one line at once.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn tell(what: &str, done: &Receiver<()>) {
    let start = Instant::now();
    if done.recv_timeout(QUIET) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    say(&format!("... {what}"));
    while done.recv_timeout(AGAIN) == Err(RecvTimeoutError::Timeout) {
        say(&format!("... {what}: {} s", start.elapsed().as_secs()));
    }
    say(&format!("    {what}: done in {} s", start.elapsed().as_secs()));
}

fn finish(done: Sender<()>, teller: thread::JoinHandle<()>) {
    drop(done);
    if teller.join().is_err() {
        say("the progress line stopped early");
    }
}
