//! The feed-forward block of a mixture of experts, given which experts each token has.

use super::{
    PathRows, PathWeights, Product, ROUNDING, Real,
    matmul::{absolute, matmul, matmul_bound},
    path_matmul::{path_matmul, path_matmul_bound, silu},
};

/// Experts: gated feed-forwards `down(silu(gate(x)) ⊙ up(x))` without biases.
///
/// ```
/// use double_routing::reference::Experts;
/// let one = Experts { gate: vec![1.0], up: vec![1.0], down: vec![2.0], width: 1, features: 1 };
/// assert_eq!(one.run(&[0.0], &[0]), [0.0]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Experts<T> {
    /// `[P, width, features]`.
    pub gate: Vec<T>,
    /// `[P, width, features]`.
    pub up: Vec<T>,
    /// `[P, features, width]`.
    pub down: Vec<T>,
    /// Features between the maps.
    pub width: usize,
    /// Features of a token.
    pub features: usize,
}

/// The offsets of rows that have these experts each, one row after the other, as if every row were a path of its own.
fn apart(experts: &[usize]) -> Vec<u32> {
    (0..=experts.len() as u32).collect()
}

impl<T: Real> Experts<T> {
    /// The result of each row of x `[rows, features]` with the expert of its number.
    ///
    /// # Panics
    /// Where there are fewer experts or values than the numbers say.
    ///
    /// ```
    /// # fn run(experts: double_routing::reference::Experts<f64>, x: &[f64]) {
    /// // Three rows, the last two with the same expert.
    /// let y = experts.run(x, &[4, 0, 0]);
    /// # }
    /// ```
    pub fn run(&self, x: &[T], experts: &[usize]) -> Vec<T> {
        self.through(x, experts).1
    }

    /// What lies between the maps, and the result.
    fn through(&self, x: &[T], experts: &[usize]) -> (Vec<T>, Vec<T>) {
        let offsets = apart(experts);
        let rows = PathRows { offsets: &offsets, order: None };
        let (wide, narrow) = (self.width * self.features, self.features * self.width);
        let of = |weights: &[T], each: usize| -> Vec<T> {
            experts.iter().flat_map(|&expert| weights[expert * each..][..each].to_vec()).collect()
        };
        let (gate, up, down) = (of(&self.gate, wide), of(&self.up, wide), of(&self.down, narrow));
        let first = |b| PathWeights { b, bias: None, columns: self.width, depth: self.features };
        let gated = path_matmul(x, first(&gate), rows, None);
        let hidden = path_matmul(x, first(&up), rows, Some(&gated));
        let last = PathWeights { b: &down, bias: None, columns: self.features, depth: self.width };
        let y = path_matmul(&hidden, last, rows, None);
        (hidden, y)
    }

    /// The same experts in another arithmetic.
    ///
    /// ```
    /// # fn yardstick(experts: double_routing::reference::Experts<f64>) -> double_routing::reference::Experts<f32> {
    /// experts.cast()
    /// # }
    /// ```
    pub fn cast<U: Real>(&self) -> Experts<U> {
        let cast = |values: &[T]| values.iter().map(|value| U::from_f64(value.to_f64())).collect::<Vec<U>>();
        let (gate, up, down) = (cast(&self.gate), cast(&self.up), cast(&self.down));
        Experts { gate, up, down, width: self.width, features: self.features }
    }
}

/// `y[t] = Σ_j gates[t, j] · expert_j(x[t]) + shared[t]` in the order of j; an id of `u32::MAX` adds nothing.
///
/// # Panics
/// Where a slice is shorter than the tokens say.
///
/// ```
/// use double_routing::reference::{Experts, feed_forward};
/// let experts = Experts { gate: vec![1.0; 2], up: vec![1.0; 2], down: vec![1.0; 2], width: 1, features: 1 };
/// let y = feed_forward(&experts, &[2.0], &[1, u32::MAX], &[0.5, 0.5], None);
/// assert_eq!(y, [0.5 * 2.0 / (1.0 + (-2.0f64).exp()) * 2.0]);
/// ```
pub fn feed_forward<T: Real>(experts: &Experts<T>, x: &[T], ids: &[u32], gates: &[T], shared: Option<&[T]>) -> Vec<T> {
    let features = experts.features;
    let tokens = x.len() / features;
    let each = ids.len().checked_div(tokens).unwrap_or(0);
    let mut y = Vec::with_capacity(x.len());
    for token in 0..tokens {
        let row = &x[token * features..][..features];
        let mut sum = vec![T::from_f64(0.0); features];
        for slot in token * each..(token + 1) * each {
            if ids[slot] != u32::MAX {
                let result = experts.run(row, &[ids[slot] as usize]);
                sum.iter_mut().zip(result).for_each(|(sum, result)| *sum += gates[slot] * result);
            }
        }
        if let Some(shared) = shared {
            sum.iter_mut().zip(&shared[token * features..]).for_each(|(sum, shared)| *sum += *shared);
        }
        y.extend(sum);
    }
    y
}

