//! The library's own cases on the visitor's GPU.

use double_routing::{
    Gpu,
    check::{Case, cases},
};
use serde::Serialize;
use wasm_bindgen::prelude::*;

use crate::report::json;

/// Cases to be run one by one.
#[wasm_bindgen]
pub struct Checks {
    gpu: Gpu,
    cases: Vec<Case>,
}

/// What came of a case.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kernel: &'a str,
    passed: bool,
    elements: usize,
    /// Infinite where an exact result is not met, which JSON has as null.
    worst: f64,
    signal: Option<f64>,
    fault: Option<String>,
}

impl Checks {
    pub fn new(gpu: Gpu, filter: &str) -> Self {
        let mut cases = cases();
        cases.retain(|case| !case.heavy() && case.name().contains(filter));
        Self { gpu, cases }
    }
}

#[wasm_bindgen]
impl Checks {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.cases.len()
    }

    /// Runs one. A case that could not be run has failed.
    pub async fn run(&self, index: usize) -> Result<String, JsError> {
        let case = self.cases.get(index).ok_or_else(|| JsError::new(&format!("there is no case {index}")))?;
        let (name, kernel) = (case.name(), case.kernel());
        let row = match case.run(&self.gpu).await {
            Ok(outcome) => Row {
                passed: outcome.passed(),
                elements: outcome.elements,
                worst: outcome.worst,
                signal: outcome.signal,
                fault: outcome.fault,
                name,
                kernel,
            },
            Err(error) => {
                let fault = Some(error.to_string());
                Row { passed: false, elements: 0, worst: f64::INFINITY, signal: None, fault, name, kernel }
            }
        };
        json(&row)
    }
}
