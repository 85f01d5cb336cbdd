//! The files of a folder of documents, as the synchronization sees them: what its listing
//! passes over without a word is counted here, with the reason.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;

use super::show::{EXAMPLES, number, one_line};

/// Why the listing leaves something out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Link,
    NotUtf8,
    Unreadable,
}

impl Why {
    const fn text(self) -> &'static str {
        match self {
            Self::Link => "a symbolic link",
            Self::NotUtf8 => "a name that is not UTF-8",
            Self::Unreadable => "a folder that cannot be read",
        }
    }
}

/// What a walk through the folder found.
#[derive(Debug, Default)]
pub struct Files {
    /// Files that the listing has, as far as this walk can tell.
    pub listed: u64,
    left_out: u64,
    /// The first of those left out.
    examples: Vec<(String, Why)>,
}

impl Files {
    /// Those of this folder.
    pub fn of(folder: &Path) -> Self {
        let mut files = Self::default();
        files.walk(folder, folder, None);
        files
    }

    /// `why`: all below this folder are left out.
    fn walk(&mut self, root: &Path, folder: &Path, why: Option<Why>) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            self.leave_out(root, folder, why.unwrap_or(Why::Unreadable));
            return;
        };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_cached_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let why = why.or_else(|| reason(&entry.file_name()));
            match entry.file_type() {
                Ok(kind) if kind.is_symlink() => {
                    self.leave_out(root, &path, why.unwrap_or(Why::Link));
                }
                Ok(kind) if kind.is_dir() => self.walk(root, &path, why),
                Ok(kind) if kind.is_file() => match why {
                    Some(why) => self.leave_out(root, &path, why),
                    None => self.listed += 1,
                },
                // Sockets and the like; or gone in between.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn leave_out(&mut self, root: &Path, path: &Path, why: Why) {
        self.left_out += 1;
        if self.examples.len() < EXAMPLES {
            let path = path.strip_prefix(root).unwrap_or(path);
            self.examples
                .push((path.to_string_lossy().into_owned(), why));
        }
    }

    /// What is said where the synchronization saw fewer than there are; else nothing.
    pub fn left_out(&self, seen: u64) -> String {
        // Names that are no keys; or they went since this walk.
        let others = self.listed.saturating_sub(seen);
        let all = self.left_out + others;
        let mut text = String::new();
        if all == 0 {
            return text;
        }
        // Writing to a string cannot fail.
        let _ = match all {
            1 => writeln!(text, "  1 file of the folder was left out:"),
            all => writeln!(text, "  {} files of the folder were left out:", number(all)),
        };
        for (path, why) in &self.examples {
            let _ = writeln!(text, "    {}: {}", one_line(path, 100), why.text());
        }
        let more = self.left_out - self.examples.len() as u64;
        if more > 0 {
            let _ = writeln!(text, "    and {} more for such reasons", number(more));
        }
        if others > 0 {
            let _ = writeln!(
                text,
                "    {} because their names cannot be keys of objects (`invalid-key` in wit/blob), or \
                 they are gone",
                number(others)
            );
        }
        text
    }
}

/// Why a name is left out by itself.
fn reason(name: &OsStr) -> Option<Why> {
    name.to_str().is_none().then_some(Why::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_listing_leaves_out_is_told_with_the_reason() {
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let inner = root.join("b");
        std::fs::create_dir(&inner).expect("a folder");
        for path in [root.join("a.txt"), inner.join("c.txt")] {
            std::fs::write(path, "text").expect("a file");
        }
        let plain = Files::of(root);
        assert_eq!(plain.listed, 2);
        assert_eq!(plain.left_out(2), "");
        // One that came since the walk.
        assert_eq!(plain.left_out(3), "");

        symlink(root.join("a.txt"), inner.join("link")).expect("a link");
        symlink(root, root.join("loop")).expect("a link");
        let strange = root.join(OsStr::from_bytes(b"c\xff"));
        std::fs::create_dir(&strange).expect("a folder");
        std::fs::write(strange.join("d.txt"), "text").expect("a file");
        let files = Files::of(root);
        assert_eq!(files.listed, 2);
        assert_eq!(
            files.left_out(2),
            "  3 files of the folder were left out:\n    \
             b/link: a symbolic link\n    \
             c\u{fffd}/d.txt: a name that is not UTF-8\n    \
             loop: a symbolic link\n"
        );
        let fewer = files.left_out(1);
        assert!(fewer.starts_with("  4 files of"), "{fewer}");
        assert!(
            fewer.contains("    1 because their names cannot be"),
            "{fewer}"
        );
    }

    #[test]
    fn only_the_first_few_are_named() {
        let folder = Path::new("folder");
        let mut files = Files::default();
        files.walk(folder, Path::new("folder/that is not there"), None);
        assert_eq!(
            files.left_out(0),
            "  1 file of the folder was left out:\n    \
             that is not there: a folder that cannot be read\n"
        );
        for number in 0..2_000 {
            files.leave_out(folder, &folder.join(number.to_string()), Why::Link);
        }
        let text = files.left_out(0);
        assert!(text.starts_with("  2,001 files of"), "{text}");
        assert!(
            text.ends_with("    and 1,996 more for such reasons\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1 + EXAMPLES + 1);
    }
}
