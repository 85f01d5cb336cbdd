//! Reads a text block by block, each ending where a reader would pause.

use std::io::{ErrorKind, Read};

use heyday_sdk::prelude::*;

use crate::Heading;

/// Bytes of a block, at most.
const BLOCK_BYTES: usize = 256 << 10;

/// The blocks of a text.
pub struct Blocks<'a, R> {
    reader: R,
    headings: &'a [Heading],
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out.
    used: usize,
    /// The byte of the text at which the buffer begins.
    start: usize,
    ended: bool,
}

impl<'a, R: Read> Blocks<'a, R> {
    /// Blocks of what is read, cut at headings where there are any.
    pub fn new(reader: R, headings: &'a [Heading]) -> Self {
        Self {
            reader,
            headings,
            buffer: Vec::with_capacity(BLOCK_BYTES),
            used: 0,
            start: 0,
            ended: false,
        }
    }

    /// The next block and the byte of the text at which it begins.
    pub fn next(&mut self) -> Result<Option<(usize, &str)>> {
        self.buffer.drain(..self.used);
        self.start += self.used;
        self.used = 0;
        self.fill()?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let text = match std::str::from_utf8(&self.buffer) {
            Ok(text) => text,
            // A character that the buffer's end cuts belongs to the next block.
            Err(error) if !self.ended && error.valid_up_to() + 4 > self.buffer.len() => {
                std::str::from_utf8(&self.buffer[..error.valid_up_to()])?
            }
            Err(error) => {
                let message = format!("the text is not UTF-8 at byte {}: {error}", self.start);
                return Err(Error::new("invalid-input", message));
            }
        };
        let end = if self.ended {
            text.len()
        } else {
            self.cut(text)
        };
        self.used = end;
        Ok(Some((self.start, &text[..end])))
    }

    fn fill(&mut self) -> Result<()> {
        while !self.ended && self.buffer.len() < BLOCK_BYTES {
            let length = self.buffer.len();
            self.buffer.resize(BLOCK_BYTES, 0);
            let read = self.reader.read(&mut self.buffer[length..]);
            self.buffer
                .truncate(length + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The best place in the second half of a text to end the block.
    fn cut(&self, text: &str) -> usize {
        let half = text.len() / 2;
        let until = self
            .headings
            .partition_point(|heading| heading.offset < self.start + text.len());
        if let Some(heading) = self.headings[..until].last()
            && heading.offset > self.start + half
            && text.is_char_boundary(heading.offset - self.start)
        {
            return heading.offset - self.start;
        }
        ["\u{c}", "\n\n", "\n", ". ", "。", " "]
            .into_iter()
            .filter_map(|mark| text.rfind(mark).map(|at| at + mark.len()))
            .find(|at| *at > half)
            .unwrap_or(text.len())
    }
}
