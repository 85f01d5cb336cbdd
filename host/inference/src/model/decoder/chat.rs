//! A model's chat template: Jinja, as Python's programs write it.
//!
//! A template comes with a model's files and may be anything, so it runs on a budget that
//! counts instructions and the bytes that they make, and reaches nothing: no files, no other
//! templates, no clock. One thing minijinja does not count: lists that are added to each other,
//! which a template can double until memory ends. Who imports a model trusts it that far.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Deserialize;

use crate::error::ModelError;
use crate::generation::Message;
use crate::model::files::ModelFiles;

/// Instructions, or 64 bytes each: a prompt of 8 MiB takes a few hundred thousand.
const FUEL: u64 = 2_000_000;
/// Bytes of a template: large ones, with tools, have 20 KB.
const TEMPLATE_BYTES: usize = 64 << 10;
/// The stack of the thread that reads a template: minijinja calls itself for each sign of a
/// chain (`x+x+x`, `---x`), of which a template may be full. Only what is used of it is memory.
const STACK: usize = 1 << 30;
/// How deep macros call each other, in minijinja's units.
const DEPTH: usize = 200;
const NAME: &str = "chat";
const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "chat_template.jinja";

/// Why a conversation has no prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template itself says so.
    #[error("the model's chat template refuses the messages: {0}")]
    Refused(String),
    /// It does more than it may.
    #[error("the model's chat template does too much for these messages")]
    TooMuch,
    /// It cannot be run.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
}

#[derive(Deserialize, Default)]
struct Raw {
    #[serde(default)]
    chat_template: Option<Templates>,
    #[serde(default)]
    bos_token: Option<Token>,
    #[serde(default)]
    eos_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
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
    environment: Option<Environment<'static>>,
    begin: String,
    /// What ends a text, as the tokenizer's files say.
    pub(crate) end: Option<String>,
}

impl Chat {
    pub(crate) fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        let raw: Raw = files.json_if_there(CONFIG)?.unwrap_or_default();
        let template = if files.has(FILE) {
            let bytes = files.bytes(FILE, "")?;
            let text = String::from_utf8(bytes).map_err(|_| ModelError::Damaged {
                file: FILE.to_owned(),
                message: "it is no UTF-8".to_owned(),
            })?;
            Some(text)
        } else {
            match raw.chat_template {
                None => None,
                Some(Templates::One(template)) => Some(template),
                Some(Templates::Named(templates)) => templates
                    .into_iter()
                    .find(|named| named.name == "default")
                    .map(|named| named.template),
            }
        };
        let environment = template.map(environment).transpose()?;
        Ok(Self {
            environment,
            begin: raw.bos_token.map(Token::into_text).unwrap_or_default(),
            end: raw.eos_token.map(Token::into_text),
        })
    }

    pub(crate) const fn has_template(&self) -> bool {
        self.environment.is_some()
    }

    /// The prompt of a conversation, up to where the model goes on; none without a template.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Option<Result<String, ChatError>> {
        let environment = self.environment.as_ref()?;
        let rendered = environment.get_template(NAME).and_then(|template| {
            template.render(context! {
                messages => Value::from(Serde(messages)),
                add_generation_prompt => true,
                bos_token => self.begin.as_str(),
                eos_token => self.end.as_deref().unwrap_or_default(),
            })
        });
        Some(rendered.map_err(|error| told(&error)))
    }
}

/// Marks the error of a template that refuses.
const REFUSAL: &str = "refused: ";

fn told(error: &Error) -> ChatError {
    let detail = error.detail().unwrap_or_default();
    match (error.kind(), detail.strip_prefix(REFUSAL)) {
        (ErrorKind::OutOfFuel, _) => ChatError::TooMuch,
        (_, Some(told)) => ChatError::Refused(told.chars().take(500).collect()),
        (kind, None) => {
            let line = error.line().unwrap_or_default();
            let text = format!("line {line}: {kind}: {detail}");
            ChatError::Failed(text.chars().take(500).collect())
        }
    }
}

fn damaged(message: String) -> ModelError {
    ModelError::Damaged {
        file: format!("chat template in {CONFIG}"),
        message,
    }
}

fn environment(template: String) -> Result<Environment<'static>, ModelError> {
    if template.len() > TEMPLATE_BYTES {
        return Err(ModelError::TooLarge(format!(
            "its chat template has {} bytes, over {TEMPLATE_BYTES}",
            template.len()
        )));
    }
    let read = std::thread::Builder::new()
        .name("inference-template".to_owned())
        .stack_size(STACK)
        .spawn(move || compiled(template))
        .map_err(|error| ModelError::Unsupported(format!("no thread can read it: {error}")))?;
    read.join()
        .unwrap_or_else(|panic| Err(damaged(crate::panic_message(panic.as_ref()))))
}

