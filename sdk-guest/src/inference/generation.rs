//! Text that a model generates: what is asked for, and what comes.

use serde::{Deserialize, Serialize};

use super::{Error, Model, Result};
use crate::host::inference as host;

/// Who says a message.
///
/// ```
/// use heyday_sdk::inference::{Message, Role};
///
/// let talk = [Message::system("Be brief."), Message::user("What is a rotor?")];
/// let asked = talk.iter().find(|message| message.role == Role::User);
/// assert_eq!(asked.unwrap().content, "What is a rotor?");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// What a tool answered.
    Tool,
}

/// One message of a conversation.
///
/// ```
/// use heyday_sdk::inference::{Message, Role};
///
/// let message = Message::user("What is a rotor?");
/// assert_eq!((message.role, message.content.as_str()), (Role::User, "What is a rotor?"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What.
    pub content: String,
}

impl Message {
    /// Instructions for the whole conversation.
    ///
    /// ```
    /// use heyday_sdk::inference::{Message, Request};
    ///
    /// let rules = Message::system("Answer only from the given passages.");
    /// let request = Request::chat([rules, Message::user("What is a rotor?")]);
    /// assert!(request.messages[0].content.starts_with("Answer only"));
    /// ```
    pub fn system(content: impl Into<String>) -> Self {
        Self::of(Role::System, content)
    }

    /// Of who asks.
    ///
    /// ```
    /// use heyday_sdk::inference::{Message, Role};
    ///
    /// let passages = ["The rotor turns.", "It is balanced."];
    /// let message = Message::user(format!("Passages: {}\nWhat turns?", passages.join(" ")));
    /// assert_eq!(message.role, Role::User);
    /// ```
    pub fn user(content: impl Into<String>) -> Self {
        Self::of(Role::User, content)
    }

    /// Of the model, in an earlier turn.
    ///
    /// ```
    /// use heyday_sdk::inference::{Message, Request};
    ///
    /// // Earlier turns are told again, since a model remembers nothing.
    /// let mut talk = vec![Message::user("What is a rotor?")];
    /// talk.push(Message::assistant("The part that turns."));
    /// talk.push(Message::user("And a stator?"));
    /// assert_eq!(Request::chat(talk).messages.len(), 3);
    /// ```
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::of(Role::Assistant, content)
    }

    fn of(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// What is to be generated; `wit/inference` has the ranges and what is done where something
/// is absent.
///
/// ```
/// use heyday_sdk::inference::{Message, Request};
///
/// let request = Request::chat([
///     Message::system("Answer in one sentence."),
///     Message::user("What is a rotor?"),
/// ])
/// .max_tokens(60)
/// .temperature(0.0)
/// .stop("\n");
/// assert_eq!((request.messages.len(), request.max_tokens), (2, Some(60)));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Request {
    /// A conversation, of which the model's chat template makes a prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Or a text that is continued as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The most tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The answer ends before the first of these texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// 0 takes the likeliest token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Only so many of the likeliest tokens are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The same request with the same seed gives the same text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Request {
    /// The next message of a conversation.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .generates("smollm2", |request| format!("{} messages", request.messages.len()))
    /// #     .enter();
    /// use heyday_sdk::inference::{Message, Model, Request};
    ///
    /// let request = Request::chat([Message::system("Be brief."), Message::user("Why?")]);
    /// assert_eq!(Model::open("smollm2")?.generate(&request)?.text()?, "2 messages");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn chat(messages: impl IntoIterator<Item = Message>) -> Self {
        Self {
            messages: messages.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The continuation of a text as it stands.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .generates("smollm2", |_| " fox".to_owned())
    /// #     .enter();
    /// use heyday_sdk::inference::{Model, Request};
    ///
    /// let request = Request::prompt("The quick brown").max_tokens(1);
    /// assert_eq!(Model::open("smollm2")?.generate(&request)?.text()?, " fox");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn prompt(text: impl Into<String>) -> Self {
        Self {
            prompt: Some(text.into()),
            ..Self::default()
        }
    }

    /// The most tokens of the answer.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .generates("smollm2", |_| "one two three".to_owned())
    /// #     .enter();
    /// use heyday_sdk::inference::{Model, Request};
    ///
    /// let model = Model::open("smollm2")?;
    /// assert_eq!(model.generate(&Request::prompt("Count").max_tokens(2))?.text()?, "one two");
    /// let none = model.generate(&Request::prompt("Count").max_tokens(0)).unwrap_err();
    /// assert!(none.is("invalid-request"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn max_tokens(mut self, most: u32) -> Self {
        self.max_tokens = Some(most);
        self
    }

    /// The answer ends before this text; of several before the first that comes.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .generates("smollm2", |_| "A rotor.\nA stator.".to_owned())
    /// #     .enter();
    /// use heyday_sdk::inference::{Model, Request};
    ///
    /// let request = Request::prompt("List:").stop("\n").stop("END");
    /// assert_eq!(Model::open("smollm2")?.generate(&request)?.text()?, "A rotor.");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    /// 0 takes the likeliest token, up to 2 takes others more and more.
    ///
    /// ```
    /// use heyday_sdk::inference::Request;
    ///
    /// let exact = Request::prompt("2 + 2 =").temperature(0.0);
    /// let inventive = Request::prompt("Once upon a time").temperature(1.2);
    /// assert!(exact.temperature < inventive.temperature);
    /// ```
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Only the likeliest tokens that together have this probability are drawn from.
    ///
    /// ```
    /// use heyday_sdk::inference::Request;
    ///
    /// let request = Request::prompt("Once upon a time").temperature(0.8).top_p(0.9);
    /// assert_eq!(request.top_p, Some(0.9));
    /// ```
    #[must_use]
    pub fn top_p(mut self, share: f32) -> Self {
        self.top_p = Some(share);
        self
    }

    /// Only so many of the likeliest tokens are drawn from.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .generates("smollm2", |_| String::new())
    /// #     .enter();
    /// use heyday_sdk::inference::{Model, Request};
    ///
    /// let model = Model::open("smollm2")?;
    /// assert!(model.generate(&Request::prompt("Once").top_k(40)).is_ok());
    /// assert!(model.generate(&Request::prompt("Once").top_k(0)).is_err());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn top_k(mut self, most: u32) -> Self {
        self.top_k = Some(most);
        self
    }

    /// The same request with the same seed gives the same text: give the attempt's own, and a
    /// retry answers as the attempt before.
    ///
    /// ```
    /// use heyday_sdk::{context, inference::Request};
    /// use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    ///
    /// // The same on every attempt of the activity; a seed has 53 bits.
    /// let mut hasher = DefaultHasher::new();
    /// context::idempotency_key().hash(&mut hasher);
    /// let request = Request::prompt("Once upon a time").seed(hasher.finish() >> 11);
    /// assert!(request.seed.unwrap() < 1 << 53);
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// Why a text ended.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .generates("smollm2", |_| "one two three".to_owned())
/// #     .enter();
/// use heyday_sdk::inference::{FinishReason, Model, Request};
///
/// let mut answer = Model::open("smollm2")?.generate(&Request::prompt("Count").max_tokens(2))?;
/// let text = answer.text()?;
/// let shown = match answer.summary()?.finish_reason {
///     FinishReason::Length => format!("{text} ..."),
///     FinishReason::Stop => text,
/// };
/// assert_eq!(shown, "one two ...");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a text of [`Request::stop`] came.
    Stop,
    /// [`Request::max_tokens`], or the end of the window.
    Length,
}

