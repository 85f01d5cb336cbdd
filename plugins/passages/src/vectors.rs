//! The vectors of a document's passages: one line of JSON that says by which embedding and
//! of how many numbers, and then those of each passage, 32-bit floats with the least
//! significant byte first.

use std::io::{BufRead, BufReader, Read, Write};

use heyday_sdk::prelude::*;

/// What made vectors. Vectors are comparable where it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Embedding {
    /// The plugin's or the model's name.
    pub name: String,
    /// What it was then: a revision, or a digest of a model's files.
    pub revision: String,
    /// Numbers of a vector.
    pub dimensions: u32,
}

impl std::fmt::Display for Embedding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            revision,
            dimensions,
        } = self;
        write!(f, "{name} ({revision}, {dimensions} numbers)")
    }
}

/// Writes vectors to an object.
#[derive(Debug)]
pub struct Writer {
    writer: blob::Writer,
    dimensions: usize,
}

impl Writer {
    /// Begins the object.
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn begin(work: &blob::Container, key: &str, embedding: &Embedding) -> Result<Self> {
        let mut writer = work.write(key)?;
        serde_json::to_writer(&mut writer, embedding)?;
        writer.write_all(b"\n")?;
        Ok(Self {
            writer,
            dimensions: embedding.dimensions as usize,
        })
    }

    /// Adds a vector.
    ///
    /// # Errors
    /// `internal` for another number of dimensions, and as `wit/blob` says.
    pub fn push(&mut self, vector: &[f32]) -> Result<()> {
        if vector.len() != self.dimensions {
            let (is, be) = (vector.len(), self.dimensions);
            let message = format!("a vector of {is} numbers among those of {be}");
            return Err(Error::new("internal", message));
        }
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(self.writer.write_all(&bytes)?)
    }

    /// Finishes the object: from here on it is there.
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn finish(self) -> Result<()> {
        self.writer.finish()?;
        Ok(())
    }
}

/// Reads vectors from an object.
#[derive(Debug)]
pub struct Reader {
    reader: BufReader<blob::Reader>,
    /// What made them.
    pub embedding: Embedding,
}

impl Reader {
    /// Opens the object.
    ///
    /// # Errors
    /// `invalid-json` where it is none, and as `wit/blob` says.
    pub fn open(work: &blob::Container, key: &str) -> Result<Self> {
        let mut reader = BufReader::new(work.read(key)?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let embedding = serde_json::from_str(&line)?;
        Ok(Self { reader, embedding })
    }

    /// The next vector.
    ///
    /// # Errors
    /// Where there is none, and as `wit/blob` says.
    pub fn take(&mut self) -> Result<Vec<f32>> {
        let mut bytes = vec![0; self.embedding.dimensions as usize * 4];
        self.reader.read_exact(&mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(numbers.iter().map(|it| f32::from_le_bytes(*it)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_read_as_they_were_written() {
        let _test = heyday_sdk::test::Context::new()
            .blob("work", [("", ""); 0])
            .enter();
        let work = blob::Container::open("work").unwrap();
        let embedding = Embedding {
            name: "e".to_owned(),
            revision: "1".to_owned(),
            dimensions: 2,
        };
        let mut writer = Writer::begin(&work, "v", &embedding).unwrap();
        writer.push(&[1.5, -0.1]).unwrap();
        writer.push(&[0.0, 1e-9]).unwrap();
        assert_eq!(writer.push(&[1.0]).unwrap_err().kind(), "internal");
        writer.finish().unwrap();
        let mut reader = Reader::open(&work, "v").unwrap();
        assert_eq!(reader.embedding, embedding);
        assert_eq!(reader.take().unwrap(), [1.5, -0.1]);
        assert_eq!(reader.take().unwrap(), [0.0, 1e-9]);
        assert!(reader.take().is_err());
    }
}
