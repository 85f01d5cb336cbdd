//! Rotary positions (RoFormer, arXiv 2104.09864), with what models do to read further than
//! they were trained.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use serde_json::Value;

use crate::error::ModelError;

/// Which angle each pair of a head's numbers turns by at each position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// For each pair the angle of one position.
    frequencies: Vec<f64>,
    /// For texts that may have more tokens than that, other ones.
    longer: Option<(usize, Vec<f64>)>,
    /// What both sine and cosine are multiplied with.
    scale: f64,
    /// Positions that it is right for; the model's window where absent.
    pub(super) positions: Option<usize>,
}

/// The positions that a model was trained with.
pub(super) const TRAINED: &str = "original_max_position_embeddings";

/// The members of `rope_scaling`.
struct Members<'a>(&'a BTreeMap<String, Value>);

impl Members<'_> {
    fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0)
                .map(Some)
                .ok_or_else(|| ModelError::Mismatch(format!("{name} in rope_scaling is {value}"))),
        }
    }

    fn needed(&self, name: &'static str) -> Result<f64, ModelError> {
        self.number(name)?.ok_or_else(|| ModelError::Missing {
            file: format!("{name} in rope_scaling of config.json"),
            why: "it says how far the model's positions are stretched",
        })
    }

    /// A number for each pair.
    fn factors(&self, name: &str, pairs: usize) -> Result<Vec<f64>, ModelError> {
        let numbers = self.0.get(name).and_then(Value::as_array);
        let numbers = numbers.into_iter().flatten().map(Value::as_f64);
        let found: Option<Vec<f64>> = numbers.collect();
        found
            .filter(|found| found.len() == pairs)
            .filter(|found| found.iter().all(|it| it.is_finite() && *it > 0.0))
            .ok_or_else(|| {
                ModelError::Mismatch(format!("{name} in rope_scaling has no {pairs} numbers"))
            })
    }

    fn kind(&self) -> Result<&str, ModelError> {
        match self.0.get("rope_type").or_else(|| self.0.get("type")) {
            None | Some(Value::Null) => Ok("default"),
            Some(Value::String(kind)) => Ok(kind),
            Some(other) => Err(ModelError::Mismatch(format!(
                "rope_type in rope_scaling is {other}"
            ))),
        }
    }
}

impl Rope {
    /// `window`: the positions that the model reads, which are those that it was trained
    /// with where its scaling does not say otherwise.
    pub(crate) fn read(
        scaling: Option<&BTreeMap<String, Value>>,
        theta: Option<f64>,
        head_size: usize,
        window: usize,
    ) -> Result<Self, ModelError> {
        let none = BTreeMap::new();
        let members = Members(scaling.unwrap_or(&none));
        let theta = members.number("rope_theta")?.or(theta).unwrap_or(10_000.0);
        if !(theta > 1.0 && theta.is_finite()) {
            return Err(ModelError::Mismatch(format!("rope_theta is {theta}")));
        }
        if members.number("partial_rotary_factor")?.unwrap_or(1.0) != 1.0 {
            return Err(ModelError::Unsupported(
                "positions turn only a part of each head".to_owned(),
            ));
        }
        // Of each kind of layers another one, which would be read as none.
        if let Some((name, _)) = members.0.iter().find(|(_, value)| value.is_object()) {
            return Err(ModelError::Unsupported(format!(
                "its rope_scaling has another `{name}`; there is one for all layers"
            )));
        }
        let mut rope = Self {
            frequencies: (0..head_size / 2)
                .map(|pair| theta.powf(-2.0 * pair as f64 / head_size as f64))
                .collect(),
            longer: None,
            scale: 1.0,
            positions: None,
        };
        match members.kind()? {
            "default" => {}
            "linear" => {
                let factor = members.needed("factor")?;
                rope.each(|_, frequency| frequency / factor);
            }
            "llama3" => rope.llama3(&members, window)?,
            "yarn" => rope.yarn(&members, theta, head_size, window)?,
            "dynamic" => rope.dynamic(&members, window)?,
            // `su` in older files.
            "longrope" | "su" => rope.longrope(&members, window)?,
            other => {
                return Err(ModelError::Unsupported(format!(
                    "its rope_scaling is `{other}`; there are linear, dynamic, llama3, longrope \
                     and yarn"
                )));
            }
        }
        Ok(rope)
    }

    fn each(&mut self, change: impl Fn(usize, f64) -> f64) {
        for (pair, frequency) in self.frequencies.iter_mut().enumerate() {
            *frequency = change(pair, *frequency);
        }
    }

