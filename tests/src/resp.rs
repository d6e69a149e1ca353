//! A Redis client in the small: blocking, with pipelining, and without mercy. It never connects again by itself: a reset,
//! a close or a late reply is an error.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A reply of RESP2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`
    Error(String),
    /// `:1`
    Int(i64),
    /// `$3 abc`, or nil
    Bulk(Option<Vec<u8>>),
    /// `*2 ...`, or nil
    Array(Option<Vec<Reply>>),
}

/// One TCP connection.
pub struct Resp {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Resp {
    /// Connects to a forwarded port of this machine. `limit` is the longest wait for a reply from then on.
    pub fn connect(port: u16, limit: Duration) -> Result<Self, String> {
        Self::connect_to((Ipv4Addr::LOCALHOST, port).into(), limit)
    }

    /// The same to any address.
    pub fn connect_to(address: SocketAddr, limit: Duration) -> Result<Self, String> {
        let stream =
            TcpStream::connect_timeout(&address, limit).map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("TCP_NODELAY: {error}"))?;
        let client = Self { stream, buffer: Vec::new(), at: 0 };
        client.set_limit(limit)?;
        Ok(client)
    }

    /// Over a connection that is there already; without a limit.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), at: 0 }
    }

    /// Changes the longest wait.
    pub fn set_limit(&self, limit: Duration) -> Result<(), String> {
        self.stream
            .set_read_timeout(Some(limit))
            .and_then(|()| self.stream.set_write_timeout(Some(limit)))
            .map_err(|error| format!("time-out: {error}"))
    }

    /// The bytes of a command.
    pub fn encode(into: &mut Vec<u8>, words: &[&[u8]]) {
        into.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            into.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            into.extend_from_slice(word);
            into.extend_from_slice(b"\r\n");
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => "send: the connection was closed".to_owned(),
            _ => format!("send: {error}"),
        })
    }

    /// Sends a command and waits for its reply.
    pub fn call(&mut self, words: &[&str]) -> Result<Reply, String> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut bytes = Vec::new();
        Self::encode(&mut bytes, &words);
        self.send(&bytes)?;
        self.reply()
    }

    /// The next reply.
    pub fn reply(&mut self) -> Result<Reply, String> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or("an empty line instead of a reply")?;
        let number = || rest.parse::<i64>().map_err(|_| format!("not a number in reply {line:?}"));
        match kind {
            "+" => Ok(Reply::Simple(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Int(number()?)),
            "$" => match number()? {
                -1 => Ok(Reply::Bulk(None)),
                length => {
                    let length = usize::try_from(length).map_err(|_| format!("bad length in {line:?}"))?;
                    let mut bytes = self.bytes(length + 2)?;
                    if !bytes.ends_with(b"\r\n") {
                        return Err(format!("a bulk string of {length} bytes does not end where it should"));
                    }
                    bytes.truncate(length);
                    Ok(Reply::Bulk(Some(bytes)))
                }
            },
            "*" => match number()? {
                -1 => Ok(Reply::Array(None)),
                count => (0..count)
                    .map(|_| self.reply())
                    .collect::<Result<_, _>>()
                    .map(|all| Reply::Array(Some(all))),
            },
            _ => Err(format!("not a reply: {line:?}")),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut from = self.at;
        loop {
            if let Some(end) = self.buffer[from..].windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[self.at..from + end]).into_owned();
                self.at = from + end + 2;
                return Ok(line);
            }
            let seen = (self.buffer.len() - self.at).saturating_sub(1);
            self.fill()?;
            from = self.at + seen;
        }
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() - self.at < count {
            self.fill()?;
        }
        let bytes = self.buffer[self.at..self.at + count].to_vec();
        self.at += count;
        Ok(bytes)
    }

    fn fill(&mut self) -> Result<(), String> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err("the connection was closed".into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Err("no reply in time".into())
            }
            Err(error) => Err(format!("receive: {error}")),
        }
    }
}
