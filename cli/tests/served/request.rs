//! Requests of HTTP as a test's server reads them, and the answers that it makes up.

use std::io::{self, BufRead, Write};

/// A status, headers and a body; the status 0 is no answer at all.
pub(crate) type Answered = (u16, Vec<(&'static str, String)>, Vec<u8>);

pub(crate) struct Request {
    /// The first line without the version.
    pub(crate) first: String,
    pub(crate) authorization: Option<String>,
}

impl Request {
    /// With the body.
    pub(crate) fn read(reader: &mut impl BufRead) -> io::Result<(Self, Vec<u8>)> {
        let (mut first, mut authorization, mut length) = (String::new(), None, 0);
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => authorization = Some(value.to_owned()),
                "content-length" => length = value.parse().expect("a number"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let first = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        Ok((Self { first, authorization }, body))
    }
}

pub(crate) fn write_answer(to: &mut impl Write, (status, headers, body): Answered) -> io::Result<()> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(to, "HTTP/1.1 {status} said\r\n{headers}content-length: {}\r\n\r\n", body.len())?;
    to.write_all(&body)?;
    to.flush()
}
