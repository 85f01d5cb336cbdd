//! The `heyday` binary.

fn main() {}
