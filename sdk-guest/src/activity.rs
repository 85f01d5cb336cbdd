//! What `#[activity]` and `plugin!` expand to, and how a call from the host becomes a call
//! of the author's function.
//!
//! Each `#[activity]` registers one [`Registered`] before the first export runs.
//! [`describe`] makes the answer of the plugin's `describe` of them; [`call`] finds one by
//! name, and its `run` reads the input, calls the function and writes the answer.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::Error;

/// What a plugin exports. `heyday_sdk::plugin!()` implements it for a type `HeydayPlugin`
/// of the plugin's crate, so that a test can ask what the host will be told.
///
/// ```
/// use heyday_sdk::{Plugin, prelude::*};
///
/// #[activity]
/// fn nothing() {}
///
/// heyday_sdk::plugin!();
///
/// /// Whether a plugin describes an activity of that name.
/// fn has<P: Plugin>(activity: &str) -> bool {
///     P::describe().contains(&format!("\"name\":\"{activity}\""))
/// }
///
/// # fn main() {
/// assert!(has::<HeydayPlugin>("nothing"));
/// # }
/// ```
pub trait Plugin {
    /// Describes the plugin and its activities, as `wit/plugin` says.
    ///
    /// ```
    /// use heyday_sdk::{Plugin as _, prelude::*};
    ///
    /// /// How high the water is.
    /// #[activity(queue = "tide-queue")]
    /// fn tide() -> Result<f64> {
    ///     Ok(1.5)
    /// }
    ///
    /// heyday_sdk::plugin!();
    ///
    /// # fn main() {
    /// let description = HeydayPlugin::describe();
    /// assert!(description.contains("How high the water is."));
    /// assert!(description.contains("tide-queue"));
    /// # }
    /// ```
    fn describe() -> String;

    /// Runs an activity on JSON, as the host does.
    ///
    /// ```
    /// use heyday_sdk::{Plugin as _, prelude::*};
    ///
    /// #[activity]
    /// fn double(number: u32) -> Result<u32> {
    ///     Ok(2 * number)
    /// }
    ///
    /// heyday_sdk::plugin!();
    ///
    /// # fn main() {
    /// assert_eq!(HeydayPlugin::run("double", "21").unwrap(), "42");
    /// let error = HeydayPlugin::run("double", "\"many\"").unwrap_err();
    /// assert_eq!(error.kind(), "invalid-input");
    /// let error = HeydayPlugin::run("no-such", "1").unwrap_err();
    /// assert_eq!(error.kind(), "unknown-activity");
    /// # }
    /// ```
    ///
    /// # Errors
    /// The activity's own; `unknown-activity`; `invalid-input` where the input does not
    /// fit; `invalid-output` where the answer cannot be written as JSON.
    fn run(activity: &str, input: &str) -> Result<String, Error>;
}

/// One activity.
pub struct Registered {
    /// Its name.
    pub name: &'static str,
    /// Its doc comment.
    pub documentation: &'static str,
    /// The members `queue`, `timeouts` and `retry`, one JSON object.
    pub options: &'static str,
    /// The schema of its input.
    pub input_schema: fn() -> Schema,
    /// The schema of its output.
    pub output_schema: fn() -> Schema,
    /// Runs it on JSON.
    pub run: fn(&str) -> Result<String, Error>,
}

inventory::collect!(Registered);

/// The activities, in the order of their names: registration has no order of its own, and
/// `describe` must always answer the same.
fn activities() -> Vec<&'static Registered> {
    let mut activities: Vec<_> = inventory::iter::<Registered>.into_iter().collect();
    activities.sort_by_key(|activity| activity.name);
    activities
}

/// The plugin's description; `options` are further members of it, one JSON object.
///
/// # Panics
/// Where two activities have one name: the upload then fails with this message.
#[must_use]
pub fn describe(name: &str, version: &str, documentation: &str, options: &str) -> String {
    let activities = activities();
    if let Some(pair) = activities.windows(2).find(|p| p[0].name == p[1].name) {
        panic!("two activities are named {:?}", pair[0].name);
    }
    let mut plugin: Map<String, Value> =
        serde_json::from_str(options).expect("the macro writes one JSON object");
    plugin.insert("name".into(), name.into());
    plugin.insert("version".into(), version.into());
    plugin.insert("documentation".into(), documentation.into());
    plugin.insert(
        "activities".into(),
        activities.into_iter().map(describe_activity).collect(),
    );
    Value::Object(plugin).to_string()
}

