//! Clients that mean harm, and others that are served all the same.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::running::{Ask, Conversation, Place, Service, Tls};
use crate::{KEY, admitted, get, is, keep, kind, opened, place, post, until};

/// Resident memory of the service in KiB, at its highest.
fn peak(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What the whole service may have, in KiB; test builds are larger than what is shipped.
const ROOM: u64 = 160 << 10;

/// A connection that comes from another address of this machine.
fn from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from((address, 0))).expect("an address");
    rustix::net::connect(&socket, &to).expect("a connection");
    TcpStream::from(socket)
}

#[test]
fn clients_that_say_nothing_hold_up_nobody() {
    let place = place("client-connections = 100");
    let service = place.start();
    keep(&service, &place, "a secret");
    let silent: Vec<TcpStream> = (0..99).map(|_| from([127, 0, 0, 9], service.address())).collect();
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = service.tls(&place.client(None)).expect("TLS");
            stream.write_all(b"POST /kbs/v0/attest HTTP/1.1\r\ncontent-le").expect("sent");
            stream
        })
        .collect();
    let (guest, token) = admitted(&service, &place);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
    drop((silent, slow));
    assert!(peak(&service) < ROOM, "{} KiB", peak(&service));
}

#[test]
fn a_client_that_does_not_finish_its_handshakes_keeps_no_other_from_theirs() {
    let place = place("client-connections = 100");
    let service = place.start();
    let start = Instant::now();
    let halves: Vec<TcpStream> = (0..80)
        .map(|_| {
            let mut stream = from([127, 0, 0, 9], service.address());
            // The first byte of a handshake.
            stream.write_all(&[22]).expect("sent");
            stream
        })
        .collect();
    let answer = get(&service, &place, "/coffer/v1/standing", None);
    assert_eq!(answer.status, 401);
    let closed = halves.iter().filter(|socket| is_closed(socket)).count();
    // The service's own patience is ten seconds; nobody's turn was waited for.
    assert!(closed == 0 || start.elapsed() > Duration::from_secs(9), "{closed} were closed");
}

