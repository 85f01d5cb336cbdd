//! Reads the conformance kit's feature files: the part of Gherkin that they use.

use anyhow::{Context, bail};

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// One step, without its keyword.
#[derive(Debug)]
pub struct Step {
    /// `the workflow should complete`, ...
    pub text: String,
    /// The block of text below it, without its indentation.
    pub block: Option<String>,
}

/// Reads a feature file.
pub fn parse(text: &str) -> anyhow::Result<Vec<Scenario>> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if trimmed.starts_with('#') || trimmed.is_empty() {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix("Scenario:") {
            scenarios.push(Scenario {
                name: name.trim().to_owned(),
                steps: Vec::new(),
            });
            continue;
        }
        let Some(scenario) = scenarios.last_mut() else {
            continue;
        };
        if trimmed.starts_with("\"\"\"") {
            let indent = line.len() - line.trim_start().len();
            let block = lines
                .by_ref()
                .take_while(|line| line.trim() != "\"\"\"")
                .map(|line| line.get(indent..).unwrap_or_else(|| line.trim_start()))
                .collect::<Vec<_>>()
                .join("\n");
            let step = scenario
                .steps
                .last_mut()
                .context("a block without a step")?;
            step.block = Some(block);
            continue;
        }
        let step = ["Given ", "When ", "Then ", "And given ", "And "]
            .iter()
            .find_map(|keyword| {
                let head = trimmed.get(..keyword.len())?;
                head.eq_ignore_ascii_case(keyword)
                    .then(|| &trimmed[keyword.len()..])
            });
        let Some(step) = step else {
            bail!("cannot read the step {trimmed:?}")
        };
        // "And given" is tried after "Given"; both leave the same text.
        let text = step
            .strip_prefix("given ")
            .unwrap_or(step)
            .trim()
            .to_owned();
        scenario.steps.push(Step { text, block: None });
    }
    Ok(scenarios)
}

/// The texts in single quotes of a step.
pub fn quoted(step: &str) -> Vec<&str> {
    step.split('\'').skip(1).step_by(2).collect()
}