/// What is known of a text at its end.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .generates("smollm2", |_| "one two three".to_owned())
/// #     .enter();
/// use heyday_sdk::inference::{Model, Request, Summary};
///
/// let mut answer = Model::open("smollm2")?.generate(&Request::prompt("Count to three"))?;
/// answer.text()?;
/// let Summary { prompt_tokens, completion_tokens, .. } = answer.summary()?;
/// assert_eq!((prompt_tokens, completion_tokens), (3, 3));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens that were generated.
    pub completion_tokens: u64,
}

/// A text that is being generated: an iterator of its pieces as they come, each of whole
/// characters. It ends with the text or with an error. Dropping it stops the generation.
///
/// ```
/// use heyday_sdk::prelude::*;
/// use heyday_sdk::inference::{Generation, Message, Model, Request};
///
/// /// The answer's first sentence; no more of it is generated.
/// fn first_sentence(question: &str) -> Result<String> {
///     let model = Model::open("smollm2")?;
///     let request = Request::chat([Message::user(question)]).max_tokens(200);
///     let answer: Generation = model.generate(&request)?;
///     let mut text = String::new();
///     for piece in answer {
///         text.push_str(&piece?);
///         if let Some(end) = text.find(". ") {
///             text.truncate(end + 1);
///             break;
///         }
///     }
///     Ok(text)
/// }
///
/// let _test = heyday_sdk::test::Context::new()
///     .generates("smollm2", |request| {
///         format!("You ask: {}. It depends.", request.messages[0].content)
///     })
///     .enter();
/// assert_eq!(first_sentence("why").unwrap(), "You ask: why.");
/// ```
#[derive(Debug)]
pub struct Generation {
    host: host::Generation,
    ended: bool,
}

impl Generation {
    /// The whole text, once it has ended.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .generates("smollm2", |_| "one two three".to_owned())
    /// #     .enter();
    /// use heyday_sdk::inference::{Model, Request};
    ///
    /// let mut answer = Model::open("smollm2")?.generate(&Request::prompt("Count"))?;
    /// let first = answer.next().transpose()?;
    /// assert_eq!(first.as_deref(), Some("one"));
    /// assert_eq!(answer.text()?, " two three"); // What has not come yet.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// Why it did not come to its end.
    pub fn text(&mut self) -> Result<String> {
        self.collect()
    }

