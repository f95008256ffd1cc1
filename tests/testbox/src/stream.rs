//! Bytes in and out: a reproducible stream, the digest of one, both ends of a TCP connection, and a request of HTTP's.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use sha2::{Digest, Sha256};

const BLOCK: usize = 64 * 1024;

/// Writes `count` bytes of the stream that [`Noise`] makes from `seed`.
pub(crate) fn bytes(count: u64, seed: u64) -> io::Result<ExitCode> {
    let mut noise = Noise::new(seed);
    let mut block = vec![0; BLOCK];
    let mut left = count;
    let mut output = io::stdout().lock();
    while left > 0 {
        noise.fill(&mut block);
        let length = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        output.write_all(&block[..length])?;
        left -= length as u64;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Reads standard input to its end and prints its length and SHA-256 digest.
pub(crate) fn hash() -> io::Result<ExitCode> {
    let mut digest = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut total = 0;
    let mut input = io::stdin().lock();
    loop {
        match input.read(&mut block)? {
            0 => break,
            length => {
                digest.update(&block[..length]);
                total += length;
            }
        }
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{total} {hex}");
    Ok(ExitCode::SUCCESS)
}

/// Writes the file that is standard input to its disk, and drops it from the kernel's memory: the next to read it reads the disk.
pub(crate) fn forget() -> io::Result<ExitCode> {
    let file = rustix::stdio::stdin();
    rustix::fs::fsync(file)?;
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(ExitCode::SUCCESS)
}

/// Answers each connection to `address` with `reply`, an equals sign, and what the caller sent up to its first line end.
pub(crate) fn serve(address: &str, reply: &str) -> io::Result<ExitCode> {
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    for connection in listener.incoming() {
        let mut connection = connection?;
        if let Ok(line) = read_line(&mut connection) {
            let answered = connection.write_all(format!("{reply}={line}\n").as_bytes());
            if let Err(error) = answered {
                eprintln!("testbox: a caller left early: {error}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends `question` as a line to `address` and prints the answer.
pub(crate) fn ask(address: &str, question: &str) -> io::Result<ExitCode> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(format!("{question}\n").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    print!("{answer}");
    Ok(ExitCode::SUCCESS)
}

/// Asks who listens on the Unix socket `socket` for `path` by HTTP/1.1; prints the status and the body, with a space between.
pub(crate) fn get(socket: &str, path: &str) -> io::Result<ExitCode> {
    let mut connection = UnixStream::connect(socket)?;
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let cut = || io::Error::other("this is no answer of HTTP's");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    println!("{} {body}", head.split(' ').nth(1).ok_or_else(cut)?);
    Ok(ExitCode::SUCCESS)
}

fn read_line(connection: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 4096 && connection.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).map_err(io::Error::other)
}

/// The xorshift64* stream: the same seed gives the same bytes on both sides of a border.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let bytes = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }
}
