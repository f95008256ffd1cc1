//! A server of HTTP whose answers the test makes up.

use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::request::{Answered, Request, write_answer};

/// A server on this machine, and what it was asked: each time the first line without the version, and `Authorization`.
pub(crate) struct Server {
    pub(crate) address: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn new(answer: impl Fn(&str, Option<&str>) -> Answered + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                // Who does not listen to the end is one that the test wants so.
                held.extend(speak(stream.expect("a connection"), &answer, &log).ok().flatten());
            }
        });
        Self { address, heard }
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("a log").clone()
    }
}

/// One request and its answer; the connection, if it stays open without one.
fn speak(
    mut stream: TcpStream,
    answer: &dyn Fn(&str, Option<&str>) -> Answered,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<Option<TcpStream>> {
    let (heard, _) = Request::read(&mut BufReader::new(stream.try_clone()?))?;
    let (asked, shown) = (heard.first.as_str(), heard.authorization);
    log.lock().expect("a log").push(format!("{asked} {}", shown.as_deref().unwrap_or("-")));
    let (status, headers, body) = answer(asked, shown.as_deref());
    if status == 0 {
        return Ok(Some(stream));
    }
    write_answer(&mut stream, (status, headers, body))?;
    Ok(None)
}
