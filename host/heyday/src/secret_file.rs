//! Secrets that the server makes for itself, each a line in a file that only its owner
//! reads.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;

/// Bytes of randomness in a secret.
const RANDOM_BYTES: usize = 32;
/// No secret is longer; a longer file is none of ours.
const LONGEST: usize = 1024;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error("the file cannot be used: {0}")]
    Io(#[from] io::Error),
    /// The file holds no secret.
    #[error("the file has nothing usable: delete it, and the next start makes one")]
    Malformed,
    /// Others may read the file.
    #[error("the file may be read by others (mode {0:o}): `chmod 600` it, or delete it")]
    Exposed(u32),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(String),
}

/// The secret in a file.
///
/// # Errors
/// When the file cannot be used.
pub fn read(path: &Path) -> Result<String, SecretError> {
    read_open(fs::File::open(path)?)
}

/// The secret in a file, if there is one.
///
/// # Errors
/// When the file cannot be used.
pub fn load(path: &Path) -> Result<Option<String>, SecretError> {
    match fs::File::open(path) {
        Ok(file) => read_open(file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The secret in a file; made where there is none.
///
/// # Errors
/// When the file cannot be used or made.
pub fn load_or_create(path: &Path) -> Result<String, SecretError> {
    match load(path)? {
        Some(secret) => Ok(secret),
        None => create(path),
    }
}

/// Another secret.
///
/// # Errors
/// When the system gives no random bytes.
pub fn random() -> Result<String, SecretError> {
    let mut bytes = [0_u8; RANDOM_BYTES];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| SecretError::NoRandomness(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn read_open(file: fs::File) -> Result<String, SecretError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed(mode));
        }
    }
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    let secret = std::str::from_utf8(&bytes)
        .map_err(|_| SecretError::Malformed)?
        .trim();
    let usable = (16..=LONGEST).contains(&secret.len())
        && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if usable {
        Ok(secret.to_owned())
    } else {
        Err(SecretError::Malformed)
    }
}

fn create(path: &Path) -> Result<String, SecretError> {
    let secret = random()?;
    // Under another name first: a crash must not leave half a secret behind.
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".secret")
        .tempfile_in(folder)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    writeln!(file, "{secret}")?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        assert_eq!(load(&path).expect("none"), None);
        let secret = load_or_create(&path).expect("made");
        assert!(secret.len() >= 43);
        assert_eq!(load_or_create(&path).expect("read"), secret);
        assert_eq!(read(&path).expect("read"), secret);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
            assert!(matches!(
                load_or_create(&path),
                Err(SecretError::Exposed(0o644))
            ));
        }
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        load_or_create(&path).expect("made");
        for text in ["", "short\n", "with spaces in it, many\n"] {
            fs::write(&path, text).expect("written");
            let read = load_or_create(&path);
            assert!(matches!(read, Err(SecretError::Malformed)), "{text:?}");
        }
    }
}
