//! Copies bytes from one descriptor to another.

use std::io;

use nix::errno::Errno;

use crate::descriptor::Descriptor;

/// What a pipe holds by default, and the largest packet of a vsock.
const CHUNK: usize = 64 * 1024;

/// Copies until the end of `from`; holds no buffer while there is nothing to copy.
pub(super) async fn copy(from: &Descriptor, to: &Descriptor) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => to.write_all(buffer.get(..length).unwrap_or_default()).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A terminal ends like this once no process has it open.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Copies both ways between two sockets; the end of one direction is passed on and leaves the other open.
pub(super) async fn copy_both_ways(a: &Descriptor, b: &Descriptor) -> io::Result<()> {
    let one_way = async |from: &Descriptor, to: &Descriptor| {
        copy(from, to).await?;
        to.end_of_output()
    };
    tokio::try_join!(one_way(a, b), one_way(b, a))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn pair() -> (Descriptor, Descriptor) {
        let (a, b) = UnixStream::pair().unwrap();
        (Descriptor::new(OwnedFd::from(a)).unwrap(), Descriptor::new(OwnedFd::from(b)).unwrap())
    }

    async fn read_to_end(from: &Descriptor) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..length]);
        }
        all
    }

    #[tokio::test]
    async fn all_bytes_arrive_before_the_end() {
        let (pipe_end, source) = pair();
        let (sink, received) = pair();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let writer = async {
            pipe_end.write_all(&sent).await.unwrap();
            drop(pipe_end);
        };
        let copier = async {
            copy(&source, &sink).await.unwrap();
            drop(sink);
        };
        let ((), (), got) = tokio::join!(writer, copier, read_to_end(&received));
        assert!(got == sent);
    }

    #[tokio::test]
    async fn a_stalled_reader_stops_the_writer_and_nobody_else() {
        let (pipe_end, source) = pair();
        let (sink, _stalled) = pair();
        let stuck = async {
            let writer = async {
                loop {
                    pipe_end.write_all(&[7; 4096]).await.unwrap();
                }
            };
            tokio::join!(writer, copy(&source, &sink))
        };
        let (near, middle) = pair();
        let (far, other) = pair();
        let lively = async {
            near.write_all(b"still here").await.unwrap();
            near.end_of_output().unwrap();
            let (copied, got) = tokio::join!(
                async {
                    copy(&middle, &far).await.unwrap();
                    far.end_of_output()
                },
                read_to_end(&other)
            );
            copied.unwrap();
            got
        };
        tokio::select! {
            _ = stuck => panic!("the stalled stream ended"),
            got = lively => assert_eq!(got, b"still here"),
        }
    }

    #[tokio::test]
    async fn a_half_closed_connection_still_carries_the_answer() {
        let (client, left) = pair();
        let (right, server) = pair();
        let server = async {
            let question = read_to_end(&server).await;
            server.write_all(&question).await.unwrap();
            drop(server);
        };
        let client = async {
            client.write_all(b"ping").await.unwrap();
            client.end_of_output().unwrap();
            read_to_end(&client).await
        };
        let work = async { tokio::join!(copy_both_ways(&left, &right), server, client) };
        let (copied, (), answer) = tokio::time::timeout(Duration::from_secs(20), work).await.unwrap();
        copied.unwrap();
        assert_eq!(answer, b"ping");
    }
}
