//! Says where the descriptors of Temporal's messages are: the crate that compiles them
//! tells those that depend on it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let told = "DEP_TEMPORALIO_PROTOS_DESCRIPTOR_PATH";
    println!("cargo:rerun-if-env-changed={told}");
    // Where it is not told, the file that is included there is missed by this name.
    let path = std::env::var(told).unwrap_or_else(|_| told.to_owned());
    println!("cargo:rustc-env=HEYDAY_TEMPORAL_DESCRIPTORS={path}");
}
