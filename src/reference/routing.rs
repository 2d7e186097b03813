//! The dense double-routing layer as its source writes it:
//! `h = embedding(x);  w = softmax(attention(h), dim=1);  y = routing2(routing1(h * w))`.

use super::{Axis, Product, ROUNDING, Real, attend, attend_bound, matmul, matmul_bound, route, softmax, softmax_bound};

/// The layer's weights, `nn.Linear` layout `[out, in]`, row-major.
///
/// ```
/// use double_routing::reference::Layer;
/// let layer = Layer {
///     input: 1, attention: 1, routing: 1, output: 1,
///     embedding_weight: vec![2.0], embedding_bias: vec![0.0],
///     attention_weight: vec![1.0], attention_bias: vec![0.0],
///     routing1_weight: vec![1.0], routing1_bias: vec![1.0],
///     routing2_weight: vec![3.0], routing2_bias: vec![0.5],
/// };
/// // Rank 2: axis 1 of the logits has size 1, so every weight is 1.
/// let forward = layer.forward(&[1.0, 2.0], &[2, 1], None);
/// assert_eq!((forward.w, forward.y), (vec![1.0, 1.0], vec![9.5, 15.5]));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Layer<T> {
    /// Features of a token.
    pub input: usize,
    /// A: the dimension of the embedding.
    pub attention: usize,
    /// R: the dimension between the two routings.
    pub routing: usize,
    /// O: features of a result.
    pub output: usize,
    /// `[A, in]`.
    pub embedding_weight: Vec<T>,
    /// `[A]`.
    pub embedding_bias: Vec<T>,
    /// `[1, A]`.
    pub attention_weight: Vec<T>,
    /// `[1]`.
    pub attention_bias: Vec<T>,
    /// `[R, A]`.
    pub routing1_weight: Vec<T>,
    /// `[R]`.
    pub routing1_bias: Vec<T>,
    /// `[O, R]`.
    pub routing2_weight: Vec<T>,
    /// `[O]`.
    pub routing2_bias: Vec<T>,
}

/// The paths of a second level that has several: `path_gate` scores them, and each has a routing2 of its own.
///
/// ```
/// use double_routing::reference::Paths;
/// let paths = Paths {
///     count: 2, gate_weight: vec![1.0, -1.0], gate_bias: vec![0.0, 0.0],
///     weight: vec![2.0, 3.0], bias: vec![0.0, 1.0],
/// };
/// assert_eq!(paths.logits(&[0.5]), [0.5, -0.5]);
/// assert_eq!(paths.run(&[0.5], &[1, 0], &[0.5, 0.5]), [0.5 * 2.5 + 0.5 * 1.0]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Paths<T> {
    /// P.
    pub count: usize,
    /// `[P, R]`.
    pub gate_weight: Vec<T>,
    /// `[P]`.
    pub gate_bias: Vec<T>,
    /// `[P, O, R]`.
    pub weight: Vec<T>,
    /// `[P, O]`.
    pub bias: Vec<T>,
}

impl<T: Real> Paths<T> {
    /// The logit of every path for a row `h' [R]`.
    ///
    /// # Panics
    /// Where the row is shorter than the weights say.
    ///
    /// ```
    /// # fn show(paths: double_routing::reference::Paths<f64>, routed: &[f64]) {
    /// assert_eq!(paths.logits(routed).len(), paths.count);
    /// # }
    /// ```
    pub fn logits(&self, row: &[T]) -> Vec<T> {
        let product =
            Product { rows: 1, columns: self.count, depth: row.len(), transposed: true, ..Product::default() };
        matmul(row, &self.gate_weight, Some(&self.gate_bias), &product)
    }

    /// `Σ_j gates[j] · (routing2_j(row))` over the paths `ids`; one of `u32::MAX` adds nothing.
    ///
    /// # Panics
    /// As [`Paths::logits`].
    ///
    /// ```
    /// # fn show(paths: double_routing::reference::Paths<f64>, routed: &[f64]) {
    /// let y = paths.run(routed, &[3, 1], &[0.75, 0.25]);
    /// # }
    /// ```
    pub fn run(&self, row: &[T], ids: &[u32], gates: &[T]) -> Vec<T> {
        let output = self.bias.len() / self.count;
        let mut y = vec![T::from_f64(0.0); output];
        for (&id, &gate) in ids.iter().zip(gates).filter(|(id, _)| **id != u32::MAX) {
            let result = self.one(row, id as usize);
            y.iter_mut().zip(result).for_each(|(y, result)| *y += gate * result);
        }
        y
    }

