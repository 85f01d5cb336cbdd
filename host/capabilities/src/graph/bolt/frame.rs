//! Bolt's frames: a message is sent in chunks of at most 65,535 bytes, and a chunk of
//! none ends it. The same for the client and for our own engine's server.

use bytes::{Buf as _, BytesMut};

use super::packstream::{Malformed, TOO_DEEP, Value};

/// The most bytes of a chunk.
const CHUNK: usize = u16::MAX as usize;

/// Why a message cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// More bytes than it may have, or deeper.
    TooLarge,
    /// Not PackStream.
    Malformed(Malformed),
}

/// Messages of the bytes that arrive.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) input: BytesMut,
    message: Vec<u8>,
    limit: usize,
}

impl Frames {
    /// `limit`: the most bytes of a message.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            input: BytesMut::new(),
            message: Vec::new(),
            limit,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether nothing is there of a further message.
    pub(crate) fn is_empty(&self) -> bool {
        self.input.is_empty() && self.message.is_empty()
    }

    /// The next message, once all of it is there.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, FrameError> {
        loop {
            let Some(&[high, low]) = self.input.first_chunk() else {
                return Ok(None);
            };
            let size = usize::from(u16::from_be_bytes([high, low]));
            if self.message.len() + size > self.limit {
                return Err(FrameError::TooLarge);
            }
            if self.input.len() < 2 + size {
                return Ok(None);
            }
            self.input.advance(2);
            if size > 0 {
                self.message.extend_from_slice(&self.input[..size]);
                self.input.advance(size);
                continue;
            }
            // Alone it keeps a quiet connection open.
            if self.message.is_empty() {
                continue;
            }
            let value = Value::read(&self.message).map_err(|malformed| match malformed {
                TOO_DEEP => FrameError::TooLarge,
                malformed => FrameError::Malformed(malformed),
            });
            self.message.clear();
            // What carried a large message is not kept.
            self.message.shrink_to(CHUNK);
            return value.map(Some);
        }
    }
}

/// Appends a message in its frames.
pub(crate) fn write(message: &Value, output: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    message.write(&mut bytes);
    for chunk in bytes.chunks(CHUNK) {
        // At most `CHUNK`.
        let size = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        output.extend(size.to_be_bytes());
        output.extend(chunk);
    }
    output.extend([0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_any_pieces() {
        let messages = [
            Value::String("x".repeat(200_000)),
            Value::Null,
            Value::Struct(0x70, vec![Value::Map(Vec::new())]),
        ];
        let mut sent = vec![0, 0];
        messages
            .iter()
            .for_each(|message| write(message, &mut sent));
        for piece in [1, 3, 1_000, sent.len()] {
            let mut frames = Frames::new(1 << 20);
            let mut received = Vec::new();
            for bytes in sent.chunks(piece) {
                frames.input.extend_from_slice(bytes);
                while let Some(message) = frames.next().expect("whole") {
                    received.push(message);
                }
            }
            assert_eq!(received, messages);
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_there() {
        let mut frames = Frames::new(100_000);
        let mut sent = Vec::new();
        write(&Value::String("x".repeat(100_001)), &mut sent);
        frames.input.extend_from_slice(&sent[..65_539]);
        assert_eq!(frames.next(), Err(FrameError::TooLarge));
        let mut frames = Frames::new(100);
        frames.input.extend_from_slice(b"\x00\x01\xc4\x00\x00");
        assert!(matches!(frames.next(), Err(FrameError::Malformed(_))));
    }
}