/// Sends the head of a request that says that it has a long body, and its first bytes.
fn begun(service: &Service, place: &Place, address: [u8; 4]) -> Tls {
    let mut stream = service.tls_over(from(address, service.address()), &place.client(None));
    let head = "POST /kbs/v0/attest HTTP/1.1\r\nhost: localhost\r\ncontent-length: 200000\r\n\r\n{";
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

/// Whether the service has closed it; what it sent before is passed over.
fn is_closed(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    loop {
        match socket.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn when_every_connection_is_held_by_clients_that_do_nothing_one_of_them_makes_room() {
    let place = place("connections = 40\nclient-connections = 10");
    let service = place.start();
    keep(&service, &place, "a secret");
    let start = Instant::now();
    let two = [[127, 0, 0, 11], [127, 0, 0, 12]];
    let silent: Vec<TcpStream> =
        two.iter().flat_map(|address| (0..10).map(|_| from(*address, service.address()))).collect();
    let two = [[127, 0, 0, 13], [127, 0, 0, 14]];
    let slow: Vec<Tls> =
        two.iter().flat_map(|address| (0..10).map(|_| begun(&service, &place, *address))).collect();
    let (guest, token) = admitted(&service, &place);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
    let closed =
        silent.iter().chain(slow.iter().map(|stream| &stream.sock)).filter(|socket| is_closed(socket));
    // Each of the guest's three connections took the place of at most one. The service's own patience is ten seconds.
    let (closed, patient) = (closed.count(), start.elapsed() < Duration::from_secs(9));
    assert!(closed >= 1 && (closed <= 3 || !patient), "{closed} were closed");
    assert!(peak(&service) < ROOM, "{} KiB", peak(&service));
}

#[test]
fn bodies_that_fill_all_room_keep_out_no_guest() {
    let place = place("body-bytes = 400000\nclient-body-bytes = 200000");
    let service = place.start();
    keep(&service, &place, "a secret");
    let piece = [b' '; 150_000];
    let filling: Vec<Tls> = (20..28)
        .map(|last| {
            let mut stream = begun(&service, &place, [127, 0, 0, last]);
            // The last of them are refused.
            let _ = stream.write_all(&piece);
            stream
        })
        .collect();
    let long = " ".repeat(150_000);
    let ask = Ask { line: "POST /kbs/v0/attest", header: None, body: long.as_bytes() };
    until(|| service.ask(&place, &ask).status == 503);
    let (guest, token) = admitted(&service, &place);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
    drop(filling);
    assert!(peak(&service) < ROOM, "{} KiB", peak(&service));
}

#[test]
fn a_client_has_its_share_of_connections_and_others_get_theirs() {
    let place = place("client-connections = 4");
    let service = place.start();
    let mut held: Vec<TcpStream> = (0..4).map(|_| from([127, 0, 0, 9], service.address())).collect();
    let mut fifth = from([127, 0, 0, 9], service.address());
    assert_eq!(fifth.read(&mut [0]).unwrap_or(0), 0, "closed at once");
    assert_eq!(get(&service, &place, "/.well-known/jwks.json", None).status, 200);
    held.clear();
}

#[test]
fn a_body_that_is_too_long_or_only_says_so_is_refused_without_being_kept() {
    let place = place("");
    let service = place.start();
    let mut said = service.tls(&place.client(None)).expect("TLS");
    said.write_all(b"POST /kbs/v0/attest HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n")
        .expect("sent");
    let mut answer = [0; 12];
    said.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    let mut endless = service.tls(&place.client(None)).expect("TLS");
    endless
        .write_all(b"POST /kbs/v0/auth HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        .expect("sent");
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    // Two are more than the path allows; a third might come after the answer.
    endless.write_all(&chunk).and_then(|()| endless.write_all(&chunk)).expect("sent");
    endless.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(peak(&service) < ROOM, "{} KiB", peak(&service));
}

#[test]
fn bodies_of_one_client_fill_its_share_and_no_more() {
    let place = place("client-body-bytes = 65536");
    let service = place.start();
    let long = " ".repeat(100_000);
    let refused =
        service.ask(&place, &Ask { line: "POST /kbs/v0/attest", header: None, body: long.as_bytes() });
    assert_eq!(kind(&refused), is(429, "TooManyRequests"));
    assert_eq!(get(&service, &place, "/.well-known/jwks.json", None).status, 200);
}

#[test]
fn json_that_is_nested_deeply_or_names_things_twice_is_refused() {
    let place = place("");
    let service = place.start();
    let ask = |path: &str, body: &str| {
        kind(
            &service.ask(&place, &Ask { line: &format!("POST {path}"), header: None, body: body.as_bytes() }),
        )
    };
    let deep = |levels: usize| format!("{{\"runtime-data\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(ask("/kbs/v0/attest", &deep(200_000)), is(400, "Malformed"));
    assert_eq!(ask("/kbs/v0/auth", &deep(7_000)), is(400, "Malformed"));
    let twice = "{\"version\":\"0.4.0\",\"version\":\"0.4.0\",\"tee\":\"snp\",\"extra-params\":\"\"}";
    assert_eq!(ask("/kbs/v0/auth", twice), is(400, "Malformed"));
    assert_eq!(ask("/kbs/v0/auth", "\u{0}"), is(400, "Malformed"));
    let asked = json!({"version": "0.4.0", "tee": "snp", "extra-params": ""});
    assert_eq!(post(&service, &place, "/kbs/v0/auth", &asked).status, 200);
}

#[test]
fn nested_and_oversized_bodies_one_after_another_take_no_memory_and_no_guests_turn() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let deep = format!("{{\"runtime-data\":{}", "[{\"a\":".repeat(60_000));
    let wide = format!("{{\"runtime-data\":[{}0]}}", "0,".repeat(200_000));
    let over = AtomicBool::new(false);
    let config = place.client(None);
    let harm = |body: &str| {
        let mut sent = 0;
        while !over.load(Ordering::Relaxed) {
            let socket = from([127, 0, 0, 9], service.address());
            let stream = service.tls_over(socket, &config);
            let head = format!(
                "POST /kbs/v0/attest HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let heard = Conversation::new(stream).ask(head.as_bytes()).expect("an answer");
            assert_eq!(heard.status, 400);
            sent += 1;
        }
        sent
    };
    std::thread::scope(|scope| {
        let harms = [&deep, &wide].map(|body| scope.spawn(|| harm(body)));
        for _ in 0..10 {
            let (guest, token) = admitted(&service, &place);
            assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
        }
        over.store(true, Ordering::Relaxed);
        let sent = harms.map(|harm| harm.join().expect("each was refused"));
        assert!(sent.iter().all(|sent| *sent >= 1), "{sent:?}");
    });
    assert!(peak(&service) < ROOM, "{} KiB", peak(&service));
}

/// How often `what` is in `bytes`.
fn count(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).filter(|window| window == &what).count()
}

#[test]
fn thirty_thousand_challenges_take_no_memory_and_no_other_clients_turn() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let body = br#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
    let one = [
        format!("POST /kbs/v0/auth HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len())
            .as_bytes(),
        body,
    ]
    .concat();
    let (burst, sent) = (one.repeat(100), AtomicU64::new(0));
    // Three seconds of 10,000 each; how soon a busy machine asks them says nothing of the service.
    let is_over = || sent.load(Ordering::Relaxed) >= 30_000;
    let flood = || {
        let socket = from([127, 0, 0, 9], service.address());
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        let mut stream = service.tls_over(socket, &place.client(None));
        let mut answers = vec![0; 64 << 10];
        while !is_over() {
            stream.write_all(&burst).expect("sent");
            // Every answer is taken before more is asked, or both would wait for the other to read.
            let (mut answered, mut rest) = (0, Vec::new());
            while answered < 100 {
                match stream.read(&mut answers) {
                    Ok(read @ 1..) => {
                        rest.extend_from_slice(&answers[..read]);
                        answered += count(&rest, b"HTTP/1.1 ");
                        // An answer's first word may come in two pieces.
                        rest.drain(..rest.len().saturating_sub(8));
                    }
                    end => panic!("an answer was expected: {end:?}"),
                }
            }
            sent.fetch_add(100, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let floods: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        let mut served = 0;
        while !is_over() || served < 3 {
            assert!(is_over() || floods.iter().any(|flood| !flood.is_finished()), "nobody asks any more");
            let (guest, token) = admitted(&service, &place);
            assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
            served += 1;
        }
        floods.into_iter().for_each(|flood| flood.join().expect("each was answered"));
    });
    assert!(peak(&service) < ROOM, "{} KiB", peak(&service));
}
