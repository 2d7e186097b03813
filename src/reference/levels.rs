//! Both levels of the layer: some tokens are selected, and each of them takes some of several paths.

use super::{Forward, Layer, PathRule, Paths, path_gates, route_paths, select};

/// How a layer routes: which tokens, and which paths.
///
/// ```
/// use double_routing::reference::{Layer, TwoLevels};
/// let layer = Layer {
///     input: 1, attention: 1, routing: 1, output: 1,
///     embedding_weight: vec![1.0], embedding_bias: vec![0.0],
///     attention_weight: vec![1.0], attention_bias: vec![0.0],
///     routing1_weight: vec![1.0], routing1_bias: vec![1.0],
///     routing2_weight: vec![3.0], routing2_bias: vec![0.5],
/// };
/// // Of two tokens the one that weighs more; the other's y is 0.
/// let output = TwoLevels { count: Some(1), paths: None }.forward(&layer, &[1.0, 5.0], &[1, 2, 1], None);
/// assert_eq!((output.indices, output.y[0]), (vec![1], 0.0));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TwoLevels {
    /// k: the tokens of each sequence that are routed; all without it.
    pub count: Option<usize>,
    /// The paths, how many of them a token takes, and how they are chosen; routing2 alone without it.
    pub paths: Option<(Paths<f64>, usize, PathRule)>,
}

/// What both levels compute.
///
/// ```
/// # fn show(output: double_routing::reference::Routed) {
/// println!("{} tokens are routed", output.indices.len());
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Routed {
    /// The layer up to routing1, and for one path up to y, as if every token were routed.
    pub dense: Forward<f64>,
    /// The selected positions of each sequence, the heaviest first; `u32::MAX` where there are no more. Empty where all are routed.
    pub indices: Vec<u32>,
    /// The paths of each routed token and what they weigh. Empty where there is one.
    pub ids: Vec<u32>,
    /// `[rows, e]`.
    pub gates: Vec<f64>,
    /// What the paths are chosen by, `[rows, P]`; 0 for rows that are no token. Empty where there is one.
    pub path_logits: Vec<f64>,
    /// `[tokens, O]`: 0 for tokens that are not selected.
    pub y: Vec<f64>,
}

impl TwoLevels {
    /// The forward for `x` of `shape`: `[B, S, input]` where tokens are selected.
    ///
    /// # Panics
    /// As [`Layer::forward`].
    ///
    /// ```
    /// # fn run(levels: double_routing::reference::TwoLevels, layer: double_routing::reference::Layer<f64>, x: &[f64]) {
    /// let output = levels.forward(&layer, x, &[4, 9, layer.input], Some(&[9, 5, 1, 0]));
    /// # }
    /// ```
    pub fn forward(&self, layer: &Layer<f64>, x: &[f64], shape: &[usize], lengths: Option<&[u32]>) -> Routed {
        let dense = layer.forward(x, shape, lengths);
        let tokens = dense.w.len();
        let indices = match self.count {
            Some(count) => {
                let w: Vec<f32> = dense.w.iter().map(|&w| w as f32).collect();
                select(&w, shape[0], shape[1], count, lengths).0
            }
            None => Vec::new(),
        };
        let (mut ids, mut gates, mut path_logits) = (Vec::new(), Vec::new(), Vec::new());
        let width = self.width(layer);
        let mut y = vec![0.0; tokens * width];
        for token in self.rows(&indices, tokens, shape) {
            let Some((paths, each, rule)) = &self.paths else {
                if let Some(token) = token {
                    y[token * width..][..width].copy_from_slice(&dense.y[token * width..][..width]);
                }
                continue;
            };
            let chosen = match token {
                Some(token) => {
                    let row = &dense.routed[token * layer.routing..][..layer.routing];
                    let logits = paths.logits(row);
                    let chosen = route_paths(&logits, None, *each, *rule).ids;
                    let weights = path_gates(&logits, &chosen, *rule);
                    y[token * width..][..width].copy_from_slice(&paths.run(row, &chosen, &weights));
                    gates.extend(weights);
                    path_logits.extend(logits);
                    chosen
                }
                None => {
                    gates.extend(vec![0.0; *each]);
                    path_logits.extend(vec![0.0; paths.count]);
                    vec![u32::MAX; *each]
                }
            };
            ids.extend(chosen);
        }
        Routed { dense, indices, ids, gates, path_logits, y }
    }

    /// O.
    ///
    /// ```
    /// # fn show(levels: double_routing::reference::TwoLevels, layer: double_routing::reference::Layer<f64>) {
    /// println!("{} features", levels.width(&layer));
    /// # }
    /// ```
    pub fn width(&self, layer: &Layer<f64>) -> usize {
        self.paths.as_ref().map_or(layer.output, |(paths, ..)| paths.bias.len() / paths.count)
    }

    /// The token of each row that is routed: of every selected position, or of all tokens; `None` where there are no more.
    ///
    /// ```
    /// use double_routing::reference::TwoLevels;
    /// let levels = TwoLevels { count: Some(2), paths: None };
    /// assert_eq!(levels.rows(&[2, u32::MAX, 0, 1], 6, &[2, 3, 1]), [Some(2), None, Some(3), Some(4)]);
    /// ```
    pub fn rows(&self, indices: &[u32], tokens: usize, shape: &[usize]) -> Vec<Option<usize>> {
        let Some(count) = self.count else { return (0..tokens).map(Some).collect() };
        let token =
            |(at, &index): (usize, &u32)| (index != u32::MAX).then(|| at / count.max(1) * shape[1] + index as usize);
        indices.iter().enumerate().map(token).collect()
    }
}