    /// One path's result.
    fn one(&self, row: &[T], path: usize) -> Vec<T> {
        let output = self.bias.len() / self.count;
        let weight = &self.weight[path * output * row.len()..][..output * row.len()];
        let product = Product { rows: 1, columns: output, depth: row.len(), transposed: true, ..Product::default() };
        matmul(row, weight, Some(&self.bias[path * output..][..output]), &product)
    }

    /// The same paths in another arithmetic.
    ///
    /// ```
    /// # fn yardstick(paths: double_routing::reference::Paths<f64>) -> double_routing::reference::Paths<f32> {
    /// paths.cast()
    /// # }
    /// ```
    pub fn cast<U: Real>(&self) -> Paths<U> {
        let cast = |values: &[T]| values.iter().map(|value| U::from_f64(value.to_f64())).collect::<Vec<U>>();
        Paths {
            count: self.count,
            gate_weight: cast(&self.gate_weight),
            gate_bias: cast(&self.gate_bias),
            weight: cast(&self.weight),
            bias: cast(&self.bias),
        }
    }
}

/// What a forward computes, each token's row after the other's, and what all tokens share.
///
/// ```
/// # fn show(forward: double_routing::reference::Forward<f64>) {
/// println!("{} tokens, d = {:?}", forward.w.len(), forward.d);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Forward<T> {
    /// The embedding, `[tokens, A]`.
    pub h: Vec<T>,
    /// The attention logits, `[tokens]`.
    pub logits: Vec<T>,
    /// The routing weights, `[tokens]`.
    pub w: Vec<T>,
    /// `routing1(h * w)`, `[tokens, R]`.
    pub routed: Vec<T>,
    /// The result, `[tokens, O]`.
    pub y: Vec<T>,
    /// `routing2(routing1.bias)`, `[O]`: the part of y that every token shares.
    pub d: Vec<T>,
}

/// The axis of the logits over which PyTorch's `softmax(dim=1)` runs, for x of this shape (rank 2 or more).
fn dim_1(shape: &[usize]) -> Axis {
    let inner = shape.get(2..shape.len() - 1).map_or(1, |inner| inner.iter().product());
    Axis { outer: shape[0], length: if shape.len() > 2 { shape[1] } else { 1 }, inner }
}

impl<T: Real> Layer<T> {
    /// The forward for `x` of `shape`, whose last dimension is `input` and whose rank is at least 2. `lengths`, one for each
    /// index of axis 0, says how many positions of axis 1 are unmasked.
    ///
    /// # Panics
    /// Where a slice is shorter than the shape says.
    ///
    /// ```
    /// # fn run(layer: double_routing::reference::Layer<f64>, x: &[f64]) {
    /// // 4 sequences of 9 tokens, of which 9, 5, 1 and 0 count.
    /// let forward = layer.forward(x, &[4, 9, layer.input], Some(&[9, 5, 1, 0]));
    /// assert_eq!(forward.w.len(), 36);
    /// # }
    /// ```
    pub fn forward(&self, x: &[T], shape: &[usize], lengths: Option<&[u32]>) -> Forward<T> {
        let zero = T::from_f64(0.0);
        let tokens: usize = shape[..shape.len() - 1].iter().product();
        let linear = |x: &[T], weight: &[T], bias: &[T], rows: usize, depth: usize| {
            let product = Product { rows, columns: bias.len(), depth, transposed: true, ..Product::default() };
            matmul(x, weight, Some(bias), &product)
        };
        let h = linear(x, &self.embedding_weight, &self.embedding_bias, tokens, self.input);
        let logits = attend(&h, &self.attention_weight, self.attention_bias[0], tokens);
        let w = softmax(&logits, dim_1(shape), lengths);
        let nothing = vec![zero; self.routing];
        let routed = route(&h, &self.routing1_weight, &w, &nothing, &self.routing1_bias, self.attention);
        let y = linear(&routed, &self.routing2_weight, &self.routing2_bias, tokens, self.routing);
        let d = linear(&self.routing1_bias, &self.routing2_weight, &self.routing2_bias, 1, self.routing);
        Forward { h, logits, w, routed, y, d }
    }

    /// The same weights in another arithmetic.
    ///
    /// ```
    /// # fn yardstick(layer: double_routing::reference::Layer<f64>) -> double_routing::reference::Layer<f32> {
    /// layer.cast()
    /// # }
    /// ```
    pub fn cast<U: Real>(&self) -> Layer<U> {
        let cast = |values: &[T]| values.iter().map(|value| U::from_f64(value.to_f64())).collect::<Vec<U>>();
        Layer {
            input: self.input,
            attention: self.attention,
            routing: self.routing,
            output: self.output,
            embedding_weight: cast(&self.embedding_weight),
            embedding_bias: cast(&self.embedding_bias),
            attention_weight: cast(&self.attention_weight),
            attention_bias: cast(&self.attention_bias),
            routing1_weight: cast(&self.routing1_weight),
            routing1_bias: cast(&self.routing1_bias),
            routing2_weight: cast(&self.routing2_weight),
            routing2_bias: cast(&self.routing2_bias),
        }
    }
}

