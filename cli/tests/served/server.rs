//! A server of HTTP whose answers the test makes up.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A status, headers and a body; the status 0 is no answer at all.
pub(crate) type Answered = (u16, Vec<(&'static str, String)>, Vec<u8>);

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
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut shown, mut length) = (String::new(), None, 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => shown = Some(value.to_owned()),
            "content-length" => length = value.parse().expect("a number"),
            _ => {}
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    let asked = first.trim_end().trim_end_matches(" HTTP/1.1");
    log.lock().expect("a log").push(format!("{asked} {}", shown.as_deref().unwrap_or("-")));
    let (status, headers, body) = answer(asked, shown.as_deref());
    if status == 0 {
        return Ok(Some(stream));
    }
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "HTTP/1.1 {status} said\r\n{headers}content-length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)?;
    Ok(None)
}