    /// As Llama 3.1: slow pairs are stretched, fast ones not, and those between in part.
    fn llama3(&mut self, members: &Members<'_>, window: usize) -> Result<(), ModelError> {
        let factor = members.needed("factor")?;
        let (low, high) = (
            members.needed("low_freq_factor")?,
            members.needed("high_freq_factor")?,
        );
        let trained = members.number(TRAINED)?.unwrap_or(window as f64);
        if low >= high {
            return Err(ModelError::Mismatch(format!(
                "low_freq_factor {low} in rope_scaling is not below high_freq_factor {high}"
            )));
        }
        self.each(|_, frequency| {
            // Turns within the positions that it was trained with.
            let turns = trained * frequency / (2.0 * PI);
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        });
        Ok(())
    }

    /// YaRN (arXiv 2309.00071).
    fn yarn(
        &mut self,
        members: &Members<'_>,
        theta: f64,
        head_size: usize,
        window: usize,
    ) -> Result<(), ModelError> {
        let factor = members.needed("factor")?;
        if members.0.contains_key("mscale") || members.0.contains_key("mscale_all_dim") {
            return Err(ModelError::Unsupported(
                "its rope_scaling is yarn with mscale".to_owned(),
            ));
        }
        let trained = members.number(TRAINED)?.unwrap_or(window as f64);
        let fast = members.number("beta_fast")?.unwrap_or(32.0);
        let slow = members.number("beta_slow")?.unwrap_or(1.0);
        // The pair that turns so often within those positions.
        let pair = |turns: f64| {
            head_size as f64 * (trained / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
        };
        let (mut first, mut last) = (pair(fast), pair(slow));
        if members.0.get("truncate") != Some(&Value::Bool(false)) {
            (first, last) = (first.floor(), last.ceil());
        }
        let first = first.max(0.0);
        let mut last = last.min(head_size as f64 - 1.0);
        if first == last {
            last += 0.001;
        }
        self.each(|pair, frequency| {
            let stretched = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
            stretched * frequency / factor + (1.0 - stretched) * frequency
        });
        let by_paper = if factor > 1.0 {
            0.1 * factor.ln() + 1.0
        } else {
            1.0
        };
        self.scale = members.number("attention_factor")?.unwrap_or(by_paper);
        Ok(())
    }

    /// Dynamic NTK: all positions of a text turn by its length where that is more than the
    /// model was trained with. What was read before would have to be turned again with each
    /// token, so no text is longer here; up to there nothing is stretched.
    fn dynamic(&mut self, members: &Members<'_>, window: usize) -> Result<(), ModelError> {
        members.needed("factor")?;
        let trained = members.number(TRAINED)?.unwrap_or(window as f64);
        // A window is at least one position.
        self.positions = Some((trained as usize).clamp(1, window));
        Ok(())
    }

    /// LongRoPE (arXiv 2402.13753): factors that were searched for, some for texts up to the
    /// positions that the model was trained with and others for longer ones. Which is decided by
    /// the tokens that a text may have, and stays.
    fn longrope(&mut self, members: &Members<'_>, window: usize) -> Result<(), ModelError> {
        let trained = members.needed(TRAINED)?;
        let pairs = self.frequencies.len();
        let (short, long) = (
            members.factors("short_factor", pairs)?,
            members.factors("long_factor", pairs)?,
        );
        let longer = self.frequencies.iter().zip(long).map(|(one, by)| one / by);
        self.longer = Some((trained as usize, longer.collect()));
        self.each(|pair, frequency| frequency / short[pair]);
        let factor = window as f64 / trained;
        let by_paper = if factor > 1.0 {
            (1.0 + factor.ln() / trained.ln()).sqrt()
        } else {
            1.0
        };
        self.scale = members.number("attention_factor")?.unwrap_or(by_paper);
        if !self.scale.is_finite() {
            return Err(ModelError::Mismatch(format!(
                "{TRAINED} in rope_scaling is {trained}"
            )));
        }
        Ok(())
    }

    /// Cosines, then sines, of all pairs at a position of a text that may have so many tokens.
    pub(crate) fn at(&self, position: usize, tokens: usize, into: &mut Vec<f32>) {
        let position = position as f64;
        let frequencies = match &self.longer {
            Some((trained, longer)) if tokens > *trained => longer,
            _ => &self.frequencies,
        };
        let angles = || frequencies.iter().map(move |one| one * position);
        into.extend(angles().map(|angle| (angle.cos() * self.scale) as f32));
        into.extend(angles().map(|angle| (angle.sin() * self.scale) as f32));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rope(scaling: Value) -> Result<Rope, ModelError> {
        let scaling = serde_json::from_value(scaling).expect("an object");
        Rope::read(Some(&scaling), Some(10_000.0), 8, 64)
    }

    #[test]
    fn what_is_stretched_turns_slower() {
        let plain = Rope::read(None, None, 8, 64).expect("plain");
        assert_eq!(plain, rope(json!({"rope_type": "default"})).expect("plain"));
        let linear = rope(json!({"type": "linear", "factor": 4})).expect("linear");
        for (slow, fast) in linear.frequencies.iter().zip(&plain.frequencies) {
            assert!((slow * 4.0 - fast).abs() < 1e-12);
        }
        let llama = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
            "high_freq_factor": 4, "original_max_position_embeddings": 32});
        let llama = rope(llama).expect("llama3");
        // Its fastest pair turns five times, its slowest not once.
        assert_eq!(llama.frequencies[0], plain.frequencies[0]);
        assert_eq!(llama.frequencies[3], plain.frequencies[3] / 8.0);
        let yarn = rope(json!({"rope_type": "yarn", "factor": 4.0})).expect("yarn");
        assert!((yarn.scale - (0.1 * 4.0_f64.ln() + 1.0)).abs() < 1e-12);
        assert_eq!(yarn.frequencies[3], plain.frequencies[3] / 4.0);
    }

