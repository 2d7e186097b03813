//! C = A·B + bias and C = A·Bᵀ + bias.

use super::{FLUSHED, ROUNDING, Real};

/// The dimensions of a batched matrix product, and how B is stored.
///
/// ```
/// let product = double_routing::reference::Product { rows: 2, columns: 3, depth: 4, ..Default::default() };
/// assert_eq!(product.batches, 1);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Number of products.
    pub batches: usize,
    /// M.
    pub rows: usize,
    /// N.
    pub columns: usize,
    /// K.
    pub depth: usize,
    /// B is stored `[N, K]`.
    pub transposed: bool,
    /// Every product has a B of its own.
    pub b_batched: bool,
}

impl Default for Product {
    fn default() -> Self {
        Self { batches: 1, rows: 0, columns: 0, depth: 0, transposed: false, b_batched: false }
    }
}

/// C `[batches, rows, columns]`, row-major: `c[m, n] = Σ_k a[m, k]·b[k, n] + bias[n]`.
///
/// # Panics
/// Where a slice is shorter than the dimensions say.
///
/// ```
/// use double_routing::reference::{Product, matmul};
/// let product = Product { rows: 1, columns: 2, depth: 2, transposed: true, ..Default::default() };
/// assert_eq!(matmul(&[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0], Some(&[0.5, 0.0]), &product), [11.5, 17.0]);
/// ```
pub fn matmul<T: Real>(a: &[T], b: &[T], bias: Option<&[T]>, product: &Product) -> Vec<T> {
    let &Product { batches, rows, columns, depth, transposed, b_batched } = product;
    let mut c = Vec::with_capacity(batches * rows * columns);
    for batch in 0..batches {
        let b = &b[if b_batched { batch * columns * depth } else { 0 }..];
        for m in 0..rows {
            let a = &a[(batch * rows + m) * depth..][..depth];
            for n in 0..columns {
                let mut sum = T::from_f64(0.0);
                for k in 0..depth {
                    sum += a[k] * if transposed { b[n * depth + k] } else { b[k * columns + n] };
                }
                c.push(sum + bias.map_or(T::from_f64(0.0), |bias| bias[n]));
            }
        }
    }
    c
}

/// How far each element of an f32 evaluation may be from [`matmul`], in any order of summation:
/// (K + 2)·2⁻²⁴·(Σ|a||b| + |bias|), and what flushing subnormal products may lose.
///
/// # Panics
/// As [`matmul`].
///
/// ```
/// use double_routing::reference::{Product, matmul_bound};
/// let product = Product { rows: 1, columns: 1, depth: 2, transposed: true, ..Default::default() };
/// assert!(matmul_bound(&[1.0, -1.0], &[1.0, 1.0], None, &product)[0] >= 4.0 * 2f64.powi(-24) * 2.0);
/// ```
pub fn matmul_bound(a: &[f64], b: &[f64], bias: Option<&[f64]>, product: &Product) -> Vec<f64> {
    let (a, b, bias) = (absolute(a), absolute(b), bias.map(absolute));
    let operations = (product.depth + 2) as f64;
    let magnitudes = matmul(&a, &b, bias.as_deref(), product);
    magnitudes.into_iter().map(|magnitude| operations * (ROUNDING * magnitude + FLUSHED)).collect()
}

pub(super) fn absolute(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}
