//! Server-sent events: bytes in, events out, as the WHATWG HTML standard parses them.
//!
//! A stream may be cut anywhere, inside a line or a character, so the parser keeps
//! what is not complete yet. [`Parser::last_event_id`] is what a client gives as
//! `Last-Event-ID` to go on after a lost connection.

/// A line over this many bytes is no event of ours.
const LONGEST_LINE: usize = 32 << 20;
/// The same of other services, whose events are small.
const LONGEST_FOREIGN_LINE: usize = 1 << 20;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` where the stream named none.
    pub event: String,
    /// Its data.
    pub data: String,
}

/// A line was longer than any event of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of the event stream has more than {0} bytes")]
pub struct LineTooLong(usize);

/// Reads one stream; a new one is made for each connection, with the last one's
/// [`last_event_id`](Self::last_event_id).
#[derive(Debug)]
pub struct Parser {
    longest: usize,
    line: Vec<u8>,
    after_cr: bool,
    started: bool,
    event: String,
    data: String,
    id: Option<String>,
    last_event_id: Option<String>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::within(LONGEST_LINE)
    }
}

impl Parser {
    /// Of a stream of another service.
    pub(crate) fn foreign() -> Self {
        Self::within(LONGEST_FOREIGN_LINE)
    }

    const fn within(longest: usize) -> Self {
        Self {
            longest,
            line: Vec::new(),
            after_cr: false,
            started: false,
            event: String::new(),
            data: String::new(),
            id: None,
            last_event_id: None,
        }
    }

    /// The id of the last event that was given out complete.
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// Takes the next bytes and answers the events that they complete.
    ///
    /// # Errors
    /// When a line has no end.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, LineTooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                // The second half of CR LF; the line ended at its CR.
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_of_line(&line));
                }
                _ if self.line.len() >= self.longest => return Err(LineTooLong(self.longest)),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self, line: &[u8]) -> Option<Event> {
        let mut line = line;
        if !self.started {
            self.started = true;
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // A comment (no field name), `retry` (we keep our own pace) or unknown.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        if let Some(id) = self.id.take() {
            self.last_event_id = Some(id);
        }
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        // An event without data is none.
        data.pop()?;
        Some(Event {
            event: if event.is_empty() {
                "message".to_owned()
            } else {
                event
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"\xef\xbb\xbf: hello\n\nid: 1\nevent: history\ndata: {\"a\":1}\n\n\
        data:first\r\ndata: second\r\nid: 2\r\n\r\nevent: empty\n\nid: 3\rdata\r\rdata: unfinished\nid: 4\n";

    fn expected() -> Vec<Event> {
        vec![
            Event {
                event: "history".to_owned(),
                data: "{\"a\":1}".to_owned(),
            },
            Event {
                event: "message".to_owned(),
                data: "first\nsecond".to_owned(),
            },
            Event {
                event: "message".to_owned(),
                data: String::new(),
            },
        ]
    }

    #[test]
    fn a_stream_is_read_however_it_is_cut() {
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let events: Vec<Event> = STREAM
                .chunks(size)
                .flat_map(|chunk| parser.feed(chunk).expect("short lines"))
                .collect();
            assert_eq!(events, expected(), "in pieces of {size}");
            assert_eq!(
                parser.last_event_id(),
                Some("3"),
                "an unfinished event has no id yet"
            );
        }
    }

    #[test]
    fn characters_may_be_cut() {
        let mut parser = Parser::default();
        let bytes = "data: grün\n\n".as_bytes();
        let (left, right) = bytes.split_at(9);
        assert!(std::str::from_utf8(left).is_err(), "cut inside of the ü");
        assert_eq!(parser.feed(left), Ok(vec![]));
        assert_eq!(parser.feed(right).expect("short")[0].data, "grün");
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        let megabyte = vec![b'x'; 1 << 20];
        let refused = (0..64).find_map(|_| parser.feed(&megabyte).err());
        assert_eq!(refused, Some(LineTooLong(LONGEST_LINE)));
    }
}
