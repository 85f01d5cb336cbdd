//! What a request for text says of it, alike in `/v1/chat/completions` and `/v1/completions`.

use heyday_inference::GenerateRequest;
use utoipa::ToSchema;

use super::answer::StreamOptions;
use super::{Members, Texts};
use crate::api::problem::Problem;

/// How a text is drawn, where it ends, and how it comes.
#[derive(Debug, Clone, PartialEq, ToSchema)]
pub struct TextOptions {
    /// The answer ends before the first of these texts: one, or up to 16.
    #[schema(value_type = Option<Texts>)]
    pub stop: Vec<String>,
    /// 0 to 2; 0 takes the likeliest token. 1 where absent.
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability are drawn from.
    pub top_p: Option<f32>,
    /// Only so many of the likeliest tokens are drawn from. Not OpenAI's, but common.
    pub top_k: Option<u32>,
    /// The same request with the same seed gives the same answer.
    pub seed: Option<u64>,
    /// Whether the answer comes piece by piece, as server-sent events.
    #[schema(required = false)]
    pub stream: bool,
    /// With `stream`: whether the last piece says what was used.
    #[schema(value_type = Option<StreamOptions>)]
    pub stream_options: bool,
}

impl TextOptions {
    pub(super) fn read(members: &mut Members) -> Result<Self, Problem> {
        let options = Self {
            stop: members
                .take::<Texts>("stop")?
                .map_or_else(Vec::new, Texts::into_vec),
            temperature: members.take("temperature")?,
            top_p: members.take("top_p")?,
            top_k: members.take("top_k")?,
            seed: members.take("seed")?,
            stream: members.take("stream")?.unwrap_or_default(),
            stream_options: members
                .take::<StreamOptions>("stream_options")?
                .unwrap_or_default()
                .include_usage,
        };
        if options.stream_options && !options.stream {
            return Err(members.invalid("stream_options", "only with `stream`"));
        }
        Ok(options)
    }

    /// Where it is streamed, whether the last piece says what was used.
    pub(super) fn streamed(&self) -> Option<bool> {
        self.stream.then_some(self.stream_options)
    }

    /// What that asks of the model: all but what it reads, and how long the answer may be.
    pub(super) fn generate(self) -> GenerateRequest {
        GenerateRequest {
            stop: self.stop,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
            ..GenerateRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::refusal;
    use super::*;

    /// What such a member is refused with, by its form or by its value.
    fn refused(member: &str, value: &Value) -> Problem {
        let mut body = serde_json::Map::new();
        body.insert(member.to_owned(), value.clone());
        let mut members = Members::of_body(body);
        let checked = TextOptions::read(&mut members).and_then(|options| {
            let asked = GenerateRequest {
                prompt: Some("once".to_owned()),
                ..options.generate()
            };
            asked.check().map_err(|error| refusal(error, "prompt"))
        });
        checked.expect_err(member)
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_its_name() {
        for (member, value) in [
            ("stop", json!(5)),
            ("stop", json!("")),
            ("stop", json!(vec!["."; 17])),
            ("stop", json!([".", "x".repeat(257)])),
            ("temperature", json!("hot")),
            ("temperature", json!(-0.1)),
            ("temperature", json!(2.1)),
            // More than the number holds.
            ("temperature", json!(1e39)),
            ("top_p", json!(0)),
            ("top_p", json!(-1)),
            ("top_p", json!(1.5)),
            ("top_k", json!(0)),
            ("top_k", json!(-1)),
            ("seed", json!(-1)),
            ("seed", json!(0.5)),
            ("seed", json!(1_u64 << 53)),
            ("stream", json!("yes")),
            ("stream_options", json!({ "include_usage": true })),
            ("stream_options", json!({ "odd": true })),
        ] {
            let problem = refused(member, &value);
            assert_eq!(problem.name, "invalid-value", "{value}: {problem:?}");
            assert_eq!(problem.further["param"], member, "{value}: {problem:?}");
        }
    }
}
