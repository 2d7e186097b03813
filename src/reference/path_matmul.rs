//! The matrix products of the second level: each row with the weights of its path.

use super::{FLUSHED, ROUNDING, Real, matmul::absolute};

/// Which rows are on which path, and which row of a each of them comes from.
///
/// ```
/// use double_routing::reference::PathRows;
/// // Two tokens with two slots each: slots 1 and 2 on path 0, slots 0 and 3 on path 1.
/// let rows = PathRows { offsets: &[0, 2, 4], order: Some((&[1, 2, 0, 3], 2)) };
/// assert_eq!(rows.source(1), 1);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PathRows<'a> {
    /// Path p has the rows `offsets[p] .. offsets[p + 1]`.
    pub offsets: &'a [u32],
    /// Row r comes from row `order[r] / divisor` of a; from row r without it.
    pub order: Option<(&'a [u32], usize)>,
}

impl PathRows<'_> {
    /// The row of a that row r comes from.
    ///
    /// # Panics
    /// Where there is no such row.
    ///
    /// ```
    /// use double_routing::reference::PathRows;
    /// assert_eq!(PathRows { offsets: &[0, 3], order: None }.source(2), 2);
    /// ```
    pub fn source(&self, row: usize) -> usize {
        self.order.map_or(row, |(order, divisor)| order[row] as usize / divisor)
    }

    /// The path of each row.
    fn paths(&self) -> Vec<usize> {
        let paths = self.offsets.windows(2).enumerate();
        paths.flat_map(|(path, ends)| vec![path; (ends[1] - ends[0]) as usize]).collect()
    }
}

/// The weights of all paths: `b [P, columns, depth]`, and `bias [P, columns]` where there is one.
///
/// ```
/// use double_routing::reference::PathWeights;
/// let weights = PathWeights { b: &[1.0, 2.0], bias: None, columns: 1, depth: 1 };
/// assert_eq!(weights.b.len(), 2);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PathWeights<'a, T> {
    /// `[P, columns, depth]`.
    pub b: &'a [T],
    /// `[P, columns]`.
    pub bias: Option<&'a [T]>,
    /// Features of a result.
    pub columns: usize,
    /// Features of a row of a.
    pub depth: usize,
}

/// `c[r] = silu(s[r]) · (a[source(r)]·b[p]ᵀ + bias[p])` for every row r of every path p, with `silu(s) = s / (1 + e⁻ˢ)`; without
/// `s` that factor is 1.
///
/// # Panics
/// Where a slice is shorter than the rows say.
///
/// ```
/// use double_routing::reference::{PathRows, PathWeights, path_matmul};
/// let rows = PathRows { offsets: &[0, 1, 2], order: None };
/// let weights = PathWeights { b: &[1.0, 1.0, 10.0, 10.0], bias: None, columns: 1, depth: 2 };
/// assert_eq!(path_matmul(&[1.0, 2.0, 3.0, 4.0], weights, rows, None), [3.0, 70.0]);
/// ```
pub fn path_matmul<T: Real>(a: &[T], weights: PathWeights<'_, T>, rows: PathRows<'_>, s: Option<&[T]>) -> Vec<T> {
    let PathWeights { b, bias, columns, depth } = weights;
    let mut c = Vec::new();
    for (row, path) in rows.paths().into_iter().enumerate() {
        let from = &a[rows.source(row) * depth..][..depth];
        for column in 0..columns {
            let of_b = &b[(path * columns + column) * depth..][..depth];
            let mut sum = T::from_f64(0.0);
            for k in 0..depth {
                sum += from[k] * of_b[k];
            }
            if let Some(bias) = bias {
                sum += bias[path * columns + column];
            }
            c.push(s.map_or(sum, |s| silu(s[row * columns + column]) * sum));
        }
    }
    c
}

/// `x / (1 + e⁻ˣ)`.
///
/// ```
/// assert_eq!(double_routing::reference::silu(0.0), 0.0);
/// ```
pub fn silu<T: Real>(x: T) -> T {
    let (zero, one) = (T::from_f64(0.0), T::from_f64(1.0));
    // exp of a negative argument only, which cannot overflow.
    if x < zero { x * x.exp() / (one + x.exp()) } else { x / (one + (zero - x).exp()) }
}

/// How far each element of an f32 evaluation may be from [`path_matmul`]: (K + 2)·2⁻²⁴·(Σ|a||b| + |bias|); with `s` times
/// |silu(s)|, and with K + 19 + 4|s| for K + 2: e⁻ˡˢˡ is off by (6 + 4|s|)·2⁻²⁴ of itself, 1 + e⁻ˡˢˡ by less than 4, a division by 5, two
/// products by 1 each. An e⁻ˡˢˡ that is flushed loses |s| times the product.
///
/// # Panics
/// As [`path_matmul`].
///
/// ```
/// use double_routing::reference::{PathRows, PathWeights, path_matmul_bound};
/// let rows = PathRows { offsets: &[0, 1], order: None };
/// let weights = PathWeights { b: &[1.0], bias: None, columns: 1, depth: 1 };
/// assert!(path_matmul_bound(&[1.0], weights, rows, None)[0] >= 3.0 * 2f64.powi(-24));
/// ```
pub fn path_matmul_bound(a: &[f64], weights: PathWeights<'_, f64>, rows: PathRows<'_>, s: Option<&[f64]>) -> Vec<f64> {
    let PathWeights { columns, depth, .. } = weights;
    let (b, bias) = (absolute(weights.b), weights.bias.map(absolute));
    let magnitudes = PathWeights { b: &b, bias: bias.as_deref(), columns, depth };
    let products = path_matmul(&absolute(a), magnitudes, rows, None);
    let of_silu = |at: usize| s.map_or((1.0, 0.0, 0.0), |s| (silu(s[at]).abs(), 17.0 + 4.0 * s[at].abs(), s[at].abs()));
    products
        .into_iter()
        .enumerate()
        .map(|(at, magnitude)| {
            let (factor, more, flushed) = of_silu(at);
            let operations = (depth + 2) as f64 + more;
            operations * (ROUNDING * magnitude * factor + FLUSHED * (1.0 + factor)) + flushed * magnitude * FLUSHED
        })
        .collect()
}