impl Paths<f64> {
    /// How far the logits and the result of a row of an f32 evaluation may be where the row is off by `of_row` and the gates by
    /// `of_gates`, to first order: (bound of each logit, bound of each element of [`Paths::run`]).
    ///
    /// # Panics
    /// As [`Paths::logits`].
    ///
    /// ```
    /// # fn bounds(paths: double_routing::reference::Paths<f64>, row: &[f64], of_row: &[f64]) {
    /// let (of_logits, of_y) = paths.bounds(row, of_row, &[0], &[1.0], &[1e-7]);
    /// # }
    /// ```
    pub fn bounds(
        &self,
        row: &[f64],
        of_row: &[f64],
        ids: &[u32],
        gates: &[f64],
        of_gates: &[f64],
    ) -> (Vec<f64>, Vec<f64>) {
        let depth = row.len();
        let map = |weight: &[f64], bias: &[f64]| -> Vec<f64> {
            let columns = bias.len();
            let product = Product { rows: 1, columns, depth, transposed: true, ..Product::default() };
            let own = matmul_bound(row, weight, Some(bias), &product);
            carry(of_row, weight, 1, columns, depth).iter().zip(own).map(|(carried, own)| carried + own).collect()
        };
        let output = self.bias.len() / self.count;
        let mut of_y = vec![0.0; output];
        let roundings = (ids.len() + 2) as f64 * ROUNDING;
        for (slot, &id) in ids.iter().enumerate().filter(|(_, id)| **id != u32::MAX) {
            let path = id as usize;
            let weight = &self.weight[path * output * depth..][..output * depth];
            let of_result = map(weight, &self.bias[path * output..][..output]);
            for (at, result) in self.one(row, path).into_iter().enumerate() {
                of_y[at] +=
                    gates[slot].abs() * (of_result[at] + roundings * result.abs()) + of_gates[slot] * result.abs();
            }
        }
        (map(&self.gate_weight, &self.gate_bias), of_y)
    }
}

impl Layer<f64> {
    /// How far each element of `w` and of `y` of an f32 evaluation may be from `forward`, to first order: the bounds of the
    /// kernels, carried from stage to stage. It holds for the layer as written and for every folding of its maps, since a
    /// folded map's magnitudes are at most the products of the maps' magnitudes. Returns (bound of w, bound of y).
    ///
    /// # Panics
    /// Where `forward` is not of this layer, `x` and `shape`.
    ///
    /// ```
    /// # fn bounds(layer: double_routing::reference::Layer<f64>, x: &[f64], shape: &[usize]) {
    /// let forward = layer.forward(x, shape, None);
    /// let (of_w, of_y) = layer.bounds(&forward, x, shape, None);
    /// assert_eq!((of_w.len(), of_y.len()), (forward.w.len(), forward.y.len()));
    /// # }
    /// ```
    pub fn bounds(
        &self,
        forward: &Forward<f64>,
        x: &[f64],
        shape: &[usize],
        lengths: Option<&[u32]>,
    ) -> (Vec<f64>, Vec<f64>) {
        let (of_w, of_routed) = self.routed_bounds(forward, x, shape, lengths);
        let (tokens, output, routing) = (forward.w.len(), self.output, self.routing);
        let product = Product { rows: tokens, columns: output, depth: routing, transposed: true, ..Product::default() };
        let of_y = carry(&of_routed, &self.routing2_weight, tokens, output, routing)
            .into_iter()
            .zip(matmul_bound(&forward.routed, &self.routing2_weight, Some(&self.routing2_bias), &product))
            .map(|(carried, own)| carried + own)
            .collect();
        (of_w, of_y)
    }

