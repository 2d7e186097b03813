//! The CPU reference: what every kernel and the layer compute, as plain loops over f64.
//!
//! It shares no code with the host layer, so that it can be read and trusted apart from it. Each kernel's file holds the
//! oracle and the bound on the error that an f32 evaluation may have, derived from what WGSL promises: + − × correctly
//! rounded, division within 2.5 ULP, exp within 3 + 2·|x| ULP, sums in any order. The oracles are generic over the
//! arithmetic: in f64 they are the truth, in f32 the yardstick of what plain float32 code reaches.

mod attend;
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

pub use attend::{attend, attend_bound};
pub use combine::{Combination, combine, combine_bound};
pub use dispatch::{Dispatched, dispatch};
pub use levels::{Routed, TwoLevels};
pub use matmul::{Product, matmul, matmul_bound};
pub use moe::{Experts, experts_bound, feed_forward, feed_forward_bound};
pub use pack::pack;
pub use path_load::{PathLoads, path_load, path_load_bound};
pub use path_matmul::{PathRows, PathWeights, path_matmul, path_matmul_bound, silu};
pub use reduce::{reduce, reduce_bound};
pub use route::{route, route_bound};
pub use route_paths::{
    PathRule, PathScore, PathsOfRow, gate_bound, gates_moved, group_score, path_gates, path_scores, route_paths,
    score_bound, scores_moved,
};
pub use routing::{Forward, Layer, Paths, signal_error};
pub use select::select;
pub use softmax::{Axis, softmax, softmax_bound};

/// Half the distance between 1 and the next f32: the relative error of a correctly rounded operation.
///
/// ```
/// assert_eq!(double_routing::reference::ROUNDING * 2.0, f32::EPSILON as f64);
/// ```
pub const ROUNDING: f64 = 1.0 / (1u32 << 24) as f64;

/// How far an element of 16 bits may be from the true sum, where the sum that was rounded to it may be off by `bound`: half a ULP of
/// that sum, which is `unit` of it and at least `least`.
///
/// ```
/// use double_routing::reference::{F16_UNIT, rounded_bound};
/// assert_eq!(rounded_bound(-8.0, 0.0, F16_UNIT), 8.0 / 2048.0);
/// ```
pub fn rounded_bound(value: f64, bound: f64, (unit, least): (f64, f64)) -> f64 {
    bound + (unit * (value.abs() + bound)).max(least)
}

/// Half the distance between 1 and the next f16, and between 0 and the smallest.
///
/// ```
/// assert_eq!(double_routing::reference::F16_UNIT.0, half::f16::EPSILON.to_f64() / 2.0);
/// ```
pub const F16_UNIT: (f64, f64) = (1.0 / 2048.0, 1.0 / (1u32 << 25) as f64);

/// Half the distance between 1 and the next bf16; its smallest are f32's.
///
/// ```
/// assert_eq!(double_routing::reference::BF16_UNIT.0, half::bf16::EPSILON.to_f64() / 2.0);
/// ```
pub const BF16_UNIT: (f64, f64) = (1.0 / 256.0, FLUSHED);

/// The smallest normal f32: smaller results may be flushed to 0.
const FLUSHED: f64 = f32::MIN_POSITIVE as f64;

/// The arithmetic an oracle runs in.
///
/// ```
/// use double_routing::reference::Real;
/// assert_eq!(f32::from_f64(0.5).exp().to_f64(), f64::from(0.5f32.exp()));
/// ```
pub trait Real:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::AddAssign
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    /// The nearest value.
    ///
    /// ```
    /// # use double_routing::reference::Real;
    /// assert_eq!(f64::from_f64(0.1), 0.1);
    /// ```
    fn from_f64(value: f64) -> Self;

    /// The value in f64.
    ///
    /// ```
    /// # use double_routing::reference::Real;
    /// assert_eq!(0.5f32.to_f64(), 0.5);
    /// ```
    fn to_f64(self) -> f64;

    /// eˣ.
    ///
    /// ```
    /// # use double_routing::reference::Real;
    /// assert_eq!(Real::exp(0.0f64), 1.0);
    /// ```
    fn exp(self) -> Self;
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn exp(self) -> Self {
        Self::exp(self)
    }
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as Self
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn exp(self) -> Self {
        Self::exp(self)
    }
}
