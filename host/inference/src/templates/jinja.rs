//! One template on minijinja, on a budget of instructions and of the bytes that they make.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::{Answer, ChatError, Order};

/// Instructions, or 64 bytes each: a prompt of 8 MiB takes a few hundred thousand.
const FUEL: u64 = 2_000_000;
/// The stack of the thread that runs it: minijinja calls itself for each sign of a chain
/// (`x+x+x`, `---x`), of which a template may be full. Only what is used of it is memory.
pub(super) const STACK: usize = 256 << 20;
/// How deep macros call each other, in minijinja's units.
const DEPTH: usize = 200;
const NAME: &str = "chat";
/// Characters of what a template or minijinja says.
const MESSAGE: usize = 500;

/// Marks the error of a template that refuses.
const REFUSAL: &str = "refused: ";

/// Does what is ordered, on a thread that has room for it.
pub(super) fn run(order: &Order<'_>) -> Answer {
    std::thread::scope(|scope| {
        let running = std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, || rendered(order).map_err(|error| told(&error)))
            .map_err(|error| ChatError::Unavailable(error.to_string()))?;
        running
            .join()
            .unwrap_or_else(|panic| Err(failed(&crate::panic_message(panic.as_ref()))))
    })
}

fn rendered(order: &Order<'_>) -> Result<String, Error> {
    let mut environment = environment()?;
    environment.add_template(NAME, &order.template)?;
    let Some(conversation) = &order.conversation else {
        return Ok(String::new());
    };
    environment.get_template(NAME)?.render(context! {
        messages => Value::from(Serde(&conversation.messages)),
        add_generation_prompt => true,
        bos_token => &*conversation.begin,
        eos_token => &*conversation.end,
    })
}

fn environment<'a>() -> Result<Environment<'a>, Error> {
    let mut environment = Environment::new();
    // As Python's programs set it for these templates.
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
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
    Ok(environment)
}

fn told(error: &Error) -> ChatError {
    let detail = error.detail().unwrap_or_default();
    match (error.kind(), detail.strip_prefix(REFUSAL)) {
        (ErrorKind::OutOfFuel, _) => ChatError::TooMuch,
        (_, Some(told)) => ChatError::Refused(told.chars().take(MESSAGE).collect()),
        (kind, None) => {
            let line = error.line().unwrap_or_default();
            failed(&format!("line {line}: {kind}: {detail}"))
        }
    }
}

fn failed(message: &str) -> ChatError {
    ChatError::Failed(message.chars().take(MESSAGE).collect())
}
