//! The sum of a product's parts.

use super::{FLUSHED, ROUNDING, Real, matmul::absolute};

/// `y[n, o] = w[n]·(Σ_p p[p, n, o] + inner[o]) + outer[o]`, where `w` (ones where there is none) counts the rows and `inner` and
/// `outer` (zeros where there is none) the columns.
///
/// # Panics
/// Where `inner` and `outer` differ in length, or `p` is shorter than they and `w` say.
///
/// ```
/// let y = double_routing::reference::reduce(&[1.0, 2.0, 30.0, 40.0], 2, &[0.5], &[1.0, 1.0], &[0.0, 100.0]);
/// assert_eq!(y, [16.0, 121.5]);
/// ```
pub fn reduce<T: Real>(p: &[T], parts: usize, w: &[T], inner: &[T], outer: &[T]) -> Vec<T> {
    let (rows, columns) = (w.len(), outer.len());
    let mut y = Vec::with_capacity(rows * columns);
    for (row, &w) in w.iter().enumerate() {
        for column in 0..columns {
            let mut sum = T::from_f64(0.0);
            for part in 0..parts {
                sum += p[(part * rows + row) * columns + column];
            }
            y.push(w * (sum + inner[column]) + outer[column]);
        }
    }
    y
}

/// How far each element of an f32 evaluation may be from [`reduce`]:
/// |w|·(parts + 2)·2⁻²⁴·(Σ|p| + |inner|) + 2⁻²⁴·|outer|, and what flushing subnormals may lose.
///
/// # Panics
/// As [`reduce`].
///
/// ```
/// let bound = double_routing::reference::reduce_bound(&[1.0], 1, &[1.0], &[0.0], &[0.0]);
/// assert!(bound[0] >= 3.0 * 2f64.powi(-24));
/// ```
pub fn reduce_bound(p: &[f64], parts: usize, w: &[f64], inner: &[f64], outer: &[f64]) -> Vec<f64> {
    let nothing = vec![0.0; outer.len()];
    let weighted = reduce(&absolute(p), parts, &absolute(w), &absolute(inner), &nothing);
    let operations = (parts + 2) as f64;
    weighted
        .into_iter()
        .enumerate()
        .map(|(at, magnitude)| operations * (ROUNDING * magnitude + FLUSHED) + ROUNDING * outer[at % outer.len()].abs())
        .collect()
}
