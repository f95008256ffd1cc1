//! A client of QEMU's machine protocol on one inherited socket: commands with answers, and events.
//!
//! ```text
//! QEMU: greeting ─▶ us: qmp_capabilities ─▶ commands {"execute","arguments","id"} ─▶ {"return"|"error","id"}, events
//! ```
//! Answers are matched by id, so several commands may be on their way. Each has a deadline. QEMU may have been taken
//! over by its guest: lines are bounded, and what does not parse, or answers nothing, is dropped.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio::time::timeout;

use super::MachineError;

/// How long a command may take. QEMU answers in milliseconds; software emulation on a loaded host needs more.
const DEADLINE: Duration = Duration::from_secs(20);

/// The longest line taken from QEMU.
const MAX_LINE: u64 = 256 * 1024;

/// Events kept for a subscriber that is slow to read them.
const EVENTS: usize = 64;

/// Something that QEMU reports by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// Its name, in capitals.
    pub(super) name: String,
    /// What it says.
    pub(super) data: Value,
}

/// One line of QEMU's.
#[derive(Debug, Clone, PartialEq)]
enum Line {
    Greeting,
    Answer { id: u64, outcome: Result<Value, String> },
    Event(Event),
    Noise,
}

/// Who waits for which answer; `None` once QEMU has closed the connection.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>>;

/// A connection to QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    sender: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    events: broadcast::Sender<Event>,
    next: AtomicU64,
}

impl Qmp {
    /// Awaits the greeting and ends the negotiation.
    pub(super) async fn connect(socket: std::os::unix::net::UnixStream) -> Result<Qmp, MachineError> {
        let greeting = || "its greeting".to_owned();
        let send = |source| MachineError::Send { command: greeting(), source };
        socket.set_nonblocking(true).map_err(send)?;
        let (receiver, sender) = UnixStream::from_std(socket).map_err(send)?.into_split();
        let mut receiver = BufReader::new(receiver);
        match timeout(DEADLINE, read_line(&mut receiver)).await {
            Ok(Some(Line::Greeting)) => {}
            Ok(_) => return Err(MachineError::Ended { command: greeting() }),
            Err(_) => return Err(MachineError::Deadline { command: greeting(), waited: DEADLINE }),
        }
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events, _) = broadcast::channel(EVENTS);
        tokio::spawn(receive(receiver, Arc::clone(&waiting), events.clone()));
        let qmp = Qmp { sender: tokio::sync::Mutex::new(sender), waiting, events, next: AtomicU64::new(1) };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns.
    pub(super) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, MachineError> {
        self.run(command, arguments, None).await
    }

    /// Runs a command that takes a descriptor.
    pub(super) async fn execute_with(
        &self,
        command: &str,
        arguments: Value,
        file: BorrowedFd<'_>,
    ) -> Result<Value, MachineError> {
        self.run(command, arguments, Some(file)).await
    }

