//! Workflow definitions in the CNCF Serverless Workflow DSL.

pub mod duration;

/// A validated definition.
#[derive(Debug)]
pub struct Flow {}
