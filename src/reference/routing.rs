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
        let tokens = forward.w.len();
        let product = |columns, depth| Product { rows: tokens, columns, depth, transposed: true, ..Product::default() };
        let absolute = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<f64>>();
        // An error carried through a linear map grows by the map's magnitudes.
        let carry = |errors: &[f64], weight: &[f64], columns, depth| {
            matmul(errors, &absolute(weight), None, &product(columns, depth))
        };
        let (inputs, attention, routing, output) = (self.input, self.attention, self.routing, self.output);

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
        let of_y = carry(&of_routed, &self.routing2_weight, output, routing)
            .into_iter()
            .zip(matmul_bound(
                &forward.routed,
                &self.routing2_weight,
                Some(&self.routing2_bias),
                &product(output, routing),
            ))
            .map(|(carried, own)| carried + own)
            .collect();
        (of_w, of_y)
    }
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
