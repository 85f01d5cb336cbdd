//! A model's chat template, and what its files say around it. [`crate::templates`] runs it.

use serde::Deserialize;

use crate::error::ModelError;
use crate::generation::Message;
use crate::model::files::ModelFiles;
use crate::templates::{Around, ChatError, Templates};

const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "chat_template.jinja";

#[derive(Deserialize, Default)]
struct Raw {
    #[serde(default)]
    chat_template: Option<Written>,
    #[serde(default)]
    bos_token: Option<Token>,
    #[serde(default)]
    eos_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// As text, or with how it is found in texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

impl Token {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

/// What a model's files say of conversations.
#[derive(Debug)]
pub(crate) struct Chat {
    /// None where the model has no template.
    template: Option<String>,
    templates: Templates,
    begin: String,
    /// What ends a text, as the tokenizer's files say.
    pub(crate) end: Option<String>,
}

impl Chat {
    /// Reads them; a template that is no Jinja is refused.
    pub(crate) fn read(files: &ModelFiles, templates: &Templates) -> Result<Self, ModelError> {
        let raw: Raw = files.json_if_there(CONFIG)?.unwrap_or_default();
        let own_file = files.has(FILE);
        let template = if own_file {
            let bytes = files.bytes(FILE, "")?;
            let text = String::from_utf8(bytes).map_err(|_| ModelError::Damaged {
                file: FILE.to_owned(),
                message: "it is no UTF-8".to_owned(),
            })?;
            Some(text)
        } else {
            match raw.chat_template {
                None => None,
                Some(Written::One(template)) => Some(template),
                Some(Written::Named(templates)) => templates
                    .into_iter()
                    .find(|named| named.name == "default")
                    .map(|named| named.template),
            }
        };
        if let Some(template) = &template {
            templates
                .check(template)
                .map_err(|error| refused(error, own_file))?;
        }
        Ok(Self {
            template,
            templates: templates.clone(),
            begin: raw.bos_token.map(Token::into_text).unwrap_or_default(),
            end: raw.eos_token.map(Token::into_text),
        })
    }

    pub(crate) const fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The prompt of a conversation, up to where the model goes on; none without a template.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Option<Result<String, ChatError>> {
        let around = Around {
            begin: &self.begin,
            end: self.end.as_deref().unwrap_or_default(),
        };
        let template = self.template.as_deref()?;
        Some(self.templates.prompt(template, messages, around))
    }
}

fn refused(error: ChatError, own_file: bool) -> ModelError {
    match error {
        ChatError::TooLarge(_) => ModelError::TooLarge(error.to_string()),
        ChatError::Unavailable(_) => ModelError::Unavailable(error.to_string()),
        _ => ModelError::Damaged {
            file: if own_file {
                FILE.to_owned()
            } else {
                format!("chat template in {CONFIG}")
            },
            message: error.to_string(),
        },
    }
}
