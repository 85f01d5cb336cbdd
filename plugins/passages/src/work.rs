//! Where the parts of a document lie in the binding `work`.

use heyday_sdk::prelude::*;

/// The ends of the keys of a document's parts.
pub const PARTS: [&str; 4] = [TEXT, HEADINGS, PASSAGES, VECTORS];
/// Of its text.
pub const TEXT: &str = ".txt";
/// Of its headings, JSON Lines.
pub const HEADINGS: &str = ".headings.jsonl";
/// Of its passages, JSON Lines.
pub const PASSAGES: &str = ".passages.jsonl";
/// Of their vectors.
pub const VECTORS: &str = ".vectors";

/// The begin of the keys of a document's parts. Keys may be as long as a key may be, so it is
/// made of a digest of the document's.
#[must_use]
pub fn stem(key: &str) -> String {
    // FNV-1a, 128 bits: no adversary gains from a collision with a document of his own.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in key.bytes() {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    format!("text/{hash:032x}")
}

/// The key of a part that stands beside another one.
#[must_use]
pub fn beside(key: &str, part: &str) -> String {
    let stem = PARTS.iter().find_map(|end| key.strip_suffix(end));
    format!("{}{part}", stem.unwrap_or(key))
}

/// Deletes all parts of a document; those that are not there are left.
///
/// # Errors
/// As `wit/blob` says.
pub fn delete(work: &blob::Container, key: &str) -> Result<()> {
    let stem = stem(key);
    for part in PARTS {
        match work.delete(&format!("{stem}{part}")) {
            Err(error) if !error.is("not-found") => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_beside_each_other() {
        let text = format!("{}{TEXT}", stem("a.pdf"));
        assert_eq!(
            beside(&text, PASSAGES),
            format!("{}{PASSAGES}", stem("a.pdf"))
        );
        assert_eq!(beside("t.jsonl", VECTORS), "t.jsonl.vectors");
        assert_ne!(stem("a.pdf"), stem("b.pdf"));
    }

    #[test]
    fn deleting_takes_all_parts_and_twice_is_once() {
        let parts = [TEXT, VECTORS].map(|part| (format!("{}{part}", stem("a")), "x"));
        let test = heyday_sdk::test::Context::new().blob("work", parts).enter();
        let work = blob::Container::open("work").unwrap();
        delete(&work, "a").unwrap();
        delete(&work, "a").unwrap();
        assert_eq!(test.object("work", &format!("{}{TEXT}", stem("a"))), None);
    }
}
