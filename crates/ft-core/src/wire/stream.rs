//! Cutting a byte stream into frames.

use ft_policies::Key;

use super::{Frame, WireError};

/// Cuts a byte stream into frames. After an error the stream is of no more use.
#[derive(Debug, Default)]
pub struct FrameReader {
    key: Option<Key>,
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// The stream of a peer that has this key, if there is one.
    pub fn new(key: Option<Key>) -> Self {
        Self { key, ..Self::default() }
    }

    /// Appends bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// True if a part of a frame is here, after those that were taken.
    pub fn is_partial(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let found = Frame::split(&self.buffer[self.start..], self.key.as_ref())?;
        let Some((frame, used)) = found else { return Ok(None) };
        self.start += used;
        Ok(Some(frame))
    }
}
