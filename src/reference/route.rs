//! The weighted routing step.

use super::{ROUNDING, Real, matmul::absolute};

/// `y[n, o] = w[n]·(Σ_k x[n, k]·b[o, k] + inner[o]) + outer[o]` for `x` `[tokens, depth]` and `b` `[outputs, depth]`, where
/// `w` counts the tokens and `inner` and `outer` (zeros where there is none) the outputs.
///
/// # Panics
/// Where `inner` and `outer` differ in length, or `x` or `b` is shorter than they and `w` say.
///
/// ```
/// let y = double_routing::reference::route(&[1.0, 2.0], &[3.0, 4.0], &[0.5], &[1.0], &[10.0], 2);
/// assert_eq!(y, [0.5 * (3.0 + 8.0 + 1.0) + 10.0]);
/// ```
pub fn route<T: Real>(x: &[T], b: &[T], w: &[T], inner: &[T], outer: &[T], depth: usize) -> Vec<T> {
    let mut y = Vec::with_capacity(w.len() * outer.len());
    for (token, &w) in w.iter().enumerate() {
        let row = &x[token * depth..][..depth];
        for output in 0..outer.len() {
            let column = &b[output * depth..][..depth];
            let mut sum = T::from_f64(0.0);
            for k in 0..depth {
                sum += row[k] * column[k];
            }
            y.push(w * (sum + inner[output]) + outer[output]);
        }
    }
    y
}

/// How far each element of an f32 evaluation may be from [`route`]:
/// |w|·(K + 4)·2⁻²⁴·(Σ|x||b| + |inner|) + 2⁻²⁴·|outer|, and what flushing subnormals may lose.
///
/// # Panics
/// As [`route`].
///
/// ```
/// let bound = double_routing::reference::route_bound(&[1.0], &[1.0], &[1.0], &[0.0], &[0.0], 1);
/// assert!(bound[0] >= 5.0 * 2f64.powi(-24));
/// ```
pub fn route_bound(x: &[f64], b: &[f64], w: &[f64], inner: &[f64], outer: &[f64], depth: usize) -> Vec<f64> {
    let nothing = vec![0.0; outer.len()];
    let weighted = route(&absolute(x), &absolute(b), &absolute(w), &absolute(inner), &nothing, depth);
    let operations = (depth + 4) as f64;
    weighted
        .into_iter()
        .enumerate()
        .map(|(at, magnitude)| {
            operations * (ROUNDING * magnitude + super::FLUSHED) + ROUNDING * outer[at % outer.len()].abs()
        })
        .collect()
}
