//! Checks of an adapter: every kernel and both plans against the CPU reference.
//!
//! The cases are what the crate's own tests run and what `double-routing check` runs on a user's machine. Every case has a
//! name that replays it, seeded random inputs, and a bound that is derived (see [`reference`](mod@crate::reference)); inputs
//! that are small integers have an exact result, and there the bound is 0. A kernel's outputs are filled with NaN before the
//! run, and its operands lie between guard words that must be unchanged after it.

mod attend;
mod bench;
mod combine;
mod dispatch;
mod levels;
mod matmul;
mod moe;
mod pack;
mod path_load;
mod path_matmul;
mod reduce;
mod route;
mod route_paths;
mod routing;
mod select;
mod softmax;
mod truth;

use std::{future::Future, pin::Pin};

pub use truth::{Judgement, LayerTruth};

use crate::{Gpu, Result};

/// One comparison with the reference, by a name that replays it.
///
/// ```no_run
/// # async fn check(gpu: &double_routing::Gpu) -> double_routing::Result<()> {
/// for case in double_routing::check::cases() {
///     let outcome = case.run(gpu).await?;
///     println!("{:60} {:.3} of its bound", case.name(), outcome.worst);
///     assert!(outcome.passed());
/// }
/// # Ok(()) }
/// ```
pub struct Case {
    kernel: &'static str,
    name: String,
    heavy: bool,
    run: Box<Run>,
}

/// Multiplications, or elements, from which a case counts as heavy.
const HEAVY: usize = 4_000_000;

type Run = dyn for<'a> Fn(&'a Gpu) -> Pin<Box<dyn Future<Output = Result<Outcome>> + 'a>> + Send + Sync;

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came of a case.
///
/// ```
/// use double_routing::check::Outcome;
/// let outcome = Outcome { elements: 4, worst: 0.25, signal: None, fault: None };
/// assert!(outcome.passed());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Elements compared.
    pub elements: usize,
    /// The worst error as a share of its bound; above 1 is a failure. Infinite where an exact result is not met.
    pub worst: f64,
    /// For the layer: the error of y by its signal, [`signal_error`](crate::reference::signal_error).
    pub signal: Option<f64>,
    /// What is wrong, if anything is: the worst element, or a guard word that was written.
    pub fault: Option<String>,
}

impl Outcome {
    /// Whether every element is within its bound and nothing else was touched.
    ///
    /// ```
    /// # use double_routing::check::Outcome;
    /// assert!(!Outcome { elements: 1, worst: 1.5, signal: None, fault: None }.passed());
    /// ```
    pub fn passed(&self) -> bool {
        self.worst <= 1.0 && self.fault.is_none()
    }
}

impl Case {
    /// The name that replays the case.
    ///
    /// ```
    /// for case in double_routing::check::cases() {
    ///     assert!(case.name().starts_with(case.kernel()));
    /// }
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel it is about, or `routing` for the layer.
    ///
    /// ```
    /// assert!(double_routing::check::cases().iter().any(|case| case.kernel() == "softmax"));
    /// ```
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// Whether it takes a second or more on a slow adapter: tensors beyond a binding, grids beyond a dispatch.
    ///
    /// ```
    /// let cases = double_routing::check::cases();
    /// assert!(cases.iter().filter(|case| case.heavy()).count() < cases.len() / 10);
    /// ```
    pub fn heavy(&self) -> bool {
        self.heavy
    }

    /// Runs the case on a device.
    ///
    /// # Errors
    /// What the kernel refuses or the device reports. A wrong result is no error but an outcome that has not passed.
    ///
    /// ```no_run
    /// # async fn check(gpu: &double_routing::Gpu, case: &double_routing::check::Case) -> double_routing::Result<()> {
    /// assert!(case.run(gpu).await?.passed());
    /// # Ok(()) }
    /// ```
    pub async fn run(&self, gpu: &Gpu) -> Result<Outcome> {
        let scope = gpu.error_scope();
        let outcome = (self.run)(gpu).await;
        // What the device reports is the cause of whatever else went wrong.
        scope.close().await?;
        outcome
    }
}

/// Every case, kernel by kernel.
///
/// ```
/// assert!(double_routing::check::cases().len() > 100);
/// ```
pub fn cases() -> Vec<Case> {
    [
        matmul::cases(),
        pack::cases(),
        softmax::cases(),
        attend::cases(),
        route::cases(),
        reduce::cases(),
        select::cases(),
        route_paths::cases(),
        dispatch::cases(),
        path_matmul::cases(),
        combine::cases(),
        path_load::cases(),
        routing::cases(),
        levels::cases(),
        moe::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