    /// Events from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn run(
        &self,
        command: &str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, MachineError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments, "id": id }));
        let name = || command.to_owned();
        let answer = self.expect(id).ok_or_else(|| MachineError::Ended { command: name() })?;
        let exchange = async {
            self.send(line.as_bytes(), file)
                .await
                .map_err(|source| MachineError::Send { command: name(), source })?;
            answer.await.map_err(|_| MachineError::Ended { command: name() })
        };
        match timeout(DEADLINE, exchange).await {
            Ok(outcome) => outcome?.map_err(|message| MachineError::Refused { command: name(), message }),
            Err(_) => {
                self.forget(id);
                Err(MachineError::Deadline { command: name(), waited: DEADLINE })
            }
        }
    }

    fn expect(&self, id: u64) -> Option<oneshot::Receiver<Result<Value, String>>> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.insert(id, sender);
        Some(receiver)
    }

    fn forget(&self, id: u64) {
        if let Some(waiting) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            waiting.remove(&id);
        }
    }

    async fn send(&self, line: &[u8], mut file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let sender = self.sender.lock().await;
        let stream: &UnixStream = sender.as_ref();
        let mut rest = line;
        while !rest.is_empty() {
            let sent = stream.async_io(Interest::WRITABLE, || send_some(stream, rest, file)).await?;
            file = None;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    if !files.is_empty() {
        // The space was made for one descriptor, and there is one.
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Takes QEMU's lines until it closes the connection.
async fn receive(mut receiver: BufReader<OwnedReadHalf>, waiting: Waiting, events: broadcast::Sender<Event>) {
    while let Some(line) = read_line(&mut receiver).await {
        match line {
            Line::Answer { id, outcome } => {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(sender) = waiting.as_mut().and_then(|waiting| waiting.remove(&id)) {
                    // Nobody to tell: the command's deadline has passed.
                    let _ = sender.send(outcome);
                }
            }
            // Nobody to tell: nothing subscribes at the moment.
            Line::Event(event) => drop(events.send(event)),
            Line::Greeting | Line::Noise => {}
        }
    }
    // Dropping the senders tells everybody who waits.
    *waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The next line; `None` at the end, on an error, and when a line is too long.
async fn read_line(receiver: &mut BufReader<OwnedReadHalf>) -> Option<Line> {
    let mut line = Vec::new();
    match receiver.take(MAX_LINE).read_until(b'\n', &mut line).await {
        Ok(1..) if line.ends_with(b"\n") => Some(parse(&line)),
        _ => None,
    }
}

fn parse(line: &[u8]) -> Line {
    let Ok(Value::Object(mut line)) = serde_json::from_slice(line) else { return Line::Noise };
    if line.contains_key("QMP") {
        return Line::Greeting;
    }
    if let Some(Value::String(name)) = line.get("event") {
        let name = name.clone();
        return Line::Event(Event { name, data: line.remove("data").unwrap_or_default() });
    }
    let Some(id) = line.get("id").and_then(Value::as_u64) else { return Line::Noise };
    if let Some(returned) = line.remove("return") {
        return Line::Answer { id, outcome: Ok(returned) };
    }
    match line.get("error").and_then(|error| error.get("desc")).and_then(Value::as_str) {
        Some(message) => Line::Answer { id, outcome: Err(message.to_owned()) },
        None => Line::Noise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn an_answer_is_matched_to_its_command() {
        let line = br#"{"return": {"a": 1}, "id": 7}"#;
        assert_eq!(parse(line), Line::Answer { id: 7, outcome: Ok(json!({ "a": 1 })) });
    }

    #[test]
    fn a_refusal_keeps_its_reason() {
        let line = br#"{"id": 7, "error": {"class": "GenericError", "desc": "no such device"}}"#;
        assert_eq!(parse(line), Line::Answer { id: 7, outcome: Err("no such device".to_owned()) });
    }

    #[test]
    fn an_event_without_data_is_an_event() {
        let line = br#"{"timestamp": {}, "event": "STOP"}"#;
        assert_eq!(parse(line), Line::Event(Event { name: "STOP".to_owned(), data: Value::Null }));
    }

    #[test]
    fn an_answer_without_an_id_is_noise() {
        assert_eq!(parse(br#"{"return": {}}"#), Line::Noise);
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in any::<Vec<u8>>()) {
            parse(&line);
        }
    }

    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";
    const AGREED: &[u8] = b"{\"return\": {}, \"id\": 1}\n";

    /// A connection whose other side is in the test's hand.
    async fn connected() -> (Qmp, UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut theirs = UnixStream::from_std(theirs).unwrap();
        theirs.write_all(GREETING).await.unwrap();
        theirs.write_all(AGREED).await.unwrap();
        (Qmp::connect(ours).await.unwrap(), theirs)
    }

    #[tokio::test]
    async fn answers_in_another_order_reach_their_commands() {
        let (qmp, qemu) = connected().await;
        tokio::spawn(async move {
            let (receiver, mut sender) = qemu.into_split();
            let mut commands = BufReader::new(receiver).lines();
            commands.next_line().await.unwrap();
            commands.next_line().await.unwrap();
            commands.next_line().await.unwrap();
            sender
                .write_all(b"{\"return\": \"b\", \"id\": 3}\n{\"return\": \"a\", \"id\": 2}\n")
                .await
                .unwrap();
            std::future::pending::<()>().await;
        });
        let (first, second) = tokio::join!(qmp.execute("a", json!({})), qmp.execute("b", json!({})));
        assert_eq!((first.unwrap(), second.unwrap()), (json!("a"), json!("b")));
    }

    #[tokio::test]
    async fn a_closed_connection_ends_every_wait() {
        let (qmp, qemu) = connected().await;
        let stop = qmp.execute("stop", json!({}));
        drop(qemu);
        assert!(matches!(stop.await, Err(MachineError::Ended { .. } | MachineError::Send { .. })));
    }

    #[tokio::test]
    async fn an_event_reaches_its_subscriber() {
        let (qmp, mut qemu) = connected().await;
        let mut events = qmp.events();
        qemu.write_all(b"{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"d\"}}\n").await.unwrap();
        assert_eq!(events.recv().await.unwrap().name, "DEVICE_DELETED");
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_connection() {
        let (qmp, mut qemu) = connected().await;
        tokio::spawn(async move {
            let _ = qemu.write_all(&vec![b'x'; 1 << 20]).await;
            std::future::pending::<()>().await;
        });
        assert!(matches!(qmp.execute("stop", json!({})).await, Err(MachineError::Ended { .. })));
    }
}
