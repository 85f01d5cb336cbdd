//! `config` and `secrets`.

pub(crate) mod config {
    use crate::bindings::config::heyday::config::config as wit;
    use crate::config::{Page, Setting};
    use crate::error::CapabilityError;

    type Result<T> = std::result::Result<T, CapabilityError>;

    fn error(error: wit::Error) -> CapabilityError {
        convert_error!(error)
    }

    #[derive(Debug)]
    pub(crate) struct Config(wit::Config);

    impl Config {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            wit::Config::open(binding).map(Self).map_err(error)
        }

        pub(crate) fn get(&self, key: &str) -> Result<Option<String>> {
            self.0.get(key).map_err(error)
        }

        pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
            let page = self.0.list(prefix, limit, after).map_err(error)?;
            let settings = page.settings.into_iter().map(|setting| Setting {
                key: setting.key,
                value: setting.value,
            });
            Ok(Page {
                settings: settings.collect(),
                next: page.next,
            })
        }
    }
}

pub(crate) mod secrets {
    use crate::bindings::secrets::heyday::secrets::secrets as wit;
    use crate::error::CapabilityError;

    type Result<T> = std::result::Result<T, CapabilityError>;

    fn error(error: wit::Error) -> CapabilityError {
        convert_error!(error)
    }

    #[derive(Debug)]
    pub(crate) struct Secrets(wit::Secrets);

    impl Secrets {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            wit::Secrets::open(binding).map(Self).map_err(error)
        }

        pub(crate) fn get(&self, name: &str) -> Result<Vec<u8>> {
            self.0.get(name).map_err(error)
        }
    }
}
