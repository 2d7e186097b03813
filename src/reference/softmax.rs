//! Softmax over an axis, with masked lengths.

use super::{FLUSHED, ROUNDING, Real};

/// A tensor seen from one axis: `[outer, length, inner]`, row-major.
///
/// ```
/// let rows = double_routing::reference::Axis { outer: 4, length: 128, inner: 1 };
/// assert_eq!(rows.length, 128);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// The product of the dimensions before the axis.
    pub outer: usize,
    /// The length of the axis.
    pub length: usize,
    /// The product of the dimensions behind the axis.
    pub inner: usize,
}

impl Axis {
    fn at(self, outer: usize, position: usize, inner: usize) -> usize {
        (outer * self.length + position) * self.inner + inner
    }

    /// The number of unmasked positions of each outer index.
    fn unmasked(self, lengths: Option<&[u32]>, outer: usize) -> usize {
        lengths.map_or(self.length, |lengths| (lengths[outer] as usize).min(self.length))
    }
}

/// `y = exp(x − max) / Σ exp(x − max)` over the first `lengths[outer]` positions of the axis, 0 elsewhere.
///
/// # Panics
/// Where a slice is shorter than the axis says.
///
/// ```
/// use double_routing::reference::{Axis, softmax};
/// let axis = Axis { outer: 2, length: 2, inner: 1 };
/// assert_eq!(softmax(&[3.0, 3.0, 7.0, 9.0], axis, Some(&[2, 1])), [0.5, 0.5, 1.0, 0.0]);
/// ```
pub fn softmax<T: Real>(x: &[T], axis: Axis, lengths: Option<&[u32]>) -> Vec<T> {
    let mut y = vec![T::from_f64(0.0); axis.outer * axis.length * axis.inner];
    for outer in 0..axis.outer {
        let unmasked = axis.unmasked(lengths, outer);
        for inner in 0..axis.inner {
            if unmasked == 0 {
                continue;
            }
            let mut maximum = x[axis.at(outer, 0, inner)];
            for position in 1..unmasked {
                let value = x[axis.at(outer, position, inner)];
                if value > maximum {
                    maximum = value;
                }
            }
            let mut sum = T::from_f64(0.0);
            for position in 0..unmasked {
                sum += (x[axis.at(outer, position, inner)] - maximum).exp();
            }
            for position in 0..unmasked {
                let at = axis.at(outer, position, inner);
                y[at] = (x[at] - maximum).exp() / sum;
            }
        }
    }
    y
}

/// How far each element of an f32 evaluation may be from [`softmax`] of the same `x`.
///
/// With E(d) = (3 + 2d)·2⁻²³ + d·2⁻²⁴ for the exp of a difference d below the maximum, relative to the element:
/// its own E, that of the sum (Σ y·E, and one rounding an addition), and 2.5 ULP for the division.
///
/// # Panics
/// As [`softmax`].
///
/// ```
/// use double_routing::reference::{Axis, softmax_bound};
/// let axis = Axis { outer: 1, length: 2, inner: 1 };
/// assert!(softmax_bound(&[0.0, 0.0], axis, None)[0] < 1e-6);
/// ```
pub fn softmax_bound(x: &[f64], axis: Axis, lengths: Option<&[u32]>) -> Vec<f64> {
    let y = softmax(x, axis, lengths);
    let mut bound = vec![0.0; y.len()];
    for outer in 0..axis.outer {
        let unmasked = axis.unmasked(lengths, outer);
        for inner in 0..axis.inner {
            let positions = || (0..unmasked).map(|position| axis.at(outer, position, inner));
            let maximum = positions().map(|at| x[at]).fold(f64::NEG_INFINITY, f64::max);
            let of_exp = |at: usize| {
                let below = maximum - x[at];
                (3.0 + 2.0 * below) * 2.0 * ROUNDING + below * ROUNDING
            };
            let of_sum = positions().map(|at| y[at] * of_exp(at)).sum::<f64>() + (unmasked + 4) as f64 * ROUNDING;
            for at in positions() {
                // A single position is 1 exactly.
                if unmasked > 1 {
                    bound[at] = y[at] * (of_exp(at) + of_sum + 5.0 * ROUNDING) + FLUSHED;
                }
            }
        }
    }
    bound
}