fn describe_activity(activity: &Registered) -> Value {
    let mut members: Map<String, Value> =
        serde_json::from_str(activity.options).expect("the macro writes one JSON object");
    members.insert("name".into(), activity.name.into());
    members.insert("documentation".into(), activity.documentation.into());
    members.insert("input".into(), (activity.input_schema)().into());
    members.insert("output".into(), (activity.output_schema)().into());
    Value::Object(members)
}

/// Runs the activity of that name.
///
/// # Errors
/// As [`Plugin::run`].
pub fn call(activity: &str, input: &str) -> Result<String, Error> {
    let activities = activities();
    match activities.iter().find(|known| known.name == activity) {
        Some(known) => (known.run)(input),
        None => {
            let known: Vec<&str> = activities.iter().map(|known| known.name).collect();
            Err(Error::permanent(
                "unknown-activity",
                format!("no activity {activity:?}; there are: {}", known.join(", ")),
            ))
        }
    }
}

/// What an activity may answer: nothing, or a `Result` of anything that has a schema.
///
/// ```
/// use heyday_sdk::{Outcome, Result};
///
/// fn number(text: &str) -> Result<u32> {
///     Ok(text.parse()?)
/// }
///
/// /// Takes whatever an activity may answer.
/// fn succeeded(outcome: impl Outcome) -> bool {
///     outcome.into_result().is_ok()
/// }
/// assert!(succeeded(number("7")) && succeeded(()));
/// assert!(!succeeded(number("seven")));
/// ```
#[diagnostic::on_unimplemented(
    message = "an activity answers nothing or a `Result`, not `{Self}`",
    note = "write `-> Result<{Self}>` (heyday_sdk::Result) and answer `Ok(...)`; the value \
            derives Serialize and JsonSchema"
)]
pub trait Outcome {
    /// The value in the case of success.
    type Output: Serialize + JsonSchema;

    /// The value, or the failure.
    ///
    /// ```
    /// use heyday_sdk::Outcome as _;
    ///
    /// assert_eq!("7".parse::<u8>().into_result().unwrap(), 7);
    /// let error = "x".parse::<u8>().into_result().unwrap_err();
    /// assert_eq!(error.kind(), "error"); // Converted as `?` converts.
    /// ```
    ///
    /// # Errors
    /// The activity's own.
    fn into_result(self) -> Result<Self::Output, Error>;
}

impl Outcome for () {
    type Output = ();

    fn into_result(self) -> Result<(), Error> {
        Ok(())
    }
}

impl<T: Serialize + JsonSchema, E: Into<Error>> Outcome for Result<T, E> {
    type Output = T;

    fn into_result(self) -> Result<T, Error> {
        self.map_err(Into::into)
    }
}

/// The schema of what an activity reads.
#[must_use]
pub fn input_schema<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
}

/// The schema for an activity without input: null, or an object without members (which is
/// what a call without arguments is in some languages).
#[must_use]
pub fn no_input_schema() -> Schema {
    schemars::json_schema!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": ["null", "object"],
        "maxProperties": 0
    })
}

/// The schema of what an activity answers.
#[must_use]
pub fn output_schema<R: Outcome>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<R::Output>()
}

/// Reads the input, runs the function, writes the answer.
///
/// # Errors
/// As [`Plugin::run`].
pub fn run<I: DeserializeOwned, R: Outcome>(
    function: fn(I) -> R,
    input: &str,
) -> Result<String, Error> {
    let input = serde_json::from_str(input)
        .map_err(|error| Error::permanent("invalid-input", error.to_string()))?;
    write(function(input))
}

/// Runs a function that reads no input.
///
/// # Errors
/// As [`Plugin::run`].
pub fn run_without_input<R: Outcome>(function: fn() -> R, input: &str) -> Result<String, Error> {
    match serde_json::from_str(input) {
        Ok(Value::Null) => {}
        Ok(Value::Object(members)) if members.is_empty() => {}
        Ok(_) => {
            return Err(Error::permanent(
                "invalid-input",
                "this activity takes no input: give none, null or {}",
            ));
        }
        Err(error) => return Err(Error::permanent("invalid-input", error.to_string())),
    }
    write(function())
}

fn write<R: Outcome>(outcome: R) -> Result<String, Error> {
    let output = outcome.into_result()?;
    serde_json::to_string(&output)
        .map_err(|error| Error::permanent("invalid-output", error.to_string()))
}

/// Whether a crate's name can be a plugin's: `[a-z][a-z0-9-]{0,62}`.
#[must_use]
pub const fn is_plugin_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 63 || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut index = 1;
    while index < bytes.len() {
        let byte = bytes[index];
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return false;
        }
        index += 1;
    }
    true
}