/// How far each element of an f32 evaluation of [`Experts::run`] may be, to first order: the bounds of the three products,
/// carried through silu, whose slope is at most 1.1, and through the last map.
///
/// # Panics
/// As [`Experts::run`].
///
/// ```
/// use double_routing::reference::{Experts, experts_bound};
/// let one = Experts { gate: vec![1.0], up: vec![1.0], down: vec![2.0], width: 1, features: 1 };
/// assert!(experts_bound(&one, &[1.0], &[0])[0] > 0.0);
/// ```
pub fn experts_bound(experts: &Experts<f64>, x: &[f64], ids: &[usize]) -> Vec<f64> {
    let Experts { width, features, .. } = *experts;
    let mut bounds = Vec::with_capacity(x.len());
    for (row, &expert) in x.chunks_exact(features).zip(ids) {
        let one = [expert];
        let offsets = apart(&one);
        let rows = PathRows { offsets: &offsets, order: None };
        let part = |values: &'_ [f64]| values[expert * width * features..][..width * features].to_vec();
        let (gate, up, down) = (part(&experts.gate), part(&experts.up), part(&experts.down));
        let weights = |b| PathWeights { b, bias: None, columns: width, depth: features };
        let gated = path_matmul(row, weights(&gate), rows, None);
        let of_gated = path_matmul_bound(row, weights(&gate), rows, None);
        let of_product = path_matmul_bound(row, weights(&up), rows, Some(&gated));
        let raised = path_matmul(row, weights(&up), rows, None);
        let of_hidden: Vec<f64> = (0..width).map(|at| of_product[at] + 1.1 * of_gated[at] * raised[at].abs()).collect();
        let hidden: Vec<f64> = (0..width).map(|at| silu(gated[at]) * raised[at]).collect();
        let product = Product { rows: 1, columns: features, depth: width, transposed: true, ..Product::default() };
        let carried = matmul(&of_hidden, &absolute(&down), None, &product);
        let own = matmul_bound(&hidden, &down, None, &product);
        bounds.extend(carried.iter().zip(own).map(|(carried, own)| carried + own));
    }
    bounds
}

/// How far each element of an f32 evaluation of [`feed_forward`] may be, without what `shared` is off: the experts' bounds, and e + 2
/// roundings of the weighted sum and what each gate is off, `of_gates`.
///
/// # Panics
/// As [`feed_forward`].
///
/// ```
/// use double_routing::reference::{Experts, feed_forward_bound};
/// let experts = Experts { gate: vec![1.0], up: vec![1.0], down: vec![1.0], width: 1, features: 1 };
/// assert!(feed_forward_bound(&experts, &[2.0], &[0], &[1.0], &[1e-7], None)[0] > 1e-7);
/// ```
pub fn feed_forward_bound(
    experts: &Experts<f64>,
    x: &[f64],
    ids: &[u32],
    gates: &[f64],
    of_gates: &[f64],
    shared: Option<&[f64]>,
) -> Vec<f64> {
    let features = experts.features;
    let tokens = x.len() / features;
    let each = ids.len().checked_div(tokens).unwrap_or(0);
    let roundings = (each + 2) as f64 * ROUNDING;
    let mut bounds = Vec::with_capacity(x.len());
    for token in 0..tokens {
        let row = &x[token * features..][..features];
        let mut bound: Vec<f64> = match shared {
            Some(shared) => absolute(&shared[token * features..][..features]).iter().map(|s| roundings * s).collect(),
            None => vec![0.0; features],
        };
        for slot in (token * each..(token + 1) * each).filter(|&slot| ids[slot] != u32::MAX) {
            let expert = [ids[slot] as usize];
            let (result, of_result) = (experts.run(row, &expert), experts_bound(experts, row, &expert));
            for at in 0..features {
                let magnitude = result[at].abs();
                bound[at] += gates[slot].abs() * (of_result[at] + roundings * magnitude) + of_gates[slot] * magnitude;
            }
        }
        bounds.extend(bound);
    }
    bounds
}