    /// Why it ended and how long it is; at its end.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .generates("smollm2", |_| "one two three".to_owned())
    /// #     .enter();
    /// use heyday_sdk::inference::{Model, Request};
    ///
    /// let mut answer = Model::open("smollm2")?.generate(&Request::prompt("Count"))?;
    /// assert!(answer.summary().unwrap_err().is("invalid-request")); // It is not at its end.
    /// answer.text()?;
    /// assert_eq!(answer.summary()?.completion_tokens, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-request` before its end.
    pub fn summary(&self) -> Result<Summary> {
        let summary = self.host.summary()?;
        serde_json::from_value(summary)
            .map_err(|error| Error::new("internal", format!("the host's summary: {error}")))
    }
}

impl Iterator for Generation {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.host.next().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl std::iter::FusedIterator for Generation {}

impl Model {
    /// Begins to generate text, and returns when the prompt is accepted.
    ///
    /// # Errors
    /// `invalid-request`, `input-too-long`, `unsupported` where the model generates none,
    /// `busy` and others, as `wit/inference` says.
    ///
    /// ```
    /// use heyday_sdk::inference::{FinishReason, Model, Request};
    ///
    /// let _test = heyday_sdk::test::Context::new()
    ///     .generates("smollm2", |_| "one two three".to_owned())
    ///     .enter();
    /// let model = Model::open("smollm2").unwrap();
    /// let mut answer = model.generate(&Request::prompt("Count: ").max_tokens(2)).unwrap();
    /// assert_eq!(answer.text().unwrap(), "one two");
    /// assert_eq!(answer.summary().unwrap().finish_reason, FinishReason::Length);
    /// ```
    pub fn generate(&self, request: &Request) -> Result<Generation> {
        // JSON has no such numbers: they would be left out, as if nothing had been asked for.
        for (name, number) in [
            ("temperature", request.temperature),
            ("top_p", request.top_p),
        ] {
            if let Some(number) = number.filter(|number| !number.is_finite()) {
                let told = format!("`{name}` is {number}, which is out of its range");
                return Err(Error::new("invalid-request", told));
            }
        }
        let request = serde_json::to_string(request)
            .map_err(|error| Error::new("invalid-request", error.to_string()))?;
        Ok(Generation {
            host: self.host.generate(&request)?,
            ended: false,
        })
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::test::Context;

    fn count(request: &Request) -> String {
        let from = request.prompt.as_deref().unwrap_or("chat");
        format!("{from} one two three four")
    }

    #[test]
    fn a_text_comes_in_pieces_and_ends() {
        let _test = Context::new().generates("m", count).enter();
        let model = Model::open("m").unwrap();
        assert_eq!(model.properties().unwrap()["task"], "generate");
        let mut answer = model.generate(&Request::prompt("from")).unwrap();
        let first = answer.next().unwrap().unwrap();
        assert!("from one two three four".starts_with(&first) && first.len() < 20);
        assert!(answer.summary().unwrap_err().is("invalid-request"));
        let rest: Result<String> = answer.by_ref().collect();
        assert_eq!(first + &rest.unwrap(), "from one two three four");
        assert!(answer.next().is_none());
        let summary = answer.summary().unwrap();
        assert_eq!(summary.finish_reason, FinishReason::Stop);
        assert_eq!((summary.prompt_tokens, summary.completion_tokens), (1, 5));
        let chat = Request::chat([Message::system("be brief"), Message::user("go")]);
        let mut answer = model.generate(&chat.stop("three")).unwrap();
        assert_eq!(answer.text().unwrap(), "chat one two ");
        let mut short = model.generate(&Request::prompt("").max_tokens(1)).unwrap();
        assert_eq!(short.text().unwrap(), " one");
        assert_eq!(short.summary().unwrap().finish_reason, FinishReason::Length);
    }

    #[test]
    fn the_stand_in_refuses_what_the_host_refuses() {
        let _test = Context::new()
            .generates("m", count)
            .embeddings("e", 8)
            .enter();
        let model = Model::open("m").unwrap();
        for request in [
            Request::default(),
            Request::prompt("x").max_tokens(0),
            Request::prompt("x").temperature(3.0),
            Request::prompt("x").temperature(-1.0),
            Request::prompt("x").temperature(f32::NAN),
            Request::prompt("x").top_p(0.0),
            Request::prompt("x").top_p(f32::INFINITY),
            Request::prompt("x").top_k(0),
            Request::prompt("x").stop(""),
            Request::prompt("x").seed(1 << 53),
        ] {
            let error = model.generate(&request).unwrap_err();
            assert!(error.is("invalid-request"), "{request:?}: {error}");
        }
        let long = Request::prompt("word ".repeat(300));
        let error = model.generate(&long).unwrap_err();
        assert!(error.is("input-too-long"));
        let embeds = Model::open("e").unwrap();
        let refused = embeds.generate(&Request::prompt("x")).unwrap_err();
        assert!(refused.is("unsupported"));
        let refused = model.embed(["x"], crate::inference::LongText::Refuse);
        assert!(refused.unwrap_err().is("unsupported"));
    }
}
