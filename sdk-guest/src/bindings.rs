//! The bindings that wit-bindgen generates, one module per WIT package, so that a component
//! imports only what its plugin uses. `../wit` holds the packages both in Heyday's own
//! repository and in a plugin made by `heyday plugin new`.
#![allow(missing_docs, clippy::all, rust_2018_idioms, unsafe_op_in_unsafe_fn)]

/// What a plugin exports, and `context` and `log`.
pub mod plugin {
    wit_bindgen::generate!({
        path: "../wit/plugin",
        world: "plugin",
        pub_export_macro: true,
        default_bindings_module: "heyday_sdk::__private::bindings::plugin",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        export_macro_name: "export",
    });
}

/// `heyday:sql`.
pub mod sql {
    wit_bindgen::generate!({
        path: "../wit/sql",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "sql",
    });
}

/// `heyday:blob`.
pub mod blob {
    wit_bindgen::generate!({
        path: "../wit/blob",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "blob",
    });
}

/// `heyday:kv`.
pub mod kv {
    wit_bindgen::generate!({
        path: "../wit/kv",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "kv",
    });
}

/// `heyday:config`.
pub mod config {
    wit_bindgen::generate!({
        path: "../wit/config",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "config",
    });
}

/// `heyday:secrets`.
pub mod secrets {
    wit_bindgen::generate!({
        path: "../wit/secrets",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "secrets",
    });
}

/// `heyday:graph`.
pub mod graph {
    wit_bindgen::generate!({
        path: "../wit/graph",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "graph",
    });
}

/// `heyday:vector`.
pub mod vector {
    wit_bindgen::generate!({
        path: "../wit/vector",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "vector",
    });
}

/// `heyday:inference`.
pub mod inference {
    wit_bindgen::generate!({
        path: "../wit/inference",
        world: "imports",
        runtime_path: "::heyday_sdk::__private::wit_bindgen::rt",
        type_section_suffix: "inference",
    });
}

impl<P: crate::Plugin> plugin::exports::heyday::plugin::activities::Guest for P {
    fn describe() -> String {
        crate::host::log_panics();
        P::describe()
    }

    fn run(
        activity: String,
        input: String,
    ) -> Result<String, plugin::exports::heyday::plugin::activities::Failure> {
        crate::host::log_panics();
        P::run(&activity, &input).map_err(|error| {
            plugin::exports::heyday::plugin::activities::Failure {
                kind: error.kind().to_owned(),
                message: error.message().to_owned(),
                retryable: error.is_retryable(),
                details: error.details().map(ToString::to_string),
            }
        })
    }
}
