//! The attention logit of each token.

use super::{Product, Real, matmul_bound};

/// `logits[n] = Σ_k x[n, k]·v[k] + bias` for `x` `[tokens, depth]`.
///
/// # Panics
/// Where `x` is shorter than `tokens` rows of `v`.
///
/// ```
/// assert_eq!(double_routing::reference::attend(&[1.0, 2.0, 3.0, 4.0], &[1.0, -1.0], 0.5, 2), [-0.5, -0.5]);
/// ```
pub fn attend<T: Real>(x: &[T], v: &[T], bias: T, tokens: usize) -> Vec<T> {
    let mut logits = Vec::with_capacity(tokens);
    for token in 0..tokens {
        let row = &x[token * v.len()..][..v.len()];
        let mut sum = T::from_f64(0.0);
        for k in 0..v.len() {
            sum += row[k] * v[k];
        }
        logits.push(sum + bias);
    }
    logits
}

/// How far each logit of an f32 evaluation may be from [`attend`]: that of a product with one column.
///
/// # Panics
/// As [`attend`].
///
/// ```
/// assert!(double_routing::reference::attend_bound(&[1.0, 2.0], &[1.0, -1.0], 0.5, 1)[0] > 0.0);
/// ```
pub fn attend_bound(x: &[f64], v: &[f64], bias: f64, tokens: usize) -> Vec<f64> {
    let product = Product { rows: tokens, columns: 1, depth: v.len(), transposed: true, ..Product::default() };
    matmul_bound(x, v, Some(&[bias]), &product)
}
