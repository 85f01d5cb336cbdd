//! The attribute `#[activity]` of `heyday-sdk`, and what its `plugin!` is given. Use them
//! through that crate.
//!
//! The attribute leaves the function as it is, so that it can be called and tested like
//! any other, and registers it: name, documentation, schemas, options, and how to run the
//! function on JSON. `heyday_sdk::plugin!` exports all that was registered.
//!
//! The way of a call: the exported `run` finds what was registered under the activity's name,
//! and the closure that was written here reads the input, calls the function and writes its
//! answer.
//!
//! Start reading at [`activity`]; `options` reads the attribute's arguments.

mod options;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::spanned::Spanned as _;
use syn::{FnArg, ItemFn, ReturnType, Type};

/// Makes a function an activity.
///
/// The function takes one argument or none: a type that implements `Deserialize` and
/// `JsonSchema`. It answers nothing, or a `Result` whose value implements `Serialize` and
/// `JsonSchema` and whose error converts into `heyday_sdk::Error`. Its doc comment is the
/// activity's documentation.
///
/// Arguments, all optional; what is absent is the host's default:
///
/// | argument | meaning |
/// |---|---|
/// | `name = "..."` | the activity's name, the function's by default; `[a-z][a-z0-9_-]{0,62}` |
/// | `queue = "..."` | the queue it runs on |
/// | `start_to_close = "30s"` | how long one attempt may take |
/// | `schedule_to_close = "1h"` | how long all attempts together may take, waits included |
/// | `schedule_to_start = "10m"` | how long it may wait in its queue |
/// | `heartbeat = "30s"` | the longest time between two heartbeats |
/// | `retry(...)` | `initial_interval = "1s"`, `backoff_coefficient = 2.0`, `maximum_interval = "100s"`, `maximum_attempts = 5` (0: no limit), `non_retryable_kinds = ["..."]` |
///
/// Durations are numbers with units: `500ms`, `30s`, `5m`, `1h30m`, `1d`.
#[proc_macro_attribute]
pub fn activity(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(arguments.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// The arguments of `heyday_sdk::plugin!` as JSON, checked. Use them through that macro,
/// whose documentation has them.
#[doc(hidden)]
#[proc_macro]
pub fn plugin_options(arguments: TokenStream) -> TokenStream {
    options::of_plugin(arguments.into())
        .map(|json| quote!(#json))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

fn expand(arguments: Tokens, item: Tokens) -> syn::Result<Tokens> {
    let options = options::parse(arguments)?;
    let function: ItemFn = syn::parse2(item).map_err(|error| {
        syn::Error::new(
            error.span(),
            "#[activity] stands on a function: fn name(input: Input) -> Result<Output>",
        )
    })?;
    let input = input_type(&function)?;
    let ident = &function.sig.ident;
    let name = match &options.name {
        Some(name) => name.value(),
        None => {
            let name = ident.to_string();
            name.strip_prefix("r#").unwrap_or(&name).to_owned()
        }
    };
    if !options::is_activity_name(&name) {
        let span = options
            .name
            .as_ref()
            .map_or(ident.span(), syn::LitStr::span);
        return Err(syn::Error::new(
            span,
            format!(
                "{name:?} cannot name an activity: a name begins with a-z and has at most 63 \
                 characters of a-z, 0-9, _ and -; give another with #[activity(name = \"...\")]"
            ),
        ));
    }
    let documentation = documentation(&function);
    let options = options.to_json();
    let output = match &function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, output) => quote!(#output),
    };
    let (input_schema, call) = match &input {
        Some(input) => (
            quote!(::heyday_sdk::__private::input_schema::<#input>),
            quote!(|input| ::heyday_sdk::__private::run::<#input, #output>(#ident, input)),
        ),
        None => (
            quote!(::heyday_sdk::__private::no_input_schema),
            quote!(|input| ::heyday_sdk::__private::run_without_input::<#output>(#ident, input)),
        ),
    };
    Ok(quote! {
        #function

        ::heyday_sdk::__private::inventory::submit! {
            ::heyday_sdk::__private::Registered {
                name: #name,
                documentation: #documentation,
                options: #options,
                input_schema: #input_schema,
                output_schema: ::heyday_sdk::__private::output_schema::<#output>,
                run: #call,
            }
        }
    })
}

/// The type of the only argument, or `None` where there is no argument.
fn input_type(function: &ItemFn) -> syn::Result<Option<Type>> {
    let signature = &function.sig;
    if let Some(keyword) = &signature.asyncness {
        return Err(syn::Error::new(
            keyword.span(),
            "an activity is a plain function: waiting is the host's, so calls to it simply \
             return when they are done; remove `async`",
        ));
    }
    if let Some(keyword) = &signature.unsafety {
        return Err(syn::Error::new(
            keyword.span(),
            "an activity cannot be unsafe: the host calls it with any input its schema allows",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(syn::Error::new(
            signature.generics.span(),
            "an activity cannot be generic: its input and output are described by one JSON \
             Schema each",
        ));
    }
    let mut arguments = signature.inputs.iter();
    let first = match arguments.next() {
        None => return Ok(None),
        Some(FnArg::Receiver(receiver)) => {
            return Err(syn::Error::new(
                receiver.span(),
                "an activity is a free function: nothing is kept from one call to the next",
            ));
        }
        Some(FnArg::Typed(argument)) => (*argument.ty).clone(),
    };
    if let Some(second) = arguments.next() {
        return Err(syn::Error::new(
            second.span(),
            "an activity takes one argument: put its inputs into one struct that derives \
             Deserialize and JsonSchema",
        ));
    }
    Ok(Some(first))
}

/// The doc comment, without the space that usually follows `///`.
fn documentation(function: &ItemFn) -> String {
    let mut lines = Vec::new();
    for attribute in &function.attrs {
        if let syn::Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let syn::Expr::Lit(literal) = &meta.value
            && let syn::Lit::Str(text) = &literal.lit
        {
            for line in text.value().split('\n') {
                lines.push(line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned());
            }
        }
    }
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(arguments: Tokens, item: Tokens) -> String {
        expand(arguments, item)
            .expect_err("must be refused")
            .to_string()
    }

    fn text_of(arguments: Tokens, item: Tokens) -> String {
        expand(arguments, item).expect("must expand").to_string()
    }

    #[test]
    fn the_function_stays_and_is_registered() {
        let text = text_of(
            quote!(queue = "storage-queue", retry(maximum_attempts = 3)),
            quote! {
                /// Greets.
                ///
                /// Twice.
                pub fn greet(input: Greet) -> Result<Greeting> { todo!() }
            },
        );
        let file: syn::File = syn::parse_str(&text).expect("valid Rust");
        assert!(matches!(&file.items[0], syn::Item::Fn(f) if f.sig.ident == "greet"));
        assert!(matches!(&file.items[1], syn::Item::Macro(_)));
        assert_eq!(file.items.len(), 2);
        assert!(text.contains(r#""Greets.\n\nTwice.""#), "{text}");
        assert!(
            text.contains(r#""{\"queue\":\"storage-queue\",\"retry\":{\"maximum_attempts\":3}}""#),
            "{text}"
        );
    }

    #[test]
    fn a_name_may_be_given() {
        let text = text_of(
            quote!(name = "say-hello"),
            quote!(
                fn Greet() {}
            ),
        );
        assert!(text.contains(r#""say-hello""#), "{text}");
    }

    #[test]
    fn what_cannot_be_an_activity_is_refused_with_the_reason() {
        for (item, reason) in [
            (
                quote!(
                    struct Greet;
                ),
                "stands on a function",
            ),
            (
                quote!(
                    async fn f() {}
                ),
                "remove `async`",
            ),
            (
                quote!(
                    unsafe fn f() {}
                ),
                "cannot be unsafe",
            ),
            (
                quote!(
                    fn f<T>(input: T) {}
                ),
                "cannot be generic",
            ),
            (
                quote!(
                    fn f(&self) {}
                ),
                "free function",
            ),
            (
                quote!(
                    fn f(a: A, b: B) {}
                ),
                "takes one argument",
            ),
            (
                quote!(
                    fn Greet() {}
                ),
                "cannot name an activity",
            ),
        ] {
            let message = error_of(Tokens::new(), item);
            assert!(message.contains(reason), "{message}");
        }
    }
}
