//! Certificate and key-encryption key are replaced while guests come and go: a minute of the soak in a few seconds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;

use crate::{KEY, admitted, get, keep, opened, place, until};

const ROUNDS: usize = 5;

#[test]
fn no_guest_is_turned_away_while_certificate_and_keys_are_replaced() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (log, over, served) = (service.log(), AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    let guest = |served: &AtomicU64| {
        while !over.load(Ordering::Relaxed) {
            let (guest, token) = admitted(&service, &place);
            assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
            served.fetch_add(1, Ordering::Relaxed);
        }
    };
    // Two of each: the first may have begun before.
    let all_came_anew = || {
        let before = served.each_ref().map(|count| count.load(Ordering::Relaxed));
        until(|| served.iter().zip(before).all(|(now, before)| now.load(Ordering::Relaxed) >= before + 2));
    };
    let read_again = |times: usize| {
        service.signal(Signal::HUP);
        // The keys are the last thing that is read.
        let read = |log: &str| log.matches("key-encryption keys were read again").count();
        until(|| read(&log.lock().expect("a log")) == times);
    };
    let exchanges = std::thread::scope(|scope| {
        let guests = served.each_ref().map(|served| scope.spawn(move || guest(served)));
        for round in 0..ROUNDS {
            place.renew_certificate();
            all_came_anew();
            place.renew_key();
            read_again(2 * round + 1);
            all_came_anew();
            place.keep_only_the_newest_key();
            read_again(2 * round + 2);
            all_came_anew();
        }
        over.store(true, Ordering::Relaxed);
        guests.into_iter().for_each(|guest| guest.join().expect("every exchange was good"));
        served.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>()
    });
    assert!(exchanges >= 2 * 6 * ROUNDS as u64, "{exchanges} exchanges");
    let log = log.lock().expect("a log");
    assert_eq!(log.matches("certificate was read again").count(), 2 * ROUNDS, "{log}");
    assert!(!log.contains("stay as they were"), "{log}");
}
