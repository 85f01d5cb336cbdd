//! Options that every command takes: where the server is, whose token, how to show.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use heyday::auth::TOKEN_FILE;
use heyday::remote::is_loopback;
use url::Url;

use super::client::{self, Client};
use super::error::CliError;
use super::output::{Format, Output};
use super::{Context, view};

/// The variable that holds the API token.
const TOKEN_VARIABLE: &str = "HEYDAY_TOKEN";

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalOptions {
    /// Where the server is
    #[arg(
        long,
        global = true,
        env = "HEYDAY_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000",
        value_parser = client::server_url,
        hide_env_values = true
    )]
    pub server: Url,

    /// A file that holds the API token; HEYDAY_TOKEN holds the token itself, which no
    /// option does: everybody on a machine sees the options of a command [default: the
    /// token file of the data folder, for a server on this machine]
    #[arg(
        long,
        global = true,
        env = "HEYDAY_TOKEN_FILE",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub token_file: Option<PathBuf>,

    /// The data folder of `heyday up` [default: $XDG_DATA_HOME/heyday or ~/.local/share/heyday]
    #[arg(long, global = true, env = "HEYDAY_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Whom things belong to [default: default]
    #[arg(long, global = true, env = "HEYDAY_NAMESPACE", value_name = "NAME", value_parser = namespace)]
    pub namespace: Option<String>,

    /// How to show answers
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub output: Format,

    /// Show no colours (as NO_COLOR does)
    #[arg(long, global = true)]
    pub no_color: bool,

    /// Say more of what is done, on stderr; twice for everything
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Reads a namespace's name.
pub fn namespace(text: &str) -> Result<String, String> {
    view::name("a namespace", text)
}

/// The user's data folder for Heyday.
fn default_data() -> Result<PathBuf, CliError> {
    heyday::config::default_data_dir().ok_or_else(|| {
        CliError::usage_help(
            "there is no folder to keep data in: neither XDG_DATA_HOME nor HOME is set",
            "name one with --data DIR",
        )
    })
}

impl GlobalOptions {
    /// The data folder: `--data`, or the user's.
    pub fn data_folder(&self) -> Result<PathBuf, CliError> {
        match &self.data {
            Some(folder) => Ok(folder.clone()),
            None => default_data(),
        }
    }

    /// How answers are shown.
    pub fn output(&self) -> Output {
        Output::new(self.output, self.no_color)
    }

    /// Everything that a client command needs.
    pub fn context(&self) -> Result<Context, CliError> {
        let token = self.find_token()?;
        Ok(Context {
            client: Client::new(
                self.server.clone(),
                token.as_deref(),
                self.namespace.as_deref(),
            )?,
            output: self.output(),
        })
    }

    fn find_token(&self) -> Result<Option<String>, CliError> {
        self.token_of(said())
    }

    /// The token that was given in a file or in the environment.
    pub fn given_token(&self) -> Result<Option<String>, CliError> {
        self.given(said())
    }

    fn given(&self, said: Option<String>) -> Result<Option<String>, CliError> {
        match (said, &self.token_file) {
            (Some(token), _) => Ok(Some(token.trim().to_owned())),
            (None, Some(path)) => read(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn token_of(&self, said: Option<String>) -> Result<Option<String>, CliError> {
        if let Some(token) = self.given(said)? {
            return Ok(Some(token));
        }
        if !is_loopback(&self.server) {
            // The token of this machine's server is nobody else's business.
            return Ok(None);
        }
        let path = self.data_folder()?.join(TOKEN_FILE);
        match client::read_token(&path) {
            Ok(token) => Ok(Some(token)),
            // Not there: the server's answer says that a token is wanted. With `--data`
            // the folder was named, and a wrong one is better said at once.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.data.is_none() => {
                Ok(None)
            }
            Err(error) => Err(CliError::usage_help(
                format!("the token file {} cannot be read: {error}", path.display()),
                "`heyday up` makes it in its data folder; name another with --token-file FILE",
            )),
        }
    }
}

/// The token in the environment.
fn said() -> Option<String> {
    let said = std::env::var(TOKEN_VARIABLE).ok();
    said.filter(|token| !token.is_empty())
}

fn read(path: &Path) -> Result<String, CliError> {
    client::read_token(path).map_err(|error| {
        CliError::usage(format!(
            "the token file {} cannot be read: {error}",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(server: &str, data: &Path) -> GlobalOptions {
        GlobalOptions {
            server: client::server_url(server).expect("a URL"),
            token_file: None,
            data: Some(data.to_owned()),
            namespace: None,
            output: Format::Text,
            no_color: true,
            verbose: 0,
        }
    }

    impl GlobalOptions {
        /// With that data folder, for tests of commands.
        pub fn for_tests(data: &str) -> Self {
            options("http://127.0.0.1:1", Path::new(data))
        }
    }

    #[test]
    fn the_token_of_this_machine_stays_on_it() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::write(data.path().join(TOKEN_FILE), "secret\n").expect("written");
        let local = options("http://127.0.0.1:1", data.path());
        assert_eq!(
            local.token_of(None).expect("a token").as_deref(),
            Some("secret")
        );
        let away = options("https://heyday.example", data.path());
        assert_eq!(away.token_of(None).expect("none"), None);
        let given = away.token_of(Some(" own ".to_owned()));
        assert_eq!(given.expect("a token").as_deref(), Some("own"));
    }

    #[test]
    fn a_named_folder_without_token_is_an_error() {
        let data = tempfile::tempdir().expect("a folder");
        let error = options("http://127.0.0.1:1", data.path())
            .token_of(None)
            .expect_err("no token");
        assert_eq!(error.code(), 2);
        assert!(error.to_string().contains("token"));
    }
}
