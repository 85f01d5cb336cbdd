//! PackStream, the encoding of Bolt's messages and values.
//!
//! What is read is not trusted: sizes are compared with the bytes that there are before
//! anything is allocated, and values nest at most [`DEPTH`] deep.

/// How deep values nest.
pub(crate) const DEPTH: usize = 64;

/// A value or a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Bytes(Vec<u8>),
    String(String),
    List(Vec<Value>),
    /// In the order it came; a key that comes twice is malformed.
    Map(Vec<(String, Value)>),
    /// A structure: its tag and its fields.
    Struct(u8, Vec<Value>),
}

/// Why bytes are no PackStream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed PackStream: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Of what nests deeper than [`DEPTH`].
pub(crate) const TOO_DEEP: Malformed = Malformed("it nests too deep");

impl Value {
    /// A map's member.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(members) => members
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, it)| it),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// Appends the value's bytes.
    pub(crate) fn write(&self, output: &mut Vec<u8>) {
        match self {
            Self::Null => output.push(0xc0),
            Self::Boolean(false) => output.push(0xc2),
            Self::Boolean(true) => output.push(0xc3),
            Self::Integer(number) => write_integer(*number, output),
            Self::Float(number) => {
                output.push(0xc1);
                output.extend(number.to_be_bytes());
            }
            Self::Bytes(bytes) => {
                write_size(bytes.len(), None, [0xcc, 0xcd, 0xce], output);
                output.extend(bytes);
            }
            Self::String(text) => {
                write_size(text.len(), Some(0x80), [0xd0, 0xd1, 0xd2], output);
                output.extend(text.as_bytes());
            }
            Self::List(items) => {
                write_size(items.len(), Some(0x90), [0xd4, 0xd5, 0xd6], output);
                items.iter().for_each(|item| item.write(output));
            }
            Self::Map(members) => {
                write_size(members.len(), Some(0xa0), [0xd8, 0xd9, 0xda], output);
                for (key, value) in members {
                    write_size(key.len(), Some(0x80), [0xd0, 0xd1, 0xd2], output);
                    output.extend(key.as_bytes());
                    value.write(output);
                }
            }
            Self::Struct(tag, fields) => {
                // Bolt's own have at most eight.
                debug_assert!(fields.len() < 16);
                output.push(0xb0 | (fields.len() as u8 & 0x0f));
                output.push(*tag);
                fields.iter().for_each(|field| field.write(output));
            }
        }
    }

    /// Reads one value that takes all the bytes.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { rest: bytes };
        let value = reader.value(0)?;
        if reader.rest.is_empty() {
            Ok(value)
        } else {
            Err(Malformed("bytes after the value"))
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // ranges are matched
fn write_integer(number: i64, output: &mut Vec<u8>) {
    match number {
        -16..=127 => output.push(number as u8),
        -128..-16 => output.extend([0xc8, number as u8]),
        _ => {
            if let Ok(number) = i16::try_from(number) {
                output.push(0xc9);
                output.extend(number.to_be_bytes());
            } else if let Ok(number) = i32::try_from(number) {
                output.push(0xca);
                output.extend(number.to_be_bytes());
            } else {
                output.push(0xcb);
                output.extend(number.to_be_bytes());
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // ranges are matched; nothing is 4 GiB
fn write_size(size: usize, tiny: Option<u8>, markers: [u8; 3], output: &mut Vec<u8>) {
    match (size, tiny) {
        (0..=15, Some(tiny)) => output.push(tiny | size as u8),
        (0..=0xff, _) => output.extend([markers[0], size as u8]),
        (0x100..=0xffff, _) => {
            output.push(markers[1]);
            output.extend((size as u16).to_be_bytes());
        }
        _ => {
            output.push(markers[2]);
            output.extend((size as u32).to_be_bytes());
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn size8(&mut self) -> Result<usize, Malformed> {
        let [size] = self.array()?;
        Ok(size.into())
    }

    fn size16(&mut self) -> Result<usize, Malformed> {
        Ok(u16::from_be_bytes(self.array()?).into())
    }

    fn size32(&mut self) -> Result<usize, Malformed> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| Malformed("too large"))
    }

    fn text(&mut self, size: usize) -> Result<String, Malformed> {
        let bytes = self.take(size)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn list(&mut self, size: usize, depth: usize) -> Result<Vec<Value>, Malformed> {
        // Each takes a byte at least, so that a size alone allocates nothing.
        if size > self.rest.len() {
            return Err(Malformed("it ends too early"));
        }
        (0..size).map(|_| self.value(depth + 1)).collect()
    }

    fn map(&mut self, size: usize, depth: usize) -> Result<Value, Malformed> {
        if size > self.rest.len() / 2 {
            return Err(Malformed("it ends too early"));
        }
        let members = (0..size).map(|_| match self.value(depth + 1)? {
            Value::String(key) => Ok((key, self.value(depth + 1)?)),
            _ => Err(Malformed("a key is no text")),
        });
        Ok(Value::Map(members.collect::<Result<_, _>>()?))
    }

    fn value(&mut self, depth: usize) -> Result<Value, Malformed> {
        if depth > DEPTH {
            return Err(TOO_DEEP);
        }
        let [marker] = self.array()?;
        let tiny = usize::from(marker & 0x0f);
        Ok(match marker {
            0x00..=0x7f | 0xf0..=0xff => Value::Integer(i8::from_be_bytes([marker]).into()),
            0x80..=0x8f => Value::String(self.text(tiny)?),
            0x90..=0x9f => Value::List(self.list(tiny, depth)?),
            0xa0..=0xaf => self.map(tiny, depth)?,
            0xb0..=0xbf => {
                let [tag] = self.array()?;
                Value::Struct(tag, self.list(tiny, depth)?)
            }
            0xc0 => Value::Null,
            0xc1 => Value::Float(f64::from_be_bytes(self.array()?)),
            0xc2 => Value::Boolean(false),
            0xc3 => Value::Boolean(true),
            0xc8 => Value::Integer(i8::from_be_bytes(self.array()?).into()),
            0xc9 => Value::Integer(i16::from_be_bytes(self.array()?).into()),
            0xca => Value::Integer(i32::from_be_bytes(self.array()?).into()),
            0xcb => Value::Integer(i64::from_be_bytes(self.array()?)),
            0xcc..=0xce | 0xd0..=0xd2 | 0xd4..=0xd6 | 0xd8..=0xda => {
                let size = match marker & 0x03 {
                    0 => self.size8()?,
                    1 => self.size16()?,
                    _ => self.size32()?,
                };
                match marker & 0xfc {
                    0xcc => Value::Bytes(self.take(size)?.to_vec()),
                    0xd0 => Value::String(self.text(size)?),
                    0xd4 => Value::List(self.list(size, depth)?),
                    _ => self.map(size, depth)?,
                }
            }
            _ => return Err(Malformed("an unknown marker")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut output = Vec::new();
        value.write(&mut output);
        output
    }

    #[test]
    fn values_read_back_as_they_were_written() {
        let integers = [
            0,
            1,
            -1,
            -16,
            -17,
            127,
            128,
            -128,
            -129,
            32_767,
            32_768,
            i64::MIN,
            i64::MAX,
        ];
        let mut values: Vec<Value> = integers.into_iter().map(Value::Integer).collect();
        for size in [0, 1, 15, 16, 255, 256, 65_535, 65_536] {
            values.push(Value::String("x".repeat(size)));
            values.push(Value::Bytes(vec![7; size]));
            values.push(Value::List(vec![Value::Null; size]));
        }
        let members = (0..300).map(|n| (n.to_string(), Value::Boolean(n % 2 == 0)));
        values.push(Value::Map(members.collect()));
        values.push(Value::Struct(0x4e, vec![Value::Float(1.5), Value::Null]));
        for value in values {
            assert_eq!(Value::read(&bytes(&value)), Ok(value));
        }
    }

    #[test]
    fn integers_take_as_few_bytes_as_they_may() {
        for (number, size) in [
            (-16, 1),
            (127, 1),
            (-17, 2),
            (128, 3),
            (40_000, 5),
            (1 << 40, 9),
        ] {
            assert_eq!(bytes(&Value::Integer(number)).len(), size, "{number}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused_before_it_is_allocated() {
        for malformed in [
            &b""[..],
            b"\xc9\x00",
            b"\x85abc",
            b"\x82\xff\xff",
            b"\xd6\xff\xff\xff\xff",
            b"\xda\xff\xff\xff\xff",
            b"\xd2\xff\xff\xff\xff",
            b"\xce\xff\xff\xff\xff",
            b"\xa1\x01\x01",
            b"\xb1",
            b"\xc4",
            b"\xdf",
            b"\xc0\xc0",
        ] {
            assert!(Value::read(malformed).is_err(), "{malformed:x?}");
        }
        let mut deep = vec![0x91; DEPTH + 1];
        deep.push(0xc0);
        assert_eq!(Value::read(&deep), Err(TOO_DEEP));
        assert!(Value::read(&deep[1..]).is_ok());
    }
}