    /// As [`Layer::bounds`], for what is before routing2: (bound of w, bound of `routed`).
    ///
    /// # Panics
    /// As [`Layer::bounds`].
    ///
    /// ```
    /// # fn bounds(layer: double_routing::reference::Layer<f64>, x: &[f64], shape: &[usize]) {
    /// let forward = layer.forward(x, shape, None);
    /// let (of_w, of_routed) = layer.routed_bounds(&forward, x, shape, None);
    /// assert_eq!((of_w.len(), of_routed.len()), (forward.w.len(), forward.routed.len()));
    /// # }
    /// ```
    pub fn routed_bounds(
        &self,
        forward: &Forward<f64>,
        x: &[f64],
        shape: &[usize],
        lengths: Option<&[u32]>,
    ) -> (Vec<f64>, Vec<f64>) {
        let tokens = forward.w.len();
        let product = |columns, depth| Product { rows: tokens, columns, depth, transposed: true, ..Product::default() };
        let carry = |errors: &[f64], weight: &[f64], columns, depth| carry(errors, weight, tokens, columns, depth);
        let (inputs, attention, routing) = (self.input, self.attention, self.routing);

        let of_h = matmul_bound(x, &self.embedding_weight, Some(&self.embedding_bias), &product(attention, inputs));
        let of_logits: Vec<f64> = carry(&of_h, &self.attention_weight, 1, attention)
            .into_iter()
            .zip(attend_bound(&forward.h, &self.attention_weight, self.attention_bias[0], tokens))
            .map(|(carried, own)| carried + own)
            .collect();

        // Softmax of logits that are off by δ: each weight is off by the factor exp(δ_t − Σ w δ), whichever the signs.
        let axis = dim_1(shape);
        let own = softmax_bound(&forward.logits, axis, lengths);
        let mut of_w = vec![0.0; tokens];
        for outer in 0..axis.outer {
            for inner in 0..axis.inner {
                let at = |position: usize| (outer * axis.length + position) * axis.inner + inner;
                let mean: f64 = (0..axis.length).map(|p| forward.w[at(p)] * of_logits[at(p)]).sum();
                for position in 0..axis.length {
                    let at = at(position);
                    if own[at] > 0.0 {
                        of_w[at] = own[at] + forward.w[at] * (of_logits[at] + mean);
                    }
                }
            }
        }

        // Before the weights: what routing1 makes of h, its magnitudes and its error.
        let ones = vec![1.0; tokens];
        let nothing = vec![0.0; routing];
        let unweighted = route(&forward.h, &self.routing1_weight, &ones, &nothing, &nothing, attention);
        let carried = carry(&of_h, &self.routing1_weight, routing, attention);
        let rounded =
            super::route_bound(&forward.h, &self.routing1_weight, &ones, &nothing, &self.routing1_bias, attention);
        // The part of the rounding that the shared bias causes is not weighted.
        let shared: Vec<f64> = self.routing1_bias.iter().map(|bias| ROUNDING * bias.abs()).collect();
        let of_routed: Vec<f64> = (0..tokens * routing)
            .map(|at| {
                let token = at / routing;
                let bias = shared[at % routing];
                forward.w[token] * (carried[at] + rounded[at] - bias) + of_w[token] * unweighted[at].abs() + bias
            })
            .collect();
        (of_w, of_routed)
    }
}

/// An error carried through a linear map grows by the map's magnitudes.
fn carry(errors: &[f64], weight: &[f64], rows: usize, columns: usize, depth: usize) -> Vec<f64> {
    let magnitudes: Vec<f64> = weight.iter().map(|value| value.abs()).collect();
    matmul(errors, &magnitudes, None, &Product { rows, columns, depth, transposed: true, ..Product::default() })
}

/// The error of `y` by its signal: ‖y − y64‖ / ‖y64 − d64‖ over all elements, where `truth` is the f64 forward.
///
/// y is nearly constant (the weights average 1/S, so tokens differ by a small signal on top of the shared d), and a
/// comparison relative to y itself would pass with everything broken. Without a signal (all weights 0) the error counts
/// relative to ‖y64‖.
///
/// # Panics
/// Where `y` is shorter than the truth.
///
/// ```
/// use double_routing::reference::{Forward, signal_error};
/// let truth = Forward { h: vec![], logits: vec![], w: vec![1.0], routed: vec![], y: vec![100.01], d: vec![100.0] };
/// // A tenth of a percent of y is ten times the whole signal.
/// assert!(signal_error(&[100.11], &truth) > 9.0);
/// ```
pub fn signal_error(y: &[f32], truth: &Forward<f64>) -> f64 {
    let (mut error, mut signal, mut size) = (0.0, 0.0, 0.0);
    for (at, &exact) in truth.y.iter().enumerate() {
        error += (f64::from(y[at]) - exact).powi(2);
        signal += (exact - truth.d[at % truth.d.len()]).powi(2);
        size += exact.powi(2);
    }
    let scale = if signal > 0.0 { signal } else { size };
    if error == 0.0 { 0.0 } else { (error / scale).sqrt() }
}