    #[test]
    fn what_was_not_trained_for_is_not_read_or_turns_otherwise() {
        let plain = Rope::read(None, None, 8, 64).expect("plain");
        for (scaling, positions) in [
            (json!({"type": "dynamic", "factor": 2.0}), 64),
            (
                json!({"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32}),
                32,
            ),
        ] {
            let dynamic = rope(scaling).expect("dynamic");
            assert_eq!(dynamic.frequencies, plain.frequencies);
            assert_eq!(dynamic.positions, Some(positions));
        }
        let long = json!({"rope_type": "longrope", "original_max_position_embeddings": 16,
            "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 4, 4]});
        let long = rope(long).expect("longrope");
        // Of 64 positions and 16.
        assert!((long.scale - 1.5_f64.sqrt()).abs() < 1e-12);
        let at = |tokens: usize| {
            let mut found = Vec::new();
            long.at(3, tokens, &mut found);
            found
        };
        assert_eq!(at(1), at(16));
        assert_ne!(at(16), at(17));
        let angle = 3.0 * plain.frequencies[3] / 4.0;
        assert!((at(17)[3] - (angle.cos() * long.scale) as f32).abs() < 1e-6);
    }

    #[test]
    fn what_is_unknown_or_out_of_range_is_refused() {
        for (scaling, told) in [
            (json!({"rope_type": "other", "factor": 2}), "`other`"),
            (json!({"rope_type": 5}), "rope_type"),
            (
                json!({"full_attention": {"rope_type": "linear", "factor": 2}}),
                "`full_attention`",
            ),
            (json!({"rope_type": "dynamic"}), "factor"),
            (json!({"rope_type": "longrope"}), "original"),
            (
                json!({"rope_type": "longrope", "original_max_position_embeddings": 16,
                    "short_factor": [1, 1, 1], "long_factor": [2, 2, 2, 2]}),
                "short_factor",
            ),
            (
                json!({"rope_type": "longrope", "original_max_position_embeddings": 16,
                    "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 2, 0]}),
                "long_factor",
            ),
            (
                json!({"rope_type": "su", "original_max_position_embeddings": 1,
                    "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 2, 2]}),
                "original",
            ),
            (json!({"rope_type": "linear"}), "factor"),
            (json!({"rope_type": "linear", "factor": 0}), "factor"),
            (json!({"rope_type": "linear", "factor": "2"}), "factor"),
            (json!({"rope_theta": -1}), "rope_theta"),
            (json!({"rope_theta": 1}), "rope_theta"),
            (
                json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                    "high_freq_factor": 4}),
                "low_freq_factor",
            ),
            (
                json!({"rope_type": "yarn", "factor": 8, "mscale": 1}),
                "mscale",
            ),
            (json!({"partial_rotary_factor": 0.5}), "part"),
        ] {
            let error = rope(scaling.clone()).expect_err("refused");
            assert!(error.to_string().contains(told), "{scaling}: {error}");
        }
    }
}
