//! Sums of gathered rows, weighted by gates.

use super::{FLUSHED, ROUNDING, Real, matmul::absolute};

/// The dimensions of a combination.
///
/// ```
/// use double_routing::reference::Combination;
/// // Two results of two slots each, from three rows of one column.
/// let shape = Combination { batches: 1, rows: 3, results: 2, slots: 2, columns: 1, targets: 2 };
/// # let _ = shape;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Combination {
    /// B: batches, which share nothing.
    pub batches: usize,
    /// N: rows of a batch.
    pub rows: usize,
    /// T: results of a batch.
    pub results: usize,
    /// e: slots of a result.
    pub slots: usize,
    /// O: columns.
    pub columns: usize,
    /// S: rows of y in a batch; T where there are no targets.
    pub targets: usize,
}

/// `y[b, target[b, t]] = Σ_j gate[b, t, j]·rows[b, position[b, t, j]] + plus[b, t]`, j ascending; positions that are no
/// row add nothing. Without `gates` they are 1, without `plus` it is 0, and without `targets` result t is row t of y.
/// Rows of y that are no target are those of `skip`, or 0.
///
/// # Panics
/// Where an operand is shorter than its shape.
///
/// ```
/// use double_routing::reference::{Combination, combine};
/// let shape = Combination { batches: 1, rows: 3, results: 2, slots: 2, columns: 1, targets: 2 };
/// let y = combine(&[1.0, 10.0, 100.0], &[2, 0, 1, u32::MAX], Some(&[0.5, 2.0, 3.0, 7.0]), None, None, None, &shape);
/// assert_eq!(y, [52.0, 30.0]);
/// ```
pub fn combine<T: Real>(
    rows: &[T],
    positions: &[u32],
    gates: Option<&[T]>,
    plus: Option<&[T]>,
    targets: Option<&[u32]>,
    skip: Option<&[T]>,
    shape: &Combination,
) -> Vec<T> {
    let Combination { batches, results, slots, columns, .. } = *shape;
    let nothing = T::from_f64(0.0);
    let mut y = skip.map_or(vec![nothing; batches * shape.targets * columns], <[T]>::to_vec);
    for result in 0..batches * results {
        let batch = result / results;
        let target = targets.map_or(result % results, |targets| targets[result] as usize);
        if target >= shape.targets {
            continue;
        }
        for column in 0..columns {
            let mut sum = nothing;
            for slot in result * slots..(result + 1) * slots {
                let position = positions[slot] as usize;
                if position < shape.rows {
                    let row = rows[(batch * shape.rows + position) * columns + column];
                    sum += gates.map_or(row, |gates| gates[slot] * row);
                }
            }
            if let Some(plus) = plus {
                sum += plus[result * columns + column];
            }
            y[(batch * shape.targets + target) * columns + column] = sum;
        }
    }
    y
}

/// How far each element of an f32 evaluation may be from [`combine`]: (e + 2)·2⁻²⁴·(Σ|gate||row| + |plus|), and what
/// flushing subnormals may lose; 0 where a row is only moved.
///
/// # Panics
/// As [`combine`].
///
/// ```
/// use double_routing::reference::{Combination, combine_bound};
/// let shape = Combination { batches: 1, rows: 1, results: 1, slots: 1, columns: 1, targets: 2 };
/// let bound = combine_bound(&[1.0], &[0], Some(&[1.0]), None, Some(&[1]), &shape);
/// assert!(bound[0] == 0.0 && bound[1] >= 3.0 * 2f64.powi(-24));
/// ```
pub fn combine_bound(
    rows: &[f64],
    positions: &[u32],
    gates: Option<&[f64]>,
    plus: Option<&[f64]>,
    targets: Option<&[u32]>,
    shape: &Combination,
) -> Vec<f64> {
    if shape.slots == 1 && gates.is_none() && plus.is_none() {
        return vec![0.0; shape.batches * shape.targets * shape.columns];
    }
    let operations = (shape.slots + 2) as f64;
    let (gates, plus) = (gates.map(absolute), plus.map(absolute));
    let magnitudes = combine(&absolute(rows), positions, gates.as_deref(), plus.as_deref(), targets, None, shape);
    // Rows of skip are copied, and rows of 0 are written as they are.
    let written = combine(
        &vec![0.0; rows.len()],
        positions,
        None,
        Some(&vec![1.0; shape.batches * shape.results * shape.columns]),
        targets,
        None,
        shape,
    );
    magnitudes
        .into_iter()
        .zip(written)
        .map(|(magnitude, written)| operations * (ROUNDING * magnitude + FLUSHED * written))
        .collect()
}
