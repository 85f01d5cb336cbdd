use heyday_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Greet {
    name: String,
}

/// Greets a person.
#[activity(queue = "general-queue", start_to_close = "30s")]
fn greet(input: Greet) -> Result<String> {
    Ok(format!("Hello {}", input.name))
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets_by_name() {
        let input = Greet { name: "Ada".into() };
        assert_eq!(greet(input).unwrap(), "Hello Ada");
    }
}