fn compiled(template: String) -> Result<Environment<'static>, ModelError> {
    let mut environment = Environment::new();
    // As Python's programs set it for these templates.
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| damaged(error.to_string()))?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| {
        Err::<Value, _>(Error::new(
            ErrorKind::InvalidOperation,
            format!("{REFUSAL}{message}"),
        ))
    });
    environment.add_filter("tojson", |value: Value| {
        serde_json::to_string(&value)
            .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
    });
    environment
        .add_template_owned(NAME, template)
        .map_err(|error| damaged(told(&error).to_string()))?;
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Role;

    fn chat(template: &str) -> Chat {
        Chat {
            environment: Some(environment(template.to_owned()).expect("a template")),
            begin: "<s>".to_owned(),
            end: Some("</s>".to_owned()),
        }
    }

    fn say(template: &str) -> Result<String, ChatError> {
        let messages = [
            Message {
                role: Role::System,
                content: "Be <brief>.".to_owned(),
            },
            Message {
                role: Role::User,
                content: " Hi \n".to_owned(),
            },
        ];
        chat(template).prompt(&messages).expect("a template")
    }

    #[test]
    fn templates_are_jinja_as_python_has_it() {
        let template = "{{ bos_token }}{% for message in messages %}\n    {%- if message['role'] \
                        == 'system' %}\n[{{ message.content }}]\n    {%- else %}\n{{ \
                        message['content'].strip() + eos_token }}\n    {%- endif %}\n{% endfor \
                        %}\n{% if add_generation_prompt %}{{ '>' }}{% endif %}";
        assert_eq!(say(template).unwrap(), "<s>[Be <brief>.]Hi</s>>");
        let methods = "{{ messages[0].content.split('<')[1].upper() }}{{ \
                       messages[1].role.startswith('us') }}{{ messages | length }}{% set ns = \
                       namespace(n=0) %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% \
                       endfor %}{{ ns.n }}{{ messages[1].role | tojson }}{{ tools is defined }}";
        let found = say(methods).unwrap().to_lowercase();
        assert_eq!(found, "brief>.true21\"user\"false");
        let none = Chat {
            environment: None,
            begin: String::new(),
            end: None,
        };
        assert!(none.prompt(&[]).is_none());
    }

    #[test]
    fn a_template_refuses_in_its_own_words() {
        let template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system \
                        prompt') }}{% endif %}";
        let error = say(template).expect_err("refused");
        assert!(matches!(error, ChatError::Refused(ref told) if told == "no system prompt"));
        for template in [
            "{{ messages.x.y }}",
            "{{ messages | nothing }}",
            "{{ f() }}",
        ] {
            let error = say(template).expect_err("fails");
            assert!(matches!(error, ChatError::Failed(_)), "{error:?}");
        }
    }

    #[test]
    fn a_hostile_template_ends() {
        for template in [
            // Time.
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% \
             endfor %}{% endfor %}{% endfor %}",
            // Memory.
            "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for a in range(60) %}{% set ns.x = \
             ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
            "{{ 'aaaaaaaaaa' * 1000000000 }}",
            "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for a in range(60) %}{% set ns.x = \
             ns.x.replace('a', 'aaaa') %}{% endfor %}",
            "{{ '%1000000000d' | format(1) }}",
            "{{ range(1000000000) | list | length }}",
            // Stack.
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% macro f(x) %}{{ f(x) ~ f(x) }}{% endmacro %}{{ f(1) }}",
            // Files.
            "{% include '/etc/passwd' %}",
        ] {
            // Some are refused as soon as they are read.
            if let Ok(environment) = environment(template.to_owned()) {
                let chat = Chat {
                    environment: Some(environment),
                    begin: String::new(),
                    end: None,
                };
                let error = chat.prompt(&[]).expect("a template");
                error.expect_err(template);
            }
        }
        let deep = "{{ ".to_owned() + &"(".repeat(30_000) + &")".repeat(30_000) + " }}";
        environment(deep).expect_err("too deep");
        let nested = "{% if 1 %}".repeat(3_000) + &"{% endif %}".repeat(3_000);
        environment(nested).expect_err("too deep");
        // Chains are as long as there is room for them, and cost no stack but while they are read.
        for (link, last, times) in [
            ("-", "1", TEMPLATE_BYTES - 20),
            ("x+", "x", 4_000),
            ("not ", "x", 4_000),
            ("x|", "trim", 4_000),
            ("x.", "x", 4_000),
        ] {
            let chain = link.repeat(times);
            let _ = environment(format!("{{{{ {chain}{last} }}}}"));
        }
        environment("{% for %}".to_owned()).expect_err("no Jinja");
        environment("x".repeat(TEMPLATE_BYTES + 1)).expect_err("too large");
    }
}
